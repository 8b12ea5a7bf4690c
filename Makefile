# `make repro` runs the pipeline and `make test` the tests. Each target creates the virtual environment first if needed.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
READY := $(VENV)/.ready
# two processes of one thread each; the tests of a file run in one process, because they share expensive fixtures
PYTEST := OMP_NUM_THREADS=1 python -m pytest -q --numprocesses 2 --dist loadfile --durations 20
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: repro compare test test-faults test-all lint ui demo docs setup lock

repro: $(READY) ## check params.yaml, then run the stages that are out of date, from videos to report
	python -m pipeline.commands.cli check
	dvc repro

compare: $(READY) ## compare all model families and write docs/comparison.md; replaces params.yaml
	python -m pipeline.commands.cli preset compare
	python -m pipeline.commands.cli check
	dvc repro
	python -m benchmarks.families --repeats 3 --out docs/families.json
	python -m benchmarks.comparison

test: $(READY) ## run the tests: units, claims about whole models, and one small project from videos to report
	$(PYTEST) -m "not faults"

test-faults: $(READY) ## run the tests of kills, damage, clusters, networks and long runs; WITHIN=30 starts none after 30 minutes
	$(PYTEST) -m faults $(if $(WITHIN),--within $(WITHIN))

test-all: test test-faults ## run all tests

lint: $(READY) ## check style, formatting and types
	ruff check .
	ruff format --check .
	mypy

ui: $(READY) ## start the MLflow UI
	canvasmar ui

demo: $(READY) ## serve a local page that shows predictions of the trained rows, or of the weights in pretrained/
	canvasmar demo

docs: $(READY) ## build the site in build/site; fails on a broken link
	NO_MKDOCS_2_WARNING=1 mkdocs build --quiet

setup: $(READY) ## create the virtual environment

lock: ## write the newest versions that pyproject.toml allows to constraints.txt, for the oldest Python that is tested
	"$(PYTHON)" -m venv build/lock
	build/lock/bin/python deploy/environment.py lock > build/constraints.txt
	mv build/constraints.txt constraints.txt

$(READY): pyproject.toml constraints.txt
	@"$(PYTHON)" deploy/environment.py check
	"$(PYTHON)" -m venv "$(VENV)"
	@"$(VENV)/bin/python" deploy/environment.py download
	"$(VENV)/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@
