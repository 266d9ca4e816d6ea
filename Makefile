# make search   set up, search the demo space on real data, print the answer, draw the map
# make test     set up, run the tests
# make help     the rest

PYTHON ?= python3
VENV ?= .venv
STUDY ?= search_spaces/digits_lr_clip.yaml
# For a CUDA build of torch: make search TORCH_INDEX_URL=<the index URL that PyTorch names for it>
TORCH_INDEX_URL ?=

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help setup search test test-slow check format bench faults objectives spaces truth answer gate-truth clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED)  ## Create the environment with the tested versions.

$(INSTALLED): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (about a minute the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) --upgrade pip
	@$(if $(TORCH_INDEX_URL),$(BIN)/python -m pip install --quiet torch --index-url $(TORCH_INDEX_URL))
	@$(PIP_INSTALL) --editable . --group dev
	@touch $@

search: $(INSTALLED)  ## Run the demo study (STUDY=file for another); again: resume or repeat the answer.
	$(BIN)/stabsearch run $(STUDY)

test: $(INSTALLED)  ## Run the tests (a few minutes; a real Ray, no GPU, no network).
	$(BIN)/python -m pytest -n 2

test-slow: $(INSTALLED)  ## Run the tests that take minutes each.
	$(BIN)/python -m pytest -m slow --timeout 1800

check: $(INSTALLED)  ## Lint, format, types, import direction, spelling.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(INSTALLED)  ## Rewrite files in the project's format.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)  ## Measure what telemetry and ghost norms cost, and a whole search against pure training.
	$(BIN)/python -m benchmarks.training_cost
	$(BIN)/python -m benchmarks.compile_gain
	$(BIN)/python -m benchmarks.search_overhead
	$(BIN)/python -m benchmarks.judge_cost

objectives: $(INSTALLED)  ## Train every prediction type x schedule x weighting (ten minutes).
	$(BIN)/python -m benchmarks.objectives

spaces: $(INSTALLED)  ## Run every study file end to end and keep its answer (half an hour).
	$(BIN)/python -m benchmarks.search_spaces

truth: $(INSTALLED)  ## Verdicts against grids of trials whose end is known (an hour of training once, then minutes).
	$(BIN)/python -m benchmarks.truth

answer: $(INSTALLED)  ## The answers of stabsearch and of other tuners: what they cost, what they are worth (after `make truth`).
	@$(PIP_INSTALL) --group peers
	$(BIN)/python -m benchmarks.answer

gate-truth: $(INSTALLED)  ## Train the demo's settings to the end without the gate; compare the verdicts.
	$(BIN)/python -m benchmarks.gate_truth

faults: $(INSTALLED)  ## Put faults into healthy runs: are they named, and does the advice help? (ten minutes)
	$(BIN)/python -m benchmarks.faults

clean:  ## Remove the environment and caches; results stay.
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
