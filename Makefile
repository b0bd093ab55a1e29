# `make demo` and `make test` need git, make and Python 3.11 or later; they install the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-slow lint bench contracts clean

install: $(STAMP)

# torch comes first and exactly, so that nothing else chooses a build of it.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[devnet,dev,sim,homomorphic]'
	touch $@

demo: $(STAMP)
	$(BIN)/eigen demo

test: lint
	$(BIN)/python -m pytest -m 'not slow' -n 2 --dist worksteal

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	PYTHONPATH=.links $(BIN)/lint-imports --no-cache

# Each prints one JSON object; `make bench ONLY=network` runs one, QUICK= takes hours over all.
QUICK ?= --quick
bench: $(STAMP)
	for script in tests/bench/$(or $(ONLY),*).py; do $(BIN)/python $$script --json $(QUICK) || exit 1; done

# Rebuild and test the contracts, and write chain/artifacts/ anew. Needs npm.
contracts: $(STAMP)
	$(BIN)/python chain/contracts/build.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info
