# Everything a clone needs; `make` alone lists it.

PYTHON ?= python3
VENV ?= .venv
TRACKLETS ?=
PYTEST_ARGS ?=

# A stamp in the environment says which extras were installed for which pyproject.toml, so a second run costs nothing.
# Its place in the environment (which may be anywhere, and may be removed) keeps the two together. In the names of files
# to make, a space needs a backslash.
empty :=
ENVIRONMENT := $(subst $(empty) $(empty),\ ,$(VENV))
INSTALLED := $(ENVIRONMENT)/.installed
DEVELOP := $(ENVIRONMENT)/.develop
BIN := "$(VENV)"/bin

# The shell reads this one from the environment, so that it may hold spaces and quotes.
export TRACKLETS

.DEFAULT_GOAL := help
.PHONY: help install demo test lint clean

help: ## Show this list
	@echo "not3d: video person re-identification search"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-9s %s\n' "$$target" "$$text"; done
	@echo
	@echo "  VENV=$(VENV)          where the environment lives"
	@echo "  PYTHON=$(PYTHON)      the Python (3.11 or later) that it is made from"
	@echo "  TRACKLETS=FOLDER    tracklets for the demo, in place of drawn ones"
	@echo "  PYTEST_ARGS=...     more arguments for pytest"

install: $(INSTALLED) ## Build the environment that serves: no PyTorch

demo: $(INSTALLED) ## Start the service, enrol tracklets, search one, write ranked.png
	$(BIN)/python -m not3d demo $${TRACKLETS:+"$$TRACKLETS"}

test: $(DEVELOP) ## Build the environment with PyTorch and the tools, run every test
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(DEVELOP) ## ruff, formatting and mypy --strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy --strict

clean: ## Remove caches, build products and what the demo wrote; the environment stays
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-data ranked.png
	find . \( -path ./.git -o -path './$(VENV)' \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(ENVIRONMENT)/bin/python:
	$(PYTHON) -m venv "$(VENV)"

$(INSTALLED): pyproject.toml | $(ENVIRONMENT)/bin/python
	$(BIN)/python -m pip install --editable '.[cpu]'
	touch "$(VENV)/.installed"

# It holds what $(INSTALLED) stands for, so that is fresh as well.
$(DEVELOP): pyproject.toml | $(ENVIRONMENT)/bin/python
	$(BIN)/python -m pip install --editable '.[cpu,train,tune,bench,quantize,milvus,parquet,ray,dev]'
	touch "$(VENV)/.installed" "$(VENV)/.develop"
