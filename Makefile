# `make help` lists the targets. Variables: PYTHON, VENV, EXTRAS, FAIRTALE_TORCH, TORCH_INDEX_URL
# (see tools/setup_env.sh), for gpu-check also OWN_TORCH, and for the wheelhouse PYTHON_VERSION, TORCH,
# WHEELHOUSE.
# Variables given on the command line or in the environment are passed on to the scripts.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup quickstart test test-all lint format bench gpu-check wheelhouse clean clean-venv

VENV ?= .venv
PYTHON_VERSION ?= 3.12
BIN := $(VENV)/bin
# Put the commands of this environment first in PATH.
RUN := PATH="$(abspath $(BIN)):$$PATH"
# One thread per test process: two processes with two threads each are slower on two cores.
PYTEST := $(RUN) OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile
SHELL_FILES = .ci/run $(shell find scripts tools benchmarks tests -name '*.sh')

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 16

setup: ## make .venv with all packages (a second run does nothing)
	@bash tools/setup_env.sh

quickstart: setup ## train a tiny story model on this machine within a few minutes
	@$(RUN) bash scripts/quickstart.sh

test: setup ## run all tests but the slow ones; needs no GPU and no network
	$(PYTEST) -m "not slow" $(ARGS)

# FAIRTALE_COLD: every command is started as people do, not by forking a process that has the imports
test-all: export FAIRTALE_COLD := 1
test-all: setup ## run every test that this machine can run
	$(PYTEST) $(ARGS)

lint: setup ## run ruff and mypy on Python, bash -n and shellcheck on shell scripts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@for file in $(SHELL_FILES); do bash -n "$$file" || exit 1; done
	$(BIN)/shellcheck --severity=warning -x $(SHELL_FILES)

format: setup ## let ruff format the Python files and sort their imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: setup ## compare speed and memory with fairseq and Hugging Face
	@$(RUN) bash benchmarks/run.sh $(ARGS)

gpu-check: ## check all that needs a GPU in ten minutes; OWN_TORCH=1: by the machine's own torch
	@bash tools/gpu_check.sh $(ARGS)

wheelhouse: ## collect all wheels for a machine without network (PYTHON_VERSION=3.12)
	@bash tools/wheelhouse.sh "$(PYTHON_VERSION)"

clean: ## remove caches and build outputs; keeps .venv, data-bin and checkpoints
	rm -rf build dist ./*.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path "./$(VENV)" -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

clean-venv: ## remove the virtual environment
	@test ! -e "$(VENV)" || test -f "$(VENV)/pyvenv.cfg" || \
	  { echo "error: $(VENV) is not a virtual environment; it is not removed" >&2; exit 2; }
	rm -rf "$(VENV)"
