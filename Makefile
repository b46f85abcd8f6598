# Every target builds .venv first if it is missing or older than pyproject.toml or constraints.txt.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Versions of TRL, each in an environment of its own; only `make test-parity` and `make bench` build them.
PARITY := 116 112
PACKAGES := import sysconfig; print(sysconfig.get_path("purelib"))
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
# The interpreter for a new .venv: the first of these that starts, is 3.11 or newer and can make one.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3.14 python3 python; do \
	$$p -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: help env compare quick bench test test-slow test-kills test-parity check fmt clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 12

env: $(STAMP)  ## Create .venv and install the pinned dependencies

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1 && [ -z "$(PYTHON)" ]; then \
		echo "no Python 3.11 or newer with venv on PATH; install one or say make PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

compare: env  ## Run the default study (sft, ppo, dpo, rlaif; three seeds each) and write its report
	$(BIN)/rft compare experiments/default

quick: env  ## The same flow on a tiny model, in about five minutes
	$(BIN)/rft compare experiments/quick

bench: env $(if $(findstring --no-trl,$(BENCH)),,$(PARITY:%=.venv-parity-%/.installed))  ## Time rft, TRL and the bare floor in turns (BENCH="--only dpo --model tiny")
	$(BIN)/python -m experiments.benchmarks.run --out experiments/benchmarks/results $(BENCH)

test: env  ## Run all tests but the slow ones and those against TRL
	$(PYTEST) -n $(WORKERS) --dist loadgroup -m "not slow and not parity"

test-slow: env  ## Run the slow tests: what takes long, and further cases of what `make test` has
	$(PYTEST) -m "slow and not parity" --timeout 3600

test-kills: env  ## Kill a hundred tiny trials at random moments and compare what they come to, to the bit (KILLS=100)
	$(PYTEST) -s -m slow -k hundred --timeout 7200 tests/integration/test_kills.py

test-parity: env $(PARITY:%=.venv-parity-%/.installed)  ## Compare losses and advantages with those of TRL
	$(PYTEST) -m parity tests/parity

# Only what differs from .venv is installed; the rest is seen through a path file, at the versions of constraints.txt.
.venv-parity-%/.installed: tests/parity/requirements-%.txt $(STAMP)
	$(BIN)/python -m venv --clear --without-pip .venv-parity-$*
	$(BIN)/python -m pip --python .venv-parity-$* install --quiet --no-deps -r $<
	$(BIN)/python -c '$(PACKAGES)' > "$$(.venv-parity-$*/bin/python -c '$(PACKAGES)')/parent.pth"
	@touch $@

check: env  ## Check format, lint, types and architecture
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --strict rft
	$(PYTEST) -q tests/architecture

fmt: env  ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## Remove environments, caches and built files; runs and the store stay
	rm -rf $(VENV) $(PARITY:%=.venv-parity-%) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
