# Needs Python 3.11+ and nothing else; `make setup` builds .venv beside this file.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m

.PHONY: help setup quickstart test check bench peers clean

help:
	@echo "make quickstart   set up, then watch a language-model policy learn (minutes)"
	@echo "make test         set up, then check style and types and run all tests"
	@echo "make check        style and types only"
	@echo "make bench        every benchmark, tables and JSON in runs/bench"
	@echo "make peers        set up what generation is compared with, in .venv-peers"

setup: .venv/ready

.venv/ready: pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit(f"rljax needs Python 3.11 or newer, found {v[0]}.{v[1]}: run make PYTHON=python3.12")'
	@echo "setting up .venv (once; about two minutes)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch .venv/ready

quickstart: setup
	@echo "training SAC-GLAM with hindsight on Playground-Text, see runs/quickstart"
	@$(RUN) experiments.sac_glam --config=experiments/configs/sac_glam.py:quickstart --workdir=runs/quickstart

check: setup
	@$(BIN)/ruff format --check --quiet . && $(BIN)/ruff check --quiet . && $(BIN)/pyrefly check --summary=none
	@echo "style and types: fine"

test: check
	@$(RUN) pytest

bench: setup
	@mkdir -p runs/bench
	@for name in scoring losses replay playground loop decode; do \
	  $(RUN) benchmarks.$$name --json=runs/bench/$$name.json || exit 1; \
	done

# PyTorch for CPU; the ordinary package index would bring gigabytes for GPUs.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

peers: .venv-peers/ready

.venv-peers/ready:
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check --index-url $(TORCH_INDEX) 'torch>=2.6'
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check 'transformers>=5.0' accelerate psutil
	@touch .venv-peers/ready

clean:
	rm -rf .venv .venv-peers build *.egg-info
