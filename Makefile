# make demo: forecast, then run RL, then compare. make test: the tests. make help: the rest.
PYTHON ?= python3
SEED ?= 0
WORKERS ?= 2
HOME_DIR ?= forerun
BIN := .venv/bin
READY := .venv/.ready
# Two torch threads of a small model are slower than one on a shared CPU; work is spread over processes instead.
export OMP_NUM_THREADS := 1

.PHONY: setup demo test test-all check app study help clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## Make .venv with the pinned packages

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Forerun needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	@echo "Installing the pinned packages into .venv, a few minutes ..."
	@$(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --upgrade pip > .venv/install.log 2>&1 || { cat .venv/install.log; exit 1; }
	@$(BIN)/pip install --constraint constraints.txt torch -e '.[train,dev]' > .venv/install.log 2>&1 || { cat .venv/install.log; exit 1; }
	@touch $(READY)

demo: $(READY) ## Forecast the RL outcome of fresh checkpoints, run the RL, compare (SEED=0, WORKERS=2)
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh configs/demo.sh $(HOME_DIR) $(SEED) $(WORKERS)

test: $(READY) ## The tests, under 10 minutes
	$(BIN)/python -m pytest -m "not slow"

test-all: $(READY) ## All tests, the slow ones too
	$(BIN)/python -m pytest

check: $(READY) ## Lint, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

study: $(READY) ## Run a part of the laboratory's study again and compare: SUBSET=core, starts, ... (studies/lab/PROTOCOL.md), or `smoke`
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh studies/lab/protocol.sh build/study $(WORKERS) $(or $(SUBSET),smoke)
	@$(BIN)/python studies/lab/compare.py --home build/study

app: $(READY) ## Open the explorer on what the demo made
	FORERUN_HOME=$(HOME_DIR) $(BIN)/streamlit run app.py

clean: ## Remove the environment and what the demo made
	rm -rf .venv $(HOME_DIR)
