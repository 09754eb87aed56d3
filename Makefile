# make search: a first search on this machine, and its report. make test: the tests. Both make .venv first.
PYTHON ?= python3
# The release the published figures were taken with. `make TORCH=torch setup` takes the newest.
TORCH ?= torch==2.13.0
TRIALS ?= 200
BIN := .venv/bin

.PHONY: setup search test lint bench

setup: .venv/ready

.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet '$(TORCH)'
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

search: .venv/ready
	$(BIN)/ubench search --trials $(TRIALS)

test: .venv/ready
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready
	$(BIN)/python benchmarks/depthwise.py
	$(BIN)/python benchmarks/clips.py
