# `make demo` and `make test` need nothing but Python 3.11-3.13 with venv: each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help demo test chaos check lint types clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(READY)  ## segment a real slide with the shipped model
	$(BIN)/wsiseg demo --out demo

test: $(READY)  ## run the tests
	$(BIN)/python -m pytest

chaos: $(READY)  ## kill runs, fill their disk, start several at once; compare the results
	$(BIN)/python benchmarks/chaos.py all

lint: $(READY)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## check types
	$(BIN)/mypy

check: lint types  ## style and types

clean:  ## remove what the other targets made
	rm -rf $(VENV) demo build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
