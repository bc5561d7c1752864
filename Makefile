# `make demo` and `make test` work on a fresh machine: .venv is made when it is missing or older than what it is made from.
PYTHON ?= python3
BIN := .venv/bin
# Files of tests are shared among the cores; with a thread each, as several of them would take turns.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist loadfile

.PHONY: demo test test-all lint docs format clean

demo: .venv/installed
	$(BIN)/imptool demo

test: .venv/installed
	$(PYTEST) -m "not slow"

test-all: .venv/installed
	$(PYTEST)

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: .venv/installed
	$(BIN)/mkdocs build --quiet

format: .venv/installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv build dist site *.egg-info

.venv/installed: pyproject.toml constraints.txt
	@echo "making .venv: torch is large, this takes some minutes"
	$(PYTHON) -c 'import sys; sys.exit("imptool needs Python 3.11 or newer: make PYTHON=python3.12 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --progress-bar off --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
