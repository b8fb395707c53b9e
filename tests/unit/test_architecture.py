"""Who may import whom, what is forbidden, and how large things may get.

A rule is changed here first, with its reason in the commit. Every test collects all
that breaks its rule, so that one run names every place.
"""

import ast
import gc
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LAYERS = {  # package -> the packages it may import, besides itself
    "fedcore": set(),
    "privacy": {"fedcore"},
    "strategies": {"fedcore"},
    "p2p": {"fedcore", "privacy", "strategies"},
    "clients": {"fedcore", "privacy", "strategies", "p2p"},
    "sims": {"fedcore", "privacy", "strategies", "p2p", "clients"},
}
FENCES = {  # foreign library -> the only files that may import it
    "flwr": ["fedcore/flower/*.py", "clients/daemon*.py", "sims/**/*.py"],
    "grpc": ["fedcore/stream*.py"],
    "ray": ["sims/**/*.py"],
    "trio": ["p2p/memory.py", "p2p/node.py", "p2p/libp2p/*.py"],
    "libp2p": ["p2p/libp2p/*.py"],
    "multiaddr": ["p2p/libp2p/*.py"],
    "pickle": [],
    "cloudpickle": [],
    "dill": [],
    "joblib": [],
    "marshal": [],
    "shelve": [],
}
FILES = [p for name in LAYERS for p in sorted((ROOT / name).rglob("*.py"))]
TEXTS = {".py", ".md", ".toml", ".txt", ".sh", ".html", ".css", ".js", ".cfg", ""}
VAGUE = {"base", "common", "helper", "helpers", "manager", "misc", "util", "utils"}
RUNS_CODE = {"eval", "exec", "compile", "__import__", "torch.load"}


@pytest.fixture(scope="module", autouse=True)
def _half_a_million_nodes():
    """Do not look for garbage among them, and keep them no longer than needed."""
    gc.disable()
    yield
    nodes_of.cache_clear()
    tree_of.cache_clear()
    gc.enable()


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def nodes_of(path: Path) -> tuple[ast.AST, ...]:
    """Return all nodes of ``path``; looking for them anew in every test takes long."""
    return tuple(ast.walk(tree_of(path)))


@cache
def modules(path: Path) -> frozenset[str]:
    """Return the full names of the modules that ``path`` imports anywhere."""
    names = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("." * node.level + (node.module or ""))
    return frozenset(names)


def roots(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in modules(path)}


def functions() -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield f"{short(path)}:{node.lineno} {node.name}", node


def test_imports_point_down_and_are_absolute():
    found = [
        f"{short(path)} imports {name or 'relatively'}"
        for path in FILES
        for own in [path.relative_to(ROOT).parts[0]]
        for name in (roots(path) & {*LAYERS, ""}) - LAYERS[own] - {own}
    ]
    assert found == []


@pytest.mark.parametrize("library", FENCES)
def test_foreign_libraries_stay_behind_their_adapter(library):
    users = {short(p) for p in FILES if library in roots(p)}
    allowed = {short(p) for pattern in FENCES[library] for p in ROOT.glob(pattern)}
    assert users - allowed == set()


@pytest.mark.parametrize("name", LAYERS)
def test_packages_are_ours(name):
    """``clients`` and ``strategies`` are also names on PyPI; make sure of ours."""
    assert Path(importlib.import_module(name).__file__).is_relative_to(ROOT)


def test_imports_of_our_names_resolve_inside_the_project():
    found = [
        f"{short(path)} imports {name}"
        for path in FILES
        for name in modules(path)
        if name.partition(".")[0] in LAYERS and not is_ours(name)
    ]
    assert found == []


def is_ours(name: str) -> bool:
    place = ROOT.joinpath(*name.split("."))
    return place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()


def dangers(tree: ast.Module) -> list[str]:
    """Return the calls that run code found in data, or may."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    running = [c for c in calls if ast.unparse(c.func) in RUNS_CODE]
    pickled = [c for c in calls if any(may_unpickle(k) for k in c.keywords)]
    return [f"{c.lineno}: {ast.unparse(c)[:60]}" for c in [*running, *pickled]]


def may_unpickle(keyword: ast.keyword) -> bool:
    return keyword.arg == "allow_pickle" and ast.unparse(keyword.value) != "False"


def test_nothing_runs_code_found_in_data():
    found = [f"{short(path)}:{d}" for path in FILES for d in dangers(tree_of(path))]
    assert found == []


def test_the_search_for_dangers_finds_them_and_only_them():
    bad = "eval(a)\ntorch.load(f)\nnp.load(f, allow_pickle=True)\n"
    good = "model.eval()\nnp.load(f, allow_pickle=False)\nre.compile(a)\n"
    assert len(dangers(ast.parse(bad))) == 3
    assert dangers(ast.parse(good)) == []


def test_libraries_read_no_environment_variables():
    """What a user may set is in the configuration, where it is checked and recorded."""
    readers = {"environ", "getenv"}
    found = [
        f"{short(path)}:{node.lineno}"
        for path in FILES
        if not short(path).startswith("sims/")
        for node in nodes_of(path)
        if getattr(node, "attr", getattr(node, "id", "")) in readers
    ]
    assert found == []


def test_files_have_at_most_300_lines():
    lengths = {short(p): len(p.read_text("utf-8").splitlines()) for p in FILES}
    assert {name: n for name, n in lengths.items() if n > 300} == {}


def test_functions_have_at_most_60_lines():
    lengths = {name: f.end_lineno - f.lineno + 1 for name, f in functions()}
    assert {name: n for name, n in lengths.items() if n > 60} == {}


def test_functions_take_at_most_seven_parameters():
    counts = {}
    for name, f in functions():
        named = [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]
        counts[name] = len([a for a in named if a.arg not in ("self", "cls")])
    assert {name: n for name, n in counts.items() if n > 7} == {}


def test_keyword_arguments_are_not_passed_on_unread():
    found = [
        name for name, f in functions() if f.args.kwarg and passes_on(f, f.args.kwarg)
    ]
    assert found == []


def passes_on(f: ast.AST, kwarg: ast.arg) -> bool:
    calls = [node for node in ast.walk(f) if isinstance(node, ast.Call)]
    spread = [k.value for c in calls for k in c.keywords if k.arg is None]
    return kwarg.arg in {ast.unparse(value) for value in spread}


def test_files_are_named_after_their_idea():
    named = {short(p): {*p.relative_to(ROOT).with_suffix("").parts} for p in FILES}
    assert {name for name, parts in named.items() if parts & VAGUE} == set()


def texts() -> list[Path]:
    """Return every text file of the project: packages, tests, docs, root, CI."""
    folders = [*LAYERS, "tests", "docs", ".ci"]
    inside = [p for name in folders for p in sorted((ROOT / name).rglob("*"))]
    files = [p for p in [*inside, *sorted(ROOT.iterdir())] if p.is_file()]
    return [p for p in files if p.suffix in TEXTS]


def test_no_file_names_a_place_on_one_machine():
    place = re.compile(r"(?<![\w./-])/(tmp|work|home|root)/\w")
    found = [
        f"{short(path)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if place.search(line)
    ]
    assert found == []
