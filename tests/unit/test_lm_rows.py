"""Texts as rows, without any pretrained model: letters are tokens here."""

import csv
from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from clients.tasks.lm.corpus import Record, lines_by_owner, records
from clients.tasks.lm.generate import written
from clients.tasks.lm.measure import NextTokenFigures, class_figures, token_loss
from clients.tasks.lm.rows import HoldOut, answers, classes, windows
from clients.tasks.lm.words import Words
from fedcore.errors import ConfigError


class Letters:
    """The tokenizer whose tokens are a = 1, b = 2, ...; newline is 27."""

    def encode(self, text, *, add_special_tokens):
        numbers = [27 if c == "\n" else ord(c) - 96 for c in text]
        return SimpleNamespace(ids=[30, *numbers] if add_special_tokens else numbers)

    def decode(self, numbers):
        return "".join("\n" if n == 27 else chr(n + 96) for n in numbers)


WORDS = Words(Letters(), end=28, pad=0)


def listed(pair):
    return [t.tolist() for t in pair]


def test_texts_are_cut_into_windows_that_touch():
    owned = windows(WORDS, {"ann": ["abc", "de"], "bob": ["a"], "cy": []}, 4)
    assert set(owned) == {"ann"}  # one letter has no next one
    x, y = listed(owned["ann"])
    assert x == [[1, 2, 3, 27], [4, 0, 0, 0]]
    assert y == [[2, 3, 27, 4], [5, -100, -100, -100]]


def test_only_answers_are_learned():
    found = [
        Record("ann", "yes", prompt="ab\n"),
        Record("ann", "toolong", prompt="a\n"),
        Record("bob", "x", prompt="toolongaprompt\n"),
    ]
    owned = answers(WORDS, found, 6)
    assert set(owned) == {"ann"}  # the question of bob fills the window
    x, y = listed(owned["ann"])
    assert x == [[1, 2, 27, 25, 5, 19], [1, 27, 20, 15, 15, 12]]
    assert y == [[-100, -100, 25, 5, 19, 28], [-100, 20, 15, 15, 12, 15]]


def test_texts_with_labels_are_one_row_each():
    found = [Record("ann", "ab", label="good"), Record("ann", "abcd", label="bad")]
    x, y = listed(classes(WORDS, found, 3, ["bad", "good"])["ann"])
    assert (x, y) == ([[30, 1, 2], [30, 1, 2]], [1, 0])


def owned(**counts):
    rows = {o: np.full((n, 2), i) for i, (o, n) in enumerate(counts.items())}
    return {o: (r, r) for o, r in rows.items()}


def test_held_out_owners_take_no_part_in_training():
    many = owned(**{f"o{i}": 5 for i in range(10)})
    split = HoldOut(share=0.2).split(many, "task")
    assert (len(set(split.groups)), len(set(split.test_groups))) == (8, 2)
    assert not {*split.groups} & {*split.test_groups}
    assert len(split.train[0]) == 40
    again = HoldOut(share=0.2).split(many, "task")
    assert again.test_groups.tolist() == split.test_groups.tolist()


def test_tails_are_held_out_of_every_owner_with_two_rows():
    split = HoldOut("tail", 0.25).split(owned(a=8, b=2, c=1), "task")
    assert np.bincount(split.groups).tolist() == [6, 1, 1]
    assert np.bincount(split.test_groups).tolist() == [2, 1]
    alone = HoldOut("owners", 0.25).split(owned(a=8), "task")
    assert (len(alone.groups), len(alone.test_groups)) == (6, 2)


