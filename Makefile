# make search: a first search on this machine, and its report. make test: the tests. Both make .venv first.
PYTHON ?= python3
# The release the published figures were taken with. `make TORCH=torch setup` takes the newest.
TORCH ?= torch==2.13.0
TRIALS ?= 200
# Where `make bench` leaves its tables; that of the README is one of them.
BENCH ?= results/2026-11-30_bench_cpu_intel
BIN := .venv/bin

.PHONY: setup search test soak lint bench

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

# The fault suite for as long as it takes: all twenty kills, a server away for 30 s, times held to their limits.
soak: .venv/ready
	UBENCH_SOAK=1 $(BIN)/python -m pytest tests/faults -rP

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/ready
	mkdir -p $(BENCH)
	$(BIN)/python benchmarks/speed.py --json $(BENCH)/speed.json | tee $(BENCH)/speed.txt
	$(BIN)/python benchmarks/growth.py --results $(BENCH) | tee $(BENCH)/growth.txt
	$(BIN)/python benchmarks/depthwise_gpu.py | tee $(BENCH)/depthwise_gpu.txt
	$(BIN)/python docs/readme.py
