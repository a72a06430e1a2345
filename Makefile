# Needs Python 3.11+ and nothing else; `make setup` builds .venv beside this file.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m

.PHONY: help setup quickstart test parity check bench peers clean

help:
	@echo "make quickstart   set up, then watch a language-model policy learn (minutes)"
	@echo "make test         set up, then check style and types and run all tests"
	@echo "make parity       set up .venv-parity with PyTorch, then compare with transformers"
	@echo "make check        style and types only"
	@echo "make bench        every benchmark, tables and JSON in runs/bench"
	@echo "make peers        set up what generation and GRPO are compared with"

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

# Files of tests are dealt out to a process a core, at most four: each needs up to 6 GB.
test: check
	@$(RUN) pytest --dist=loadfile -n $$($(BIN)/python -c 'import os; print(min(4, os.cpu_count() or 1))')

# The version is pinned: it is what the fixtures were built with, and its CPU wheel is
# a twentieth of the one with CUDA. TORCH_INDEX has it where the usual registry has not.
TORCH ?= torch==2.13.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PARITY := .venv-parity/bin

.venv-parity/ready: pyproject.toml
	@$(PYTHON) -m venv .venv-parity
	@echo "setting up .venv-parity (once; PyTorch for CPU among others)"
	@$(PARITY)/pip install --quiet --disable-pip-version-check --retries 1 --no-deps \
	  --extra-index-url $(TORCH_INDEX) $(TORCH)
	@$(PARITY)/pip install --quiet --disable-pip-version-check --editable '.[parity]'
	@touch .venv-parity/ready

# The fixtures built again, then every other script: folders and adapters we wrote,
# opened by transformers and PEFT. vllm_folders wants an environment of its own.
parity: .venv-parity/ready
	@for script in tests/parity/*.py; do \
	  name=$$(basename $$script .py); \
	  case $$name in build*|vllm*) continue ;; esac; \
	  echo "parity: $$name"; \
	  JAX_PLATFORMS=cpu HF_HUB_OFFLINE=1 $(PARITY)/python -m tests.parity.$$name || exit 1; \
	done

bench: setup
	@mkdir -p runs/bench
	@for name in scoring losses replay playground loop loading decode grpo offline; do \
	  $(RUN) benchmarks.$$name --json=runs/bench/$$name.json || exit 1; \
	done

peers: .venv-peers/ready .venv-tunix/ready

.venv-peers/ready:
	@$(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check --retries 1 \
	  --extra-index-url $(TORCH_INDEX) $(TORCH)
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check 'transformers>=5.0' accelerate psutil
	@touch .venv-peers/ready

# Apart from the others: it wants older safetensors, and with them older transformers.
# Needs no PyTorch; about a hundred packages, 1.6 GB.
.venv-tunix/ready:
	@$(PYTHON) -m venv .venv-tunix
	@.venv-tunix/bin/pip install --quiet --disable-pip-version-check \
	  google-tunix==0.1.7 jax==0.10.2 flax==0.12.8 optax==0.2.8
	@touch .venv-tunix/ready

clean:
	rm -rf .venv .venv-parity .venv-peers .venv-tunix build *.egg-info
