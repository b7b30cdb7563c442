# make demo    build into .venv and run the main job on the real cells in data/
# make test    build and pass all tests
# make check   formatting, lints, types
# make test-frameworks   the tests with torch, lightning and tensorflow, which it installs (some GB)
# make format  mend formatting and what lints can mend
# make bench   ours beside its peers; see benchmarks/README.md (ARGS=... are passed on)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := $(shell find src -name '*.rs') Cargo.toml Cargo.lock pyproject.toml

.PHONY: demo test test-frameworks check format bench clean

# One build serves demo, test and check; it is made again only when its sources change.
$(VENV)/.built: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "maturin>=1.9,<2"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras dev
	touch $@

demo: $(VENV)/.built
	$(BIN)/python demo.py

test: $(VENV)/.built
	cargo test --quiet
	$(BIN)/python -m pytest -q

test-frameworks: $(VENV)/.built
	$(BIN)/python -m pip install --quiet "torch>=2.4" "torchdata>=0.10" "lightning>=2.4" "tensorflow-cpu>=2.16"
	# one process each: tensorflow and torch's compiler do not load into one
	$(BIN)/python -m pytest -q tests/frameworks/test_torch.py
	$(BIN)/python -m pytest -q tests/frameworks/test_tensorflow.py

check: $(VENV)/.built
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --features python -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest dao_polars._core

format:
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.built
	$(BIN)/python benchmarks/bench.py $(ARGS)

clean:
	rm -rf $(VENV) target dao_polars/*.so
