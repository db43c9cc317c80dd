# setup: environment in .venv   test: everything CI checks   demo: a real model, end to end   gpu-test: needs a GPU
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup lint test demo gpu-test clean

setup: $(STAMP)

# Created afresh when pyproject.toml changes; the stamp comes last, so a failed install is repeated.
$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Ingot needs Python 3.11 or later")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

lint: $(STAMP)
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

test: lint
	$(BIN)/python -m pytest -q -m 'not nightly' --durations=10

demo: $(STAMP)
	$(BIN)/python -m ingot.cli.main demo

gpu-test: $(STAMP)
	$(BIN)/python -m pytest -q -m 'gpu and not nightly'

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
