"""What is trained travels and is copied; what is frozen is shared."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from clients.tasks.dataset import Dataset
from clients.tasks.lm.net import NextToken, Sharing, shallow
from clients.trainers.sgd import SGD
from fedcore.strategy import Work
from fedcore.task import load, params_of


class Told:
    def __init__(self, logits):
        self.logits = logits


class Core(nn.Module):
    """A causal model in the form of Hugging Face's, with a tied output."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))

    def get_input_embeddings(self):
        return self.embed

    def forward(self, input_ids=None, inputs_embeds=None, *, use_cache):
        assert not use_cache
        e = self.embed(input_ids) if inputs_embeds is None else inputs_embeds
        return Told(self.out(self.drop(e.cumsum(1))))


def prompted():
    torch.manual_seed(0)
    return Sharing(NextToken(Core().requires_grad_(False), torch.ones(2, 4)))


def test_the_state_has_what_is_trained_once():
    assert set(params_of(prompted())) == {"net.prompt"}
    whole = Sharing(NextToken(Core()))
    assert set(params_of(whole)) == {"net.core.embed.weight", "net.core.seen"}
    assert set(dict(whole.named_parameters())) < set(params_of(whole))


def test_the_digest_of_the_data_knows_what_is_frozen_and_not_what_is_trained():
    """Or else a run would go on upon another pretrained model, and nobody would say."""
    rows = torch.zeros(2, 3, dtype=torch.int64)

    def found(tensor, change):
        def made():
            model = prompted()
            with torch.no_grad():
                model.net.get_parameter(tensor).add_(change)
            return model

        return Dataset("told", (rows, rows), (rows, rows), made).digest()

    assert found("prompt", 0.0) == found("prompt", 1.0)
    assert found("core.embed.weight", 0.0) != found("core.embed.weight", 1.0)


def test_copies_share_what_is_frozen_and_own_what_is_trained():
    model = prompted()
    copy = deepcopy(model)
    assert copy.net.core.embed.weight is model.net.core.embed.weight
    assert copy.net.core.out.weight is copy.net.core.embed.weight
    assert copy.net.core is not model.net.core
    assert copy.net.prompt is not model.net.prompt
    assert torch.equal(copy.net.prompt, model.net.prompt)
    load(copy, {"net.prompt": torch.zeros(2, 4)})
    assert float(model.net.prompt.detach().sum()) == 8
    assert set(copy.state_dict()) == {"net.prompt"}


def test_moving_a_copy_leaves_the_others_where_they_are():
    model = prompted()
    first, second = deepcopy(model).to("meta"), deepcopy(model).to("meta")
    assert model.net.core.embed.weight.device.type == "cpu"
    assert first.net.core.embed.weight.is_meta
    assert first.net.core.embed.weight is second.net.core.embed.weight  # moved once
    assert first.net.core.out.weight is first.net.core.embed.weight
    assert deepcopy(model)(torch.zeros(1, 3, dtype=torch.int64)).shape == (1, 7, 3)


def test_shallow_copies_have_modules_of_their_own():
    core = Core()
    copy = shallow(core)
    copy.out = nn.Linear(4, 7)
    assert copy.embed.weight is core.embed.weight
    assert core.out.weight is core.embed.weight


def test_a_prompt_is_seen_and_its_scores_are_left_out():
    model = prompted().eval()
    x = torch.tensor([[1, 2, 3]])
    plain = NextToken(model.net.core)(x)
    assert model(x).shape == plain.shape == (1, 7, 3)
    moved = model.net.core.out(torch.full((4,), 2.0))  # two vectors of ones before it
    assert torch.allclose(model(x), plain + moved[:, None], atol=1e-5)


def tiny(model):
    x = torch.arange(40).reshape(8, 5) % 7
    return Dataset("tiny", (x, (x + 1) % 7), (x, (x + 1) % 7), model, metrics={})


@pytest.mark.parametrize("model", [prompted, lambda: Sharing(NextToken(Core()))])
def test_trainers_need_to_know_nothing_of_it(model):
    data = tiny(model)
    start = data.start(1)
    work = Work(0, start, steps=20)
    update = SGD(lr=0.5)(data.whole(), work, "peer-00000")
    assert set(update.payload) == set(start)
    now = {name: t + update.payload[name] for name, t in start.items()}
    before, after = (
        data.whole().evaluate(load(data.new_model(), p))["loss"] for p in (start, now)
    )
    assert after < before
    again = SGD(lr=0.5)(data.whole(), work, "peer-00000")
    assert all(torch.equal(again.payload[n], t) for n, t in update.payload.items())
