# `make demo` and `make test` need nothing but Python 3.11-3.13 with venv: each makes what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SPATIAL ?= .venv-spatialdata
TEST_PROCESSES ?= 2

# Annotated images for test slides: folders with images/ and inst/ below data/, if there are any.
WSISEG_SHARED ?= ../shared
ANNOTATED := $(patsubst %/inst,%,$(wildcard $(WSISEG_SHARED)/data/monuseg_train/inst $(WSISEG_SHARED)/data/consep_train/inst))
GIGAPIXEL := .cache/gigapixel

.PHONY: help demo test test-spatialdata slow gigapixel chaos check lint types clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(READY)  ## segment a real slide with the shipped model
	$(BIN)/wsiseg demo --out demo

test: $(READY)  ## run the tests, in two processes; those that measure time afterwards
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadscope -m 'not slow and not alone'
	$(BIN)/python -m pytest -m 'alone and not slow'

# spatialdata and anndata need pandas 2, the rest of the tests pandas 3.
$(SPATIAL)/.ready: pyproject.toml constraints-spatialdata.txt
	$(PYTHON) -m venv $(SPATIAL)
	$(SPATIAL)/bin/python -m pip install --quiet --constraint constraints-spatialdata.txt \
		--editable '.[spatialdata]' pytest
	touch $@

test-spatialdata: $(SPATIAL)/.ready  ## test the formats anndata and spatialdata, in their own environment
	$(SPATIAL)/bin/python -m pytest -o filterwarnings=default tests/test_exporters_scverse.py

slow: $(READY)  ## run the tests that take minutes
	$(BIN)/python -m pytest -m slow

gigapixel: $(READY)  ## make slides of 20,000, 50,000 and 100,000 px to measure with (1 GB)
	mkdir -p $(GIGAPIXEL)
	for side in 20000 50000 100000; do \
		$(BIN)/python -m wsiseg.testing.gigapixel $(GIGAPIXEL)/$$side.svs --side $$side --tissue 0.15 \
			$(if $(ANNOTATED),--images $(ANNOTATED)) || exit; \
	done

chaos: $(READY)  ## kill runs, fill their disk, start several at once; compare the results
	$(BIN)/python benchmarks/chaos.py all

lint: $(READY)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)  ## check types
	$(BIN)/mypy

check: lint types  ## style and types

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(SPATIAL) demo $(GIGAPIXEL) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
