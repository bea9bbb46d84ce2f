# All tasks of a clone; `make` lists them.

PYTHON ?= python3
VENV ?= .venv
TRACKLETS ?=
PYTEST_ARGS ?=
WORKERS ?= 2

# Stamps in the environment say that it was installed from the current pyproject.toml and locks, so a second run costs
# nothing. They are inside the environment, which may be anywhere, so that both are removed together. In file names,
# make needs a backslash before a space.
empty :=
ENVIRONMENT := $(subst $(empty) $(empty),\ ,$(VENV))
INSTALLED := $(ENVIRONMENT)/.installed
DEVELOP := $(ENVIRONMENT)/.develop
BIN := "$(VENV)"/bin

# Programs that write the locks and the SBOM, in an environment of their own.
TOOLS := build/tools
LOCK := $(TOOLS)/bin/python -m uv pip compile --quiet --upgrade --universal --generate-hashes --no-annotate \
	--custom-compile-command "make lock"

# Exported, so that the shell reads it with its spaces and quotes.
export TRACKLETS

.DEFAULT_GOAL := help
.PHONY: help install demo demo-site test lint lock sbom clean

help: ## Show this list
	@echo "not3d: video person re-identification search"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '  make %-9s %s\n' "$$target" "$$text"; done
	@echo
	@echo "  VENV=$(VENV)          where the environment lives"
	@echo "  PYTHON=$(PYTHON)      the Python (3.11 or later) that makes it"
	@echo "  TRACKLETS=FOLDER    tracklets for the demo, instead of drawn ones"
	@echo "  PYTEST_ARGS=...     more arguments for pytest"
	@echo "  WORKERS=$(WORKERS)           processes that run the tests"

install: $(INSTALLED) ## Build the environment that serves (without PyTorch)

demo: $(INSTALLED) ## Start the service, enrol tracklets, search, write ranked.png
	$(BIN)/python -m not3d demo $${TRACKLETS:+"$$TRACKLETS"}

demo-site: $(INSTALLED) ## Draw a site with four cameras, follow people through it on the search page
	$(BIN)/python -m not3d demo-site

# One thread for each worker: more would only take CPU time from the other workers.
test: $(DEVELOP) ## Build the environment with PyTorch and all tools, and run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)

lint: $(DEVELOP) ## ruff, formatting and mypy --strict
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy --strict

lock: $(TOOLS)/.installed ## Update requirements/*.txt to the newest versions that pyproject.toml allows
	$(LOCK) pyproject.toml --extra cpu --extra train --extra tune --extra bench --extra quantize --extra milvus --extra parquet \
		--extra ray --extra kafka --extra dev --output-file requirements/dev.txt
	$(LOCK) pyproject.toml --constraints requirements/dev.txt --extra cpu --extra bridge --output-file requirements/cpu.txt
	$(LOCK) pyproject.toml --constraints requirements/dev.txt --extra cpu --extra bridge --extra milvus --output-file requirements/milvus.txt
	$(LOCK) pyproject.toml --constraints requirements/cpu.txt --extra gpu --output-file requirements/gpu.txt
	$(LOCK) pyproject.toml --constraints requirements/cpu.txt --extra gpu13 --output-file requirements/gpu13.txt
	$(LOCK) --constraints requirements/dev.txt --group build --output-file requirements/build.txt
	$(LOCK) --group compiler --output-file requirements/compiler.txt
	$(LOCK) --group tools --output-file requirements/tools.txt

sbom: $(INSTALLED) $(TOOLS)/.installed ## Write dist/sbom.json: what the environment holds, in CycloneDX
	mkdir -p dist
	$(TOOLS)/bin/python -m cyclonedx_py environment --pyproject pyproject.toml --output-reproducible \
		--output-file dist/sbom.json $(BIN)/python

clean: ## Remove caches, build products and files of the demo, but not the environment
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis demo-data ranked.png
	find . \( -path ./.git -o -path './$(VENV)' \) -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

$(ENVIRONMENT)/bin/python:
	$(PYTHON) -m venv "$(VENV)"

$(INSTALLED): pyproject.toml requirements/build.txt requirements/cpu.txt | $(ENVIRONMENT)/bin/python
	$(BIN)/python -m pip install --require-hashes -r requirements/build.txt -r requirements/cpu.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch "$(VENV)/.installed"

# This environment also serves, so both stamps are new.
$(DEVELOP): pyproject.toml requirements/build.txt requirements/dev.txt | $(ENVIRONMENT)/bin/python
	$(BIN)/python -m pip install --require-hashes -r requirements/build.txt -r requirements/dev.txt
	$(BIN)/python -m pip install --no-deps --no-build-isolation --editable .
	touch "$(VENV)/.installed" "$(VENV)/.develop"

$(TOOLS)/.installed: requirements/tools.txt
	$(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --require-hashes -r requirements/tools.txt
	touch $@
