# zerothorder: everything a person or CI runs. `make help` lists it.
#
#   make demo                                   set up, then fine-tune the packaged model on the packaged data
#   make test                                   set up, then every test, then the tests against the built wheel
#   make demo TORCH='torch==2.13.0+cu126'       ask for a particular torch build (a torch already in .venv is
#                                               otherwise kept)
#   make test VENV_FLAGS=--system-site-packages use the torch that the machine image brings

# Chosen on dev; what was tried stands in docs/log.md. The long demo is as it was measured: signs, points one by one.
SEARCH          ?= --freeze embed --schedule linear --eps 2e-3 --dtype bfloat16 --batch-size 16
DEMO_FLAGS      ?= $(SEARCH) --steps 400 --lr 8e-5 --seed 0 --eval-every 200
DEMO_LONG_FLAGS ?= $(SEARCH) --law rademacher --executor swap --steps 3000 --lr 2.5e-5 --seed 0 --eval-every 250 \
                   --snapshot-every 250

PYTHON     ?= python3
VENV       ?= .venv
VENV_FLAGS ?=
# Two pytest workers of one thread each: the machine the suite is sized for has two cores.
WORKERS    ?= 2

# A torch asked for on the command line or in the environment is installed; else an installed one is kept.
TORCH_ASKED := $(if $(filter command line environment,$(origin TORCH)),yes)
TORCH       ?= torch==2.13.0

PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
DOCS  := $(VENV)/.ready-docs
TESTS := $(VENV)/.ready-tests
PIN   := $(VENV)/torch-constraint.txt

PIP    = $(PY) -m pip --disable-pip-version-check
SINGLE = OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NUMBA_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# Tests never ask a hub: the models they need come from the package index or are made on the spot.
QUIET  = HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1 WANDB_MODE=offline MPLBACKEND=agg
PYTEST = $(SINGLE) $(QUIET) $(PY) -m pytest
FAST   = -m "not e2e and not slow and not browser"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
.PHONY: always help setup demo demo-long test test-browser test-lowest newest check format docs mutants bench wheel-test clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## .venv with the package (editable), a torch and all the tools

demo: $(READY)  ## set up and fine-tune a real language model: about twelve minutes on two cores
	$(VENV)/bin/zo train $(DEMO_FLAGS) --output runs/demo --overwrite

demo-long: $(READY)  ## 3,000 steps along signs, some hours; goes on where it was stopped
	$(VENV)/bin/zo train $(DEMO_LONG_FLAGS) --output runs/demo-long $(if $(wildcard runs/demo-long/config.json),--resume)

test: $(TESTS)  ## every test, real models included, then the fast ones against the built wheel
	$(PYTEST) -n $(WORKERS) -m "not browser"
	@$(MAKE) wheel-test

test-browser: $(TESTS)  ## the pages in headless Chromium (Debian: apt-get install chromium; elsewhere CHROMIUM=PATH)
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || { echo "no chromium found: install it, or name it by CHROMIUM=" >&2; exit 1; }
	$(PYTEST) -m browser -q tests/browser

# The tests of what meets transformers, TRL and peft, with other versions than .venv's, in an environment of their own: make test-lowest, make newest.
PINNED  := accelerate|datasets|gguf|peft|tokenizers|transformers|trl
TRAINER := tests/integrations tests/cli/test_trl.py tests/plan/test_plan.py
define versioned
	@mkdir -p build/versions
	@rm -rf build/versions/$(1) && $(PYTHON) -m venv $(VENV_FLAGS) build/versions/$(1)
	build/versions/$(1)/bin/python -m pip --disable-pip-version-check install --quiet $$(cat $(PIN))
	build/versions/$(1)/bin/python -m pip --disable-pip-version-check install --quiet --constraint $(PIN) $(2) \
	  --editable '.[trl]' pytest pytest-xdist pytest-timeout hypothesis
	$(SINGLE) $(QUIET) build/versions/$(1)/bin/python -m pytest -n $(WORKERS) $(FAST) -q -p no:cacheprovider $(TRAINER)
endef

test-lowest: $(READY)  ## the trainers with the lowest versions they support (constraints/lowest.txt)
	$(call versioned,lowest,--constraint constraints/lowest.txt)

