"""Real pretrained models. Importing transformers takes seconds, so these are slow."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from clients.tasks import load_task
from clients.tasks.lm import models
from clients.tasks.lm.fetch import found
from clients.tasks.lm.glass import glass_words
from clients.tasks.lm.models import causal
from clients.tasks.lm.tasks import OwnClasses, OwnText
from clients.tasks.lm.tune import Tune, next_token
from clients.trainers.sgd import SGD
from fedcore.errors import ConfigError
from fedcore.strategy import Work
from fedcore.task import load, params_of

pytest.importorskip("glassllm")
TEXT = "“Who are you?” said the Caterpillar — to Alice\n\nin surprise;  naïve § tokens."


def test_the_tokens_of_glass_are_those_of_its_package():
    from glassllm import load_pretrained

    for language in ("en", "pt"):
        theirs, ours = load_pretrained(language)[1], glass_words(language)
        assert ours.size == theirs.vocab_size
        assert ours.numbers(TEXT) == theirs.encode(TEXT)
        plain = "The Queen\nsaid  nothing."
        assert ours.text(ours.numbers(plain)) == plain


def test_half_a_character_is_no_prompt():
    with pytest.raises(ConfigError, match="is no Unicode text"):
        glass_words("en").numbers("a\udcff")  # as a shell hands over the byte FF


def test_packages_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(models, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="transformers, tokenizers, peft is missing"):
        models.libraries()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "language"), [("glass", "en"), ("glass-pt", "pt")])
def test_the_scores_of_glass_are_those_of_its_package(name, language):
    from glassllm import load_pretrained

    model, words = load_pretrained(language)
    x = np.array([words.encode(TEXT)[:30], words.encode("said the king " * 9)[:30]])
    with torch.no_grad():
        ours = next_token(causal(name), Tune())(torch.tensor(x)).transpose(1, 2)
    assert float((ours - torch.from_numpy(model(x).data)).abs().max()) < 1e-4


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def rhymes(tmp_path):
    lines = [
        {"text": "the cat sat on the mat, " * 4, "user": f"u{i}"} for i in range(4)
    ]
    return write_lines(tmp_path / "rhymes.jsonl", lines)


def trained(data, steps=3, lr=0.1):
    start = data.start(1)
    work = Work(0, start, steps=steps)
    update = SGD(lr=lr)(data.whole(), work, "peer-00000")
    return start, update


def figures(data, start, update):
    """Return the figures before and after ``update``."""
    now = {n: t + update.payload[n] for n, t in start.items()}
    own = data.new_model()
    return [data.whole().evaluate(load(own, params)) for params in (start, now)]


TUNED = [
    {},
    {"tune": "lora", "rank": 4},
    {"tune": "prompt", "rank": 5},
    {"dtype": "bfloat16"},
    {"dtype": "bfloat16", "tune": "lora"},
]


@pytest.mark.slow
@pytest.mark.parametrize("how", TUNED, ids=str)
def test_every_way_to_tune_learns_and_repeats_its_bits(how, rhymes):
    data = OwnText(data=rhymes, window=24, batch_size=4, **how).dataset()
    start, update = trained(data)
    own = data.new_model()
    assert set(start) == set(update.payload) == set(own.state_dict())
    whole = how.get("dtype") and "tune" not in how
    kinds = {t.dtype for t in (*start.values(), *update.payload.values())}
    assert kinds == {torch.bfloat16 if whole else torch.float32}
    assert set(start) >= {n for n, p in own.named_parameters() if p.requires_grad}
    before, after = figures(data, start, update)
    assert after["loss"] < before["loss"]
    assert after["perplexity"] == pytest.approx(np.exp(after["loss"]))
    again = trained(data)[1]
    assert all(torch.equal(t, update.payload[n]) for n, t in again.payload.items())


@pytest.mark.slow
def test_adapters_are_small_and_all_else_is_shared(rhymes):
    data = OwnText(data=rhymes, window=24, tune="lora", rank=4).dataset()
    start = data.start(1)
    assert sum(t.numel() for t in start.values()) == 4 * 4 * (256 + 192 + 192 + 256)
    assert all("lora_" in name for name in start)
    first, second = data.new_model(), data.new_model()
    frozen = [p for p in first.parameters() if not p.requires_grad]
    shared = {id(p) for p in second.parameters()}
    assert sum(p.numel() for p in frozen) == 852_608
    assert all(id(p) in shared for p in frozen)
    with torch.no_grad():  # a new adapter changes nothing
        x = data.train[0][:2]
        plain = next_token(causal("glass"), Tune())(x)
        assert torch.allclose(load(first, start).eval()(x), plain, atol=1e-5)


@pytest.mark.slow
def test_checkpointing_changes_no_gradient(rhymes):
    payloads = [
        trained(OwnText(data=rhymes, window=24, checkpointing=on).dataset())[1].payload
        for on in (False, True)
    ]
    assert all(torch.equal(t, payloads[1][n]) for n, t in payloads[0].items())


@pytest.mark.slow
def test_a_model_from_the_registry_is_never_written_into(rhymes):
    before = deepcopy(causal("glass").core.state_dict())
    for how in ({}, {"tune": "lora"}):
        trained(OwnText(data=rhymes, window=24, **how).dataset())
    after = causal("glass").core.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    assert not any(p.requires_grad for p in causal("glass").core.parameters())


@pytest.mark.slow
def test_answers_are_learned_by_heart(tmp_path):
    pairs = [("red", "rose"), ("blue", "sky"), ("green", "tree"), ("white", "hare")] * 3
    rows = [
        {"instruction": f"What is {a}?", "output": b, "user": str(i // 4)}
        for i, (a, b) in enumerate(pairs)
    ]
    path = write_lines(tmp_path / "quiz.jsonl", rows)
    data = OwnText(data=path, window=24, batch_size=4, test_share=0.34).dataset()
    before, after = figures(data, *trained(data, steps=40))
    assert before["exact_match"] == 0
    assert after["exact_match"] == 1


@pytest.mark.slow
def test_texts_are_sorted_into_classes(tmp_path):
    rows = [
        {"text": text * 3, "label": label, "user": str(i)}
        for i in range(6)
        for text, label in (("said the queen ", "who"), ("on the table ", "where"))
    ]
    path = write_lines(tmp_path / "labels.jsonl", rows)
    task = OwnClasses(data=path, tune="lora", window=16, batch_size=4)
    data = task.dataset()
    start, update = trained(data, steps=12)
    assert {"net.head.weight", "net.head.bias"} <= set(start)
    before, after = figures(data, start, update)
    assert after["loss"] < before["loss"] / 2
    assert after["accuracy"] == 1


@pytest.fixture
def folder(tmp_path):
    """A folder as Hugging Face writes it, with the given model."""

    def write(model):
        home = tmp_path / type(model).__name__
        model.save_pretrained(home)
        vocabulary = {
            w: i for i, w in enumerate(["[UNK]", "[PAD]", "a", "b", "c", "."])
        }
        tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
        tokenizer.pre_tokenizer = Whitespace()
        tokenizer.save(str(home / "tokenizer.json"))
        return home

    return write


def gpt2():
    from transformers import GPT2Config, GPT2LMHeadModel

    size = {"n_positions": 16, "n_embd": 8, "n_layer": 1, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(vocab_size=8, **size, eos_token_id=5))


def bert():
    from transformers import BertConfig, BertForSequenceClassification

    size = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    more = {"intermediate_size": 8, "max_position_embeddings": 16, "num_labels": 2}
    config = BertConfig(vocab_size=8, pad_token_id=1, **size, **more)
    return BertForSequenceClassification(config)


LABELLED = [
    {"text": f"{t} .", "label": t, "user": f"u{i % 4}"}
    for i, t in enumerate("abababababab")
]


@pytest.mark.slow
def test_folders_of_other_kinds_of_model_are_taken(folder, tmp_path):
    path = write_lines(tmp_path / "abc.jsonl", LABELLED)
    for how in ({}, {"tune": "lora", "rank": 2}, {"tune": "prompt", "rank": 2}):
        given = {"model": f"{folder(gpt2())}/", "data": path, "window": "8", **how}
        trained(load_task("lm-own", given), steps=2, lr=0.1)
    for how in ({}, {"tune": "lora", "rank": 2}):
        home = folder(bert())
        given = {"model": f"{home}/", "data": path, "window": "8", **how}
        data = load_task("lm-own-classes", given)
        start, update = trained(data, steps=2, lr=0.1)
        head = "net.core.classifier.weight"
        assert float(update.payload[head].abs().max()) > 0
        assert torch.equal(start[head], params_of(data.new_model())[head])


def spoiled(home, name, text):
    (home / name).write_text(text)


@pytest.mark.slow
def test_folders_that_cannot_be_used_are_refused(folder, tmp_path):
    path = write_lines(tmp_path / "abc.jsonl", LABELLED)

    def refused(match, **more):
        given = {"model": f"{home}/", "data": path, "window": 8, **more}
        with pytest.raises(ConfigError, match=match):
            load_task("lm-own", given)

    home = folder(gpt2())
    refused("takes 1 to 16 tokens", window=17)
    refused("takes 1 to 12 tokens", window=13, tune="prompt", rank=4)
    refused("no way 'lara' to tune", tune="lara")
    refused("no dtype 'float8'", dtype="float8")
    refused("no model 'glas'; .*\"glass\"", model="glas")
    refused("no folder with a config.json", model="./nothing")
    (home / "model.safetensors").rename(home / "pytorch_model.bin")
    refused("cannot be loaded")  # pickled weights could run code
    home = folder(gpt2())
    config = json.loads((home / "config.json").read_text())
    own = {**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    spoiled(home, "mine.py", "raise SystemExit('code of the folder was run')")
    spoiled(home, "config.json", json.dumps(own))
    refused("cannot be loaded")
    spoiled(home, "config.json", json.dumps({**config, "n_layer": 2}))
    refused("its file lacks 12 weights: transformer.h.1")  # not drawn at random
    spoiled(home, "config.json", json.dumps({**config, "eos_token_id": 8}))
    refused("ends texts with token 8 and fills them up with 8, but only knows 8")
    spoiled(home, "config.json", json.dumps({**config, "pad_token_id": -1}))
    filled = load_task("lm-own", {"model": f"{home}/", "data": path, "window": 8})
    assert int(filled.train[0].min()) >= 0  # -1 is no token: the end fills up
    spoiled(home, "config.json", json.dumps({**config, "vocab_size": 8}))
    (home / "tokenizer.json").unlink()
    refused("has no tokenizer.json")


@pytest.mark.slow
def test_named_models_are_read_from_the_data_folder(tmp_path):
    if found("minilm") is None:
        pytest.skip("not here: fedcore data get minilm")
    path = write_lines(tmp_path / "abc.jsonl", LABELLED)
    data = load_task("lm-own-classes", {"model": "minilm", "data": path, "window": 8})
    assert sum(t.numel() for t in data.start(0).values()) == 22_713_216 + 2 * 385
    assert data.whole().evaluate(data.new_model())["loss"] < 2
