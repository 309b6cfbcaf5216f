# Every check is defined once, here; pre-commit and CI call these targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help

# The tests start thousands of processes. Where nobody may write bytecode, each compiles 200 modules
# anew: 1.6 s of a core for a daemon that otherwise starts in 0.7.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup demo llama test test-runs test-all collect test-kill test-browser test-gpu test-older test-scenario test-tasks test-container check format lint types lock clean

help:  ## What can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready  ## Prepare .venv with everything (no GPU needed)

# torch comes first and by its pin alone; everything else is locked with hashes. "compat": a line with
# a path, since setuptools' import hook costs every process that the tests start 25 ms.
$(VENV)/.ready: requirements.lock requirements-dev.lock pyproject.toml
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet $(TORCH)
	$(PIP) install --quiet --no-deps --require-hashes -r requirements.lock -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --config-settings editable_mode=compat --editable .
	@touch $@

demo: setup  ## Fine-tune a real small model on real data and compare it before and after
	$(BIN)/runner demo

# Not a part of setup: it needs a C++ compiler, and only GGUF files need it.
llama: setup .llama.cpp/VERSION  ## Build llama.cpp's tools, for GGUF files (minutes; needs g++)

.llama.cpp/VERSION: $(wildcard tools/llama/*)
	tools/llama/build .llama.cpp $(BIN)/python

# A thread each, since torch would start one for every core in all of them; six workers for two cores,
# since half of the time they wait for a daemon: with four, a quarter of the cores' time was idle.
# Whole files, in the order of conftest.py: xdist's own begins the longest ones last, for they have few
# tests, and one worker ends alone.
WORKERS ?= 6
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
test: setup  ## The ordinary tests
	$(PYTEST) -m "not long"

test-runs: setup  ## Whole runs of real models, and runs that run out of memory (minutes)
	$(PYTEST) -m long

test-all: setup  ## Both at once, which takes less time than one after the other
	$(PYTEST)

collect: setup  ## All tests together can be collected (pytest tests), those that only special runs execute too
	$(BIN)/python -m pytest tests --collect-only --quiet > /dev/null || \
	  { $(BIN)/python -m pytest tests --collect-only --quiet | grep -A 20 -E '^(_+ )?ERROR'; exit 1; }

# BUDGET: seconds; less than half an hour tries fewer points and inputs of each kind.
BUDGET ?= 1800
test-kill: setup  ## Kill, fill, hang and fuzz: nothing is lost (BUDGET=seconds)
	@command -v strace > /dev/null || \
	  echo "strace is missing (apt-get install strace): nothing will be proved about fsync"
	$(BIN)/python -m pytest tests/kill -n 2 --dist loadfile --budget $(BUDGET)

test-browser: setup  ## Look at reports of real runs in Chromium (minutes)
	@command -v chromium > /dev/null || echo "Chromium is missing (apt-get install chromium): nothing will be looked at"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser

test-gpu: setup  ## The tests that need an NVIDIA card (minutes)
	@nvidia-smi > /dev/null || { echo "No NVIDIA card answers here: see docs/install.md, step 1."; exit 1; }
	$(BIN)/python -m pytest tests/gpu

test-older: setup  ## Adapters in older tools, kernels compiled for other cards: environments of their own
	$(BIN)/python -m pytest tests/older

test-scenario: setup  ## The law firm with a real model, whole (minutes; fetches 26 MB of texts)
	$(BIN)/python -m pytest tests/scenario

# A folder of its own, so that no other test sees it: 340 MB.
.lm-eval/.ready: requirements-tasks.lock
	rm -rf .lm-eval
	$(PIP) install --quiet --no-deps --require-hashes --target .lm-eval -r requirements-tasks.lock
	@touch $@

test-tasks: setup .lm-eval/.ready  ## Tasks of lm-evaluation-harness in an evaluation (fetches 100 MB)
	PYTHONPATH=$(CURDIR)/.lm-eval $(BIN)/python -m pytest tests/integration/test_tasks.py tests/integration/test_tasks_of_a_daemon.py

test-container: setup  ## Build the image and drive it, on a Docker engine that is there or a throw-away one
	.ci/test-container

check: lint types collect test-all  ## Everything CI wants

format:  ## Format, and fix what can be fixed by itself
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: setup  ## Format and lint, changing nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup  ## Strict types
	$(BIN)/mypy

lock:  ## Resolve the pins anew
	.ci/lock

clean:  ## Remove what setup made
	rm -rf $(VENV)
