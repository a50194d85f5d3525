# `make demo` and `make test` need nothing but Python 3.11+ and a package index; each sets up .venv by itself.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS := .venv-peers
BIN := $(VENV)/bin
# On Linux, PyPI's own torch brings CUDA. Where your index has no CPU build, point at one first:
#   make demo PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
TORCH := $(shell sed -n 's/^torch==/torch==/p' constraints.txt)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread a process: the networks are small, and tests and runs share the cores.
export OMP_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint types format bench ablations ui clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(VENV)/.installed  ## Create .venv with everything the demo and the tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; found $$($(PYTHON) --version). Set PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (a minute or two the first time)"
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: install  ## A made-up retailer from landed files to published forecasts, in ./.forecast
	$(BIN)/forecast demo

test: install  ## All tests
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-fast: install  ## Tests without those that start and kill processes
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not kill"

lint: install  ## Style and common mistakes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: install  ## Static types
	$(BIN)/mypy

format: install  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: install $(PEERS)/.installed  ## The peers side by side (an hour; BENCH=--quick for a try): docs/benchmarks.md
	$(BIN)/python -m benchmarks $(BENCH)

ablations: install  ## What each ingredient is worth (a quarter of an hour; BENCH=--quick for a try): docs/ablations.md
	$(BIN)/python -m benchmarks.ablations $(BENCH)

$(PEERS)/.installed: benchmarks/peers-requirements.txt
	$(PYTHON) -m venv $(PEERS)
	@echo "Installing the peers into $(PEERS) (some minutes the first time)"
	$(PEERS)/bin/python -m pip install --quiet "$$(sed -n 's/^torch==/torch==/p' $<)"
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

ui: install  ## Dagster's UI over ./.forecast at http://127.0.0.1:3000
	$(BIN)/forecast ui

clean:  ## Remove the environments (not your data in ./.forecast)
	rm -rf $(VENV) $(PEERS) build *.egg-info
