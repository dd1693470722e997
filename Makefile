# leftfold: every command a developer needs. Each sets up what it needs and can be run first.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: build
build: $(VENV)/.built

$(VENV)/.built: pyproject.toml shm/glue.py $(wildcard shm/*.[ch] runtime/*.[ch] actors/*.[ch])
	@command -v cc >/dev/null || { echo "leftfold needs a C compiler: apt install gcc (or clang)." >&2; exit 1; }
	@echo "Building in $(VENV), which takes a minute or so."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@PYTHONWARNINGS=ignore flock $(VENV)/.lock $(BIN)/pip install --quiet --disable-pip-version-check 'pip>=25.1'
	@PYTHONWARNINGS=ignore flock $(VENV)/.lock $(BIN)/pip install --quiet --disable-pip-version-check --editable . --group dev
	@touch $@

.PHONY: test
test: build
	$(BIN)/pytest -n 2 --dist loadgroup -q

.PHONY: check
check: build
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	@for source in $(wildcard shm/*.c runtime/*.c actors/*.c tools/*.c); do \
		echo "cc $$source"; \
		$(CC) -std=gnu11 -O3 -Wall -Wextra -Werror -fvisibility=hidden -fsyntax-only -Ishm \
			-DPy_LIMITED_API=0x030B0000 -I$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("include"))') \
			$$source || exit 1; \
	done

.PHONY: demo
demo: build
	$(BIN)/leftfold demo

.PHONY: campaign
campaign: build
	$(BIN)/pytest -m "campaign and not long" -q

.PHONY: long
long: build
	$(BIN)/pytest -m long -q

.PHONY: bench
bench: build
	@for benchmark in $(basename $(notdir $(sort $(wildcard tools/bench_*.py)))); do \
		echo "$$benchmark"; $(BIN)/python -m leftfold.tools.$$benchmark || exit 1; \
	done
