# make demo and make test need Python 3.11 or newer, make and a package index; nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# OpenStack Swift, an S3 server for the tests; it needs none of sipdump's dependencies and stays apart from them
SWIFT := .venv-swift

.PHONY: demo test lint types bench fuzz engines swift clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n auto --ignore=tests/engines

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m bench

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Polars and Spark (half a gigabyte, and Java) read what the backends write.
engines: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[engines]'
	SIPDUMP_REQUIRE_PEERS=1 $(BIN)/python -m pytest tests/engines

# Tests find it by SIPDUMP_SWIFT=$PWD/.venv-swift/bin/python.
swift: $(SWIFT)/.installed

$(SWIFT)/.installed:
	$(PYTHON) -m venv $(SWIFT)
	$(SWIFT)/bin/python -m pip install --quiet --disable-pip-version-check 'swift>=2.38,<3'
	touch $@

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(SWIFT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
