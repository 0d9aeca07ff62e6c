# Needs Python 3.11 or 3.12 with pip; another one: make run PYTHON=/path/to/python
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev

.DEFAULT_GOAL := help
.PHONY: help setup run test lint docs viz clean-data

help: ## Name the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' Makefile

setup: $(READY) ## Make .venv and install the pinned requirements; once
	@echo "Ready in .venv. Next: make run"

run: $(READY) ## Run every pipeline on the embedded default and print the result
	@$(BIN)/kedro run

test: $(DEV) ## Run every test
	@OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile

lint: $(DEV) ## Check style, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(DEV) ## Make a site of docs/ with a reference of parameters and tables, in site/
	@$(BIN)/python scripts/docs_site.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

viz: $(READY) ## Open the pipelines, tables and figures in the browser
	@$(BIN)/kedro viz run

clean-data: ## Delete what runs have made, but not what was downloaded (data/01_raw)
	@find data/0[2-8]_* -mindepth 1 ! -name .gitkeep -delete
	@sed -n -E 's/^data: *(data\/[A-Za-z_][A-Za-z0-9_-]*) *(#.*)?$$/\1/p' /dev/null \
	  $(filter-out conf/base/%,$(wildcard conf/*/globals.yml)) \
	  | while read -r folder; do rm -rf "$$folder"; done

$(READY): requirements.lock requirements-sasrec.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' \
	  2>/dev/null || { echo "MiniRec needs Python 3.11 or 3.12, and '$(PYTHON)' is neither:" \
	  "make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing the pinned requirements into .venv: once, some minutes, 2 GB or more"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  --no-deps -r requirements-sasrec.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check \
	  --no-deps --no-build-isolation --editable .
	@touch $(READY)

$(DEV): $(READY) requirements-dev.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -r requirements-dev.lock
	@touch $(DEV)
