# Everything here installs into .venv and .cache of this folder, nowhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export PIP_DISABLE_PIP_VERSION_CHECK := 1
PIP_INSTALL := $(BIN)/python -m pip install --quiet --require-hashes

.PHONY: help demo test check bench manifests lock clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo ## watch a pod run out of local ports, and see it coming; needs no cluster
	@$(BIN)/python -m demo $(DEMO_ARGS)

test: $(VENV)/.dev ## every test tier that this machine can run; says loudly which it cannot
	$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(VENV)/.dev ## lint, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

bench: $(VENV)/.dev ## side by side with ss, node_exporter, psutil and the kernel's own floor, as ratios
	$(BIN)/python -m bench

manifests: $(VENV)/.dev ## write manifests/install.yaml anew, from manifests/base
	$(BIN)/python -m tests.manifests.kustomize

lock: $(VENV)/.dev ## resolve the dependencies anew, pinned with hashes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade pyproject.toml -o requirements/sidecar.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade pyproject.toml --extra webhook -c requirements/sidecar.txt -o requirements/webhook.txt
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --upgrade pyproject.toml --extra webhook --group dev -c requirements/webhook.txt -o requirements/dev.txt

clean: ## remove what the other commands installed or left here
	rm -rf $(VENV) .cache .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metrics-sidecar needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: requirements/webhook.txt | $(BIN)/python
	$(PIP_INSTALL) -r requirements/webhook.txt
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml | $(BIN)/python
	$(PIP_INSTALL) -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@ $(VENV)/.demo
