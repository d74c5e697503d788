# Every target works in a fresh clone: the virtual environment is made when it is missing and
# left alone while neither pyproject.toml nor constraints.txt has changed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# More options for pip, e.g. PIP_OPTIONS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_OPTIONS ?=

.DEFAULT_GOAL := help
.PHONY: help demo install test test-slow lint docs build clean

help:  ## Show this list
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e '.[all,dev]'
	@touch $@

# A development install has everything that the demo needs.
demo: $(or $(wildcard $(VENV)/.installed-dev),$(VENV)/.installed)  ## Train, inspect, evaluate and report, on data that ships with scikit-learn
	$(BIN)/anyjepa demo

install: $(VENV)/.installed-dev  ## Install for development

test: $(VENV)/.installed-dev  ## Run the default tests (about seven minutes on two cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-slow: $(VENV)/.installed-dev  ## Run the tests that train for minutes
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: $(VENV)/.installed-dev  ## Lint, check formatting, types and the import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev  ## Build the documentation into site/
	$(BIN)/mkdocs build --strict

build: $(VENV)/.installed-dev  ## Build the wheel into dist/
	$(BIN)/python -m pip wheel --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## Remove what the other targets made
	rm -rf $(VENV) site dist build .pytest_cache .ruff_cache .hypothesis
