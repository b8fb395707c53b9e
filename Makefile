# Everything starts here. `make demo` and `make test` set up what they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Whatever the user's settings, tests are compiled once and not at every run.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

.PHONY: demo test test-fast lint setup docs clean

demo: $(READY)  ## train federations and a language model, draw reports, form a mesh
	@task=mnist; $(BIN)/fedcore data get mnist || \
	  { echo "going on with the 5000 MNIST digits that are here"; task=mnist5k; }; \
	$(BIN)/fedcore sim sweep examples/demo.toml --set task.name=$$task --name demo --fresh
	@$(BIN)/fedcore sim run examples/demo-lm.toml --name demo-lm
	@$(BIN)/fedcore sim write
	@$(BIN)/fedcore peer rehearse

test: $(READY) lint  ## every test, real processes, sockets and Ray included
	@$(BIN)/fedcore data get mnist || echo 'tests that need MNIST are skipped'
	@$(PYTEST) -m "not slow" -n 2
	@$(PYTEST) -m slow -n 3 --dist loadfile --no-loadscope-reorder

test-fast: $(READY)  ## the tests to run before each commit, under a minute
	@$(PYTEST) -m "not slow" -n 2

lint: $(READY)  ## format, style, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

setup: $(READY)

$(READY): constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[ray,data,lm,mesh,collab,dev]'
	@touch $@

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
