# leftfold: every command a developer needs. Each sets up what it needs and can be run first.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: build
build: .venv/.built

.venv/.built: pyproject.toml shm/glue.py $(wildcard shm/*.[ch] runtime/*.[ch])
	@command -v cc >/dev/null || { echo "leftfold needs a C compiler: apt install gcc (or clang)." >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@flock .venv/.lock $(BIN)/pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@
