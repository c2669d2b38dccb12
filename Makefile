# make demo and make test need only Python 3.11 or newer, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# OpenStack Swift, an S3 server for the tests. It shares no dependencies with sipdump, so it gets its own environment.
SWIFT := .venv-swift

# Many tests wait for something: one worker more than there are processors.
WORKERS ?= $(shell expr $$(nproc) + 1)

.PHONY: demo test lint types bench fuzz engines swift clean

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal --ignore=tests/engines

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python -m bench

fuzz: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]'
	SIPDUMP_EXAMPLES=20 $(BIN)/python -m pytest -n $(WORKERS) --timeout=0 -m hypothesis --ignore=tests/engines
	$(BIN)/python -m tests.fuzz $(FUZZ)

# Check that Polars and Spark (half a gigabyte, and Java) read what the backends write.
engines: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[engines]'
	SIPDUMP_REQUIRE_PEERS=1 $(BIN)/python -m pytest tests/engines

# Tests use it if SIPDUMP_SWIFT=$PWD/.venv-swift/bin/python.
swift: $(SWIFT)/.installed

$(SWIFT)/.installed:
	$(PYTHON) -m venv $(SWIFT)
	$(SWIFT)/bin/python -m pip install --quiet --disable-pip-version-check 'swift>=2.38,<3'
	touch $@

# What the optional library is built of and by: an installation builds it anew.
SPEEDUPS := backends/parquet/sipdump_speedups
BUILT_OF := hatch_build.py $(wildcard $(SPEEDUPS)/*.c $(SPEEDUPS)/*.py)

$(STAMP): pyproject.toml $(BUILT_OF)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) $(SWIFT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis $(SPEEDUPS)/*.so