newest: $(READY)  ## the trainers with the newest versions there are; where they pass, write constraints/newest.txt
	$(call versioned,newest,--upgrade)
	@{ head -1 constraints/newest.txt; build/versions/newest/bin/python -m pip list --format=freeze 2>/dev/null \
	  | grep -E '^($(PINNED))=='; } > build/versions/newest.txt && mv build/versions/newest.txt constraints/newest.txt
	@cat constraints/newest.txt

check: $(TESTS)  ## before a commit: format, lint, types, import contracts, fast tests; about 3 minutes
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(VENV)/bin/pyright
	$(PYTEST) -n $(WORKERS) $(FAST) -q

format: $(READY)  ## let ruff put the style right
	$(VENV)/bin/ruff check --fix-only .
	$(VENV)/bin/ruff format .

docs: $(DOCS)  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

mutants: $(TESTS)  ## plant the field's published defects one by one: each must turn a test red
	$(SINGLE) $(QUIET) $(PY) scripts/mutants.py

bench: $(READY)  ## the committed measurements of benchmarks/, again on this machine
	$(QUIET) $(PY) benchmarks/run.py

# From the source archive to the wheel to the tests: what a user installs is what is tested, in a folder that
# has no src/. The tools come from .venv; PYTHONPATH puts the wheel before the editable install.
WHEEL := $(abspath build/wheel)
wheel-test: $(TESTS)  ## build the wheel and run the fast tests against it from another folder
	@rm -rf $(WHEEL) && mkdir -p $(WHEEL)/elsewhere
	$(PY) -m build --outdir $(WHEEL)/dist . > $(WHEEL)/build.log 2>&1 || { tail -20 $(WHEEL)/build.log; exit 1; }
	$(PIP) install --quiet --no-deps --target $(WHEEL)/site $(WHEEL)/dist/*.whl
	@cp -r tests docs pyproject.toml $(wildcard README.md Makefile mkdocs.yml benchmarks experiments examples) $(WHEEL)/elsewhere
	@cd $(WHEEL)/elsewhere && PYTHONPATH=$(WHEEL)/site $(abspath $(PY)) -c \
	  'import zerothorder as z; assert "wheel/site" in z.__path__[0], f"not the wheel: {z.__path__}"'
	cd $(WHEEL)/elsewhere && PYTHONPATH=$(WHEEL)/site $(SINGLE) $(QUIET) $(abspath $(PY)) -m pytest \
	  -n $(WORKERS) $(FAST) -q -p no:cacheprovider

clean:  ## what was built, not .venv and not runs/
	rm -rf build dist site .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once, and again when pyproject.toml changes. torch first and alone, then everything
# else under a constraint that names the torch found, so that no dependency pulls another build of it.
$(READY): pyproject.toml $(if $(TORCH_ASKED),always)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  found=$$($(PYTHON) -c 'import sys; print("Python " + sys.version.split()[0])' 2>/dev/null); \
	  echo "zerothorder needs Python 3.11 or newer, and '$(PYTHON)' is $${found:-not a Python that runs};" \
	       "name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV_FLAGS) $(VENV) || { \
	  echo "cannot make $(VENV): this Python lacks its venv module (on Debian: apt-get install python3-venv)" >&2; \
	  rm -rf $(VENV); exit 1; }
	@if [ -z "$(TORCH_ASKED)" ] && $(PY) -c 'import torch' 2>/dev/null; then \
	  echo "keeping the torch in $(VENV)"; \
	else echo "installing $(TORCH)"; $(PIP) install --quiet $(TORCH); fi
	@$(PY) -c 'from importlib.metadata import version; print("torch==" + version("torch"))' > $(PIN)
	@echo "installing zerothorder and its tools beside $$(cat $(PIN))"
	@$(PIP) install --quiet --constraint $(PIN) --editable '.[hf,report,trackers,dev]'
	@touch $@

# What the tests need and the demo does not: the GPU kernels' interpreter, larger than everything else, and TRL.
$(TESTS): $(READY)
	$(PIP) install --quiet --constraint $(PIN) --editable '.[kernels,trl,interplay,int8,tasks]'
	@touch $@

$(DOCS): $(READY)
	$(PIP) install --quiet --constraint $(PIN) --editable '.[docs]'
	@touch $@
