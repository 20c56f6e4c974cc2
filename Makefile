# Two commands are enough on a fresh machine with Python 3.11 or newer: `make serve`, `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# What pip is asked for beside the package: the torch that the tests run with. Left to itself pip
# takes the newest, most often a CUDA build of several gigabytes. Any pip arguments will do:
#   with a GPU    make serve TORCH=torch
#   CPU only      make serve TORCH="torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu"
TORCH ?= torch==2.13.0

MODEL ?= smollm2-135m-instruct
HOST ?= 127.0.0.1
PORT ?= 8000
ARGS ?=

# A path entry for the current folder would let `import engine` find ours under a second name.
export PYTHONSAFEPATH := 1

PACKAGES := server quantize engine kernels scheduler configs loadtest
SERVE_STAMP := $(VENV)/.qoq-serve
DEV_STAMP := $(VENV)/.qoq-dev

.DEFAULT_GOAL := help
.PHONY: help serve test lint bench clean

help:
	@echo "make serve   serve $(MODEL) on http://$(HOST):$(PORT) (MODEL=, HOST=, PORT=, ARGS='--more flags')"
	@echo "make test    lint, then every test (ARGS='-k name' goes to pytest)"
	@echo "make lint    ruff, mypy --strict, the import contracts"
	@echo "make bench   measure this machine and print a table (ARGS= goes to qoq bench)"
	@echo "make clean   remove build outputs and caches, keep $(VENV)"

serve: $(SERVE_STAMP)
	$(BIN)/qoq serve $(MODEL) --host $(HOST) --port $(PORT) $(ARGS)

bench: $(SERVE_STAMP)
	$(BIN)/qoq bench $(ARGS)

# A process a core, so one thread each; a file's tests stay together, in the order of tests/conftest.py.
test: export OMP_NUM_THREADS ?= 1
test: lint
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder $(ARGS)

# mypy and editors do not follow setuptools' folder map; they are shown a folder of links.
lint: $(DEV_STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@mkdir -p .types/qoq
	@for package in $(PACKAGES); do ln -sfn ../../$$package .types/qoq/$$package; done
	$(BIN)/mypy -p qoq
	$(BIN)/lint-imports

clean:
	rm -rf build dist *.egg-info .types .cache .hypothesis .import_linter_cache
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# pip comes last when an environment is made, so its presence says that the making was not cut short.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	  "qoq needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(SERVE_STAMP): pyproject.toml | $(BIN)/pip
	$(BIN)/pip install $(TORCH) -e .
	@touch $@

$(DEV_STAMP): pyproject.toml | $(BIN)/pip
	$(BIN)/pip install $(TORCH) -e '.[dev]'
	@touch $@ $(SERVE_STAMP)
