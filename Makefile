# Two commands do everything on a fresh machine: `make demo` and `make test`. They need python3 >= 3.11, make and
# the package index; the environment is made in .venv from requirements.lock.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SOURCES := node bootstrap simulations tests benchmarks

.PHONY: demo test check fmt bench bench-net bench-dht natlab fuzz interop-go proto proto-check lock clean install

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "p2pe needs Python >= 3.11; found $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(STAMP)
	@$(BIN)/python -m p2pe_sim.$(if $(STORY),stories.$(STORY) $(VARIANT),demo)

test: check
	$(BIN)/python -m pytest tests

check: $(STAMP) proto-check
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest tests/core tests/ports -m "not slow"

fmt: $(STAMP)
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(STAMP)
	$(BIN)/python -m benchmarks.run

bench-net: $(STAMP)
	$(BIN)/python -m benchmarks.net

bench-dht: $(STAMP)
	$(BIN)/python -m p2pe_sim.dht.sockets --nodes 100
	$(BIN)/p2pe-sim dht --nodes 10000 --hours 1

natlab: $(STAMP)
	$(BIN)/python -m p2pe_sim.natlab.matrix

interop-go: $(STAMP)
	P2PE_INTEROP_GO=1 $(BIN)/python -m pytest tests/interop/test_go.py -rs

FUZZ_INPUTS ?= 200000
fuzz: $(STAMP)
	$(BIN)/python fuzz/decoders.py --count $(FUZZ_INPUTS) --seed $${SEED:-1}
	$(BIN)/python fuzz/overlay.py --count $(FUZZ_INPUTS) --seed $${SEED:-1}

proto: $(STAMP)
	$(BIN)/python protos/generate.py

proto-check: $(STAMP)
	@$(BIN)/python protos/generate.py --check

lock:
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-emit-index-url --no-annotate --no-header --group dev --extra sim pyproject.toml -o requirements.lock

clean:
	rm -rf $(VENV) build dist
