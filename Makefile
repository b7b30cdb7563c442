PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVERS := $(or $(DAO_TEST_SERVERS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dao-polars/servers)
SOURCES := $(shell find src -name '*.rs') Cargo.toml Cargo.lock pyproject.toml

.PHONY: help demo test servers fuzz test-frameworks test-torch notebooks quick check format bench clean

help: ## these lines
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# One build serves all targets; it is made again only when its sources change.
$(VENV)/.built: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "maturin>=1.9,<2"
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras anndata,progress
	touch $@

# What a developer needs beside it. Nothing is compiled anew.
$(VENV)/.dev: $(VENV)/.built
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras dev
	touch $@

demo: $(VENV)/.built ## build into .venv and run the main job on the real cells in data/
	$(BIN)/python demo.py

# Kept from clone to clone. Where one cannot be had, the tests on it are skipped, and say so.
servers: ## servers of buckets for tests: s3s-fs, which is compiled in minutes, and Azurite, which needs node
	@mkdir -p $(SERVERS)/azurite
	-@test -x $(SERVERS)/s3s-fs/bin/s3s-fs || \
		cargo install --quiet s3s-fs --version 0.14.1 --features binary --root $(SERVERS)/s3s-fs
	-@test -x $(SERVERS)/azurite/node_modules/.bin/azurite-blob || \
		npm install --silent --no-audit --no-fund --prefix $(SERVERS)/azurite azurite@3.37.0

test: $(VENV)/.dev servers ## build and pass all tests, Rust and Python
	cargo test --quiet
	$(BIN)/python -m pytest -q

fuzz: export DAO_FUZZ_SECONDS ?= 3600
fuzz: $(VENV)/.dev ## other damaged bytes than those of `make test`, DAO_FUZZ_SECONDS a target (an hour)
	cargo test --release --test fuzz
	$(BIN)/python -m pytest -q -s tests/whole/test_fuzz.py

test-frameworks: $(VENV)/.dev ## the tests with torch, lightning and tensorflow, which it installs (some GB)
	$(BIN)/python -m pip install --quiet "torch>=2.4" "torchdata>=0.10" "lightning>=2.4" "tensorflow-cpu>=2.16"
	# one process each: tensorflow and torch's compiler do not load into one
	$(BIN)/python -m pytest -q tests/frameworks/test_torch.py
	$(BIN)/python -m pytest -q tests/frameworks/test_tensorflow.py

test-torch: $(VENV)/.dev ## the tests and the notebook that need torch, which it installs (3 GB)
	$(BIN)/python -m pip install --quiet "torch>=2.4"
	$(BIN)/python -m pytest -q tests/frameworks/test_torch.py
	$(BIN)/python -m pytest -q tests/whole/test_notebooks.py -k 04_training

notebooks: $(VENV)/.dev ## run the notebooks and save what they show; 04_training if there is torch
	$(BIN)/python -m tests.notebooks

# Once everything is built, only this crate is compiled: without optimisation, so measure nothing with it.
quick: ## after a change in Rust: an unoptimised extension in a minute, on Linux (then run pytest)
	cargo build --features python,pyo3/extension-module
	rm -f dao_polars/_core.abi3.so $(VENV)/.built
	cp target/debug/libdao_polars.so dao_polars/_core.abi3.so

check: $(VENV)/.dev ## formatting, lints, types and imports
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --features python -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest dao_polars._core
	$(BIN)/lint-imports --no-logo

format: ## mend formatting and what lints can mend
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## ours beside its peers; see benchmarks/README.md (ARGS=... are passed on)
	$(BIN)/python benchmarks/bench.py $(ARGS)

clean: ## remove what was built
	rm -rf $(VENV) target dao_polars/*.so