def test_held_out_rows_are_thinned_evenly():
    split = HoldOut(share=0.5, most=4).split(owned(a=8, b=8), "task")
    assert len(split.test[0]) == 4
    assert len(split.train[0]) == 8


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HoldOut("owner"), 'nearest is "owners"'),
        (lambda: HoldOut(share=0.6), "at most 0.5"),
        (lambda: HoldOut(most=-1), "most_held_out -1"),
        (lambda: HoldOut().split(owned(a=1), "mine"), "'mine': 1 owners have 1 rows"),
        (lambda: HoldOut().split({}, "mine"), "0 owners have 0 rows"),
    ],
)
def test_what_cannot_be_held_out_is_explained(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


class Table(nn.Module):
    """Scores of each next token that depend on the last one only."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Embedding.from_pretrained(scores, freeze=True)

    def forward(self, x):
        return self.scores(x).transpose(1, 2)


def test_figures_count_targets_not_rows():
    table = Table(torch.tensor([[0.0, 0.0], [0.0, log(3.0)]]))  # after 1: 1/4, 3/4
    x = torch.tensor([[1, 1], [1, 0]])
    y = torch.tensor([[1, 1], [0, -100]])
    loss = -(2 * log(3 / 4) + log(1 / 4)) / 3
    told = NextTokenFigures(2, answers=True)(table, x, y)
    assert told["loss"] == pytest.approx(loss)
    assert told["perplexity"] == pytest.approx(exp(loss))
    assert (told["accuracy"], told["examples"]) == (pytest.approx(2 / 3), 2)
    assert told["exact_match"] == 0.5
    assert float(token_loss(table(x), y)) == pytest.approx(loss)


def test_figures_do_not_depend_on_how_many_rows_go_through_at_once():
    scores = torch.arange(12.0).reshape(3, 4).sin()[:, :3]
    x, y = torch.arange(12).reshape(4, 3) % 3, torch.arange(12).reshape(4, 3) // 2 % 3
    all_at_once = NextTokenFigures(3)(Table(scores), x, y)
    one_by_one = NextTokenFigures(1 << 30)(Table(scores), x, y)
    assert all_at_once == pytest.approx(one_by_one)
    assert "exact_match" not in all_at_once


def test_classes_are_counted_by_row():
    told = class_figures(nn.Identity(), torch.eye(3), torch.tensor([0, 1, 0]))
    assert told["accuracy"] == pytest.approx(2 / 3)
    assert told["examples"] == 3


def test_exact_match_is_what_greedy_writing_gives():
    after = torch.full((31, 31), -9.0)
    for token, following in ((1, 2), (2, 3), (3, 28)):
        after[token, following] = 9.0
    table = Table(after)
    assert written(table, WORDS, "a", 9, context=1) == "bc"
    x, y = answers(WORDS, [Record("", "bc", prompt="a")], 4)[""]
    told = NextTokenFigures(31, answers=True)(table, torch.tensor(x), torch.tensor(y))
    assert told["exact_match"] == 1


def test_draws_follow_the_scores_and_the_seed():
    table = Table(torch.full((31, 31), -99.0).index_fill(1, torch.tensor([1, 2]), 0.0))
    texts = [written(table, WORDS, "a", 60, context=4, seed=s) for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    assert set(texts[0]) == {"a", "b"}
    assert 15 < texts[0].count("a") < 45


@pytest.mark.parametrize("bad", [{"prompt": ""}, {"tokens": 0}])
def test_nothing_to_write_is_explained(bad):
    table, asked = Table(torch.zeros(31, 31)), {"prompt": "a", "tokens": 1, **bad}
    with pytest.raises(ConfigError, match="give a prompt"):
        written(table, WORDS, asked["prompt"], asked["tokens"], context=4)


def test_json_lines_csv_and_folders_are_read(tmp_path):
    (tmp_path / "a.jsonl").write_text(
        '{"text": " hi ", "user": "ann"}\n\n{"text": "", "user": 3}\n'
        '{"text": "ho", "user": 3, "label": true}\n'
    )
    assert records(str(tmp_path / "a.jsonl")) == [
        Record("ann", "hi"),
        Record("3", "ho", label="True"),
    ]
    (tmp_path / "q.csv").write_text(
        'who,instruction,input,output\nann,Add,"1, 2",3\nbob,Go,,on\n'
    )
    assert records(str(tmp_path / "q.csv"), user="who") == [
        Record("ann", "3", "Add\n1, 2\n"),
        Record("bob", "on", "Go\n"),
    ]
    (tmp_path / "poems" / "x").mkdir(parents=True)
    (tmp_path / "poems" / "x" / "one.txt").write_text("\ufeffline\nline\n", "utf-8")
    (tmp_path / "poems" / "two.txt").write_text("other")
    found = records(str(tmp_path / "poems"))
    assert found == [Record("two", "other"), Record("x/one", "line\nline")]
    assert lines_by_owner(found) == {"two": ["other"], "x/one": ["line\nline"]}


def written_as(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode())
    return str(path)


def test_legal_files_that_are_easily_misread(tmp_path):
    """Each of these was refused, or read as something else, once."""
    odd = '{"text": "one\u2028two\u0085three"}\r\n{"text": "four"}\n'
    found = records(written_as(tmp_path, "ODD.JSONL", odd))
    assert [record.text for record in found] == ["one\u2028two\u0085three", "four"]
    nulls = '{"instruction": "a", "input": null, "output": "b", "user": null}'
    found = records(written_as(tmp_path, "nulls.jsonl", nulls))
    assert found == [Record("", "b", "a\n")]
    found = records(written_as(tmp_path, "spaced.csv", 'text, user\na, "b, c"\n'))
    assert found == [Record("b, c", "a")]


def test_long_fields_of_csv_are_read_and_the_limit_is_put_back(tmp_path):
    limit = csv.field_size_limit()
    found = records(written_as(tmp_path, "long.csv", f"text\n{'a' * 2 * limit}\n"))
    assert len(found[0].text) == 2 * limit
    assert csv.field_size_limit() == limit


def test_a_folder_is_searched_for_texts_only(tmp_path):
    (tmp_path / "a.txt").mkdir()
    (tmp_path / "b.jsonl").write_text('{"text": "a"}')
    with pytest.raises(ConfigError, match=r"holds no \.txt file"):
        records(str(tmp_path))
    (tmp_path / "C.TXT").write_text("hi")
    assert records(str(tmp_path)) == [Record("C", "hi")]


BAD = {
    "a.jsonl": {
        "[" * 100_000: r"a.jsonl:1 is no JSON",
        '{"text": "a\\ud800"}': r"a.jsonl:1: text is no Unicode text",
        '{"text": "a", "user": {"id": 1}}': r"user must be a name, not {'id': 1}",
        '{"text": "a"}\n{"text": \n': r"a.jsonl:2 is no JSON",
        '["text"]': r"a.jsonl:1 is no object",
        '{"txt": "a"}': r'a.jsonl:1 has neither "text" nor .*nearest is "txt"',
        '{"text": 3}': r"a.jsonl:1: text must be text, not 3",
        '{"text": " "}': r"holds no text: all 1 records are empty",
        "": r"holds no text",
        '{"text": "a"}\n{"instruction": "b", "output": "c"}': "mixes texts with",
    },
    "a.csv": {
        "text,user\na\n": r"a.csv:2 has not as many fields",
        'text\n"a': r"a.csv:\d is no CSV",
        "words\na\n": r"neither \"text\" nor",
    },
    "a.txt": {"": "holds no text"},
    "a.pdf": {"x": "ends in none of .csv, .jsonl, .txt"},
}


@pytest.mark.parametrize(("name", "text"), [(n, t) for n in BAD for t in BAD[n]])
def test_mistakes_in_texts_are_explained(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=BAD[name][text]):
        records(str(tmp_path / name))


def test_files_that_are_not_there_or_no_text_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        records(str(tmp_path / "a.txt"))
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8"):
        records(str(tmp_path / "a.txt"))
    (tmp_path / "a.jsonl").write_text('{"text": "a", "usr": "b"}')
    with pytest.raises(ConfigError, match="no column 'user'; the nearest is \"usr\""):
        records(str(tmp_path / "a.jsonl"), user="user")
