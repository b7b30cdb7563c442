# make demo   builds into .venv and runs the main job on the real cells in data/
# make test   builds and passes all tests
# make check  formatting, lints, types
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUST := $(shell find src -name '*.rs') Cargo.toml Cargo.lock

.PHONY: demo test check format bench clean

# One build serves demo, test and check; it is made again only when the Rust sources change.
$(VENV)/.tools: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	$(BIN)/python -m pip install --quiet $$($(BIN)/python tools/dev_requirements.py)
	touch $@

$(VENV)/.built: $(VENV)/.tools $(RUST)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/maturin develop --release --quiet --skip-install
	$(BIN)/python tools/link_package.py
	touch $@

demo: $(VENV)/.built
	$(BIN)/python demo.py

test: $(VENV)/.built
	cargo test --quiet
	$(BIN)/python -m pytest -q

check: $(VENV)/.built
	cargo fmt --check
	cargo clippy --quiet --all-targets -- -D warnings
	cargo clippy --quiet --release --features python -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest dao_polars._core --ignore-missing-stub

format:
	cargo fmt
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) target dao_polars/*.so
