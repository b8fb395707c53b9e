"""Offsite tuning: names, layers, what is trained, and putting it back."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from clients.tasks.lm.measure import NextTokenFigures
from clients.tasks.lm.models import Pretrained
from clients.tasks.lm.offsite import (
    Offsite,
    PluggedIn,
    emulator,
    kept,
    reduced,
    whole,
    write_emulator,
)
from clients.tasks.lm.tasks import Shakespeare
from fedcore.errors import ConfigError
from fedcore.task import load, params_of

VOCABULARY, WIDTH = 11, 4


class Layer(nn.Module):
    """Adds what it computes, as a transformer's layer does."""

    def __init__(self, index):
        super().__init__()
        self.layer_idx = index
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x + torch.tanh(self.linear(x))


@dataclass
class Config:
    num_hidden_layers: int
    layer_types: list[str]


@dataclass
class Out:
    logits: torch.Tensor


class Core(nn.Module):
    """The outside of a Hugging Face causal model with five layers."""

    def __init__(self):
        super().__init__()
        self.config = Config(5, list("abcde"))
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.body = nn.Module()
        self.body.layers = nn.ModuleList(map(Layer, range(5)))
        self.body.config = self.config

    def forward(self, input_ids, use_cache):
        x = self.embed(input_ids)
        for layer in self.body.layers:
            x = layer(x)
        return Out(x @ self.embed.weight.T)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return Pretrained(Core().requires_grad_(False), words=None, context=99)


TOKENS = torch.arange(12).view(2, 6) % VOCABULARY


def test_layers_are_evenly_chosen():
    assert kept(10, 0.5) == [1, 3, 5, 7, 9]
    assert kept(3, 1 / 3) == [1]
    assert kept(4, 1.0) == [0, 1, 2, 3]
    assert kept(6, 0.01) == [3]
    assert Offsite(0.5, ends=2).layers(8) == [0, 1, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Offsite(1.5), "task.offsite is 1.5"),
        (lambda: Offsite(0.5, ends=0), "task.ends is 0"),
        (lambda: Offsite(0.5, ends=2).layers(4), "leaves none between"),
    ],
)
def test_what_cannot_be_cut_is_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


def test_it_goes_with_no_other_way_to_tune():
    assert Shakespeare().cut() is None
    assert Shakespeare(offsite=0.5, ends=2).cut() == Offsite(0.5, 2)
    with pytest.raises(ConfigError, match="leave one of them out"):
        Shakespeare(offsite=0.5, tune="lora").cut()


def test_a_model_without_layers_is_refused(model):
    flat = Pretrained(nn.Linear(2, 2), words=None, context=9)
    with pytest.raises(ConfigError, match="Linear has no list of layers"):
        emulator(flat, Offsite(0.5))


def test_only_the_ends_are_trained_and_their_names_do_not_count_layers(model):
    cut = emulator(model, Offsite(0.4))
    names = {
        f"net.{end}.0.linear.{n}"
        for end in ("first", "last")
        for n in ("weight", "bias")
    }
    assert set(params_of(cut)) == names
    assert set(params_of(whole(model, Offsite(0.4)))) == names
    assert len(cut.net.inner.core.body.layers) == 3


def test_the_whole_is_the_model_until_it_is_trained(model):
    want = model.core(input_ids=TOKENS, use_cache=False).logits.transpose(1, 2)
    assert torch.equal(whole(model, Offsite(0.4))(TOKENS), want)
    assert not torch.equal(emulator(model, Offsite(0.4))(TOKENS), want)


def test_training_leaves_the_pretrained_model_alone(model):
    before = {n: t.clone() for n, t in model.core.state_dict().items()}
    cut = emulator(model, Offsite(0.4))
    with torch.no_grad():
        for p in cut.parameters():
            if p.requires_grad:
                p += 1
    assert all(torch.equal(before[n], t) for n, t in model.core.state_dict().items())
    assert model.core.config.num_hidden_layers == 5


def test_a_cut_model_says_what_it_is(model):
    core = reduced(model.core, [0, 2, 4])
    assert (core.config.num_hidden_layers, core.config.layer_types) == (3, list("ace"))
    assert core.body.config is core.config
    assert [layer.layer_idx for layer in core.body.layers] == [0, 1, 2]
    assert [layer.layer_idx for layer in model.core.body.layers] == [0, 1, 2, 3, 4]


def test_figures_are_those_of_the_whole_and_of_the_emulator(model):
    offsite, figures = Offsite(0.4), NextTokenFigures(VOCABULARY)
    cut = emulator(model, offsite)
    learnt = {n: t + 0.3 for n, t in params_of(cut).items()}
    load(cut, learnt)
    told = PluggedIn(figures, model, offsite)(cut, TOKENS, TOKENS)
    inside = figures(load(whole(model, offsite), learnt), TOKENS, TOKENS)
    outside = figures(cut, TOKENS, TOKENS)
    assert {n: told[n] for n in inside} == inside
    assert told["emulator_perplexity"] == outside["perplexity"]
    assert inside["loss"] != outside["loss"]


@pytest.mark.slow
def test_a_client_without_the_model_answers_with_the_same_tensors(tmp_path):
    """It has the folder of the emulator, and takes all that lies between its ends."""
    from clients.tasks.lm.models import causal

    glass = causal("glass")
    write_emulator(glass, Offsite(0.5), tmp_path)
    theirs = emulator(causal(str(tmp_path)), Offsite(1.0))
    ours = emulator(glass, Offsite(0.5))
    assert params_of(theirs).keys() == params_of(ours).keys()
    tokens = torch.arange(4, 36).view(2, 16)
    torch.testing.assert_close(theirs(tokens), ours(tokens))
    assert sum(p.numel() for p in theirs.parameters()) < 852_608
