# `make repro` and `make test` are all it takes; each sets itself up first.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(CURDIR)/$(VENV)/bin
READY := $(VENV)/.ready
export PATH := $(BIN):$(PATH)

.PHONY: repro compare test lint ui demo docs setup

repro: $(READY) ## videos to report: everything that is not up to date
	dvc repro

compare: $(READY) ## every family of models side by side, into docs/comparison.md; takes params.yaml for it
	@git diff --quiet HEAD -- params.yaml || cmp -s presets/compare.yaml params.yaml || \
		{ echo "params.yaml has changes of yours; commit them, then make compare" >&2; exit 2; }
	cp presets/compare.yaml params.yaml
	dvc repro
	python -m benchmarks.families --repeats 3 --out docs/families.json
	python -m benchmarks.comparison

test: $(READY) ## every test: the quick ones two at a time, then the slow ones
	OMP_NUM_THREADS=1 python -m pytest -q -m "not slow" --numprocesses 2 --dist loadfile
	python -m pytest -q -m slow --durations 20

lint: $(READY) ## style, format, types
	ruff check .
	ruff format --check .
	mypy

ui: $(READY) ## the MLflow UI
	python -m pipeline.ui

demo: $(READY) ## a page on this machine where trained rows continue a video
	python -m pipeline.demo

docs: $(READY) ## the site in build/site; fails at any broken link
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
