# make demo, make test: everything on a fresh Debian machine. make help lists the rest.
SHELL := /bin/bash
VENV := .venv
BIN := $(VENV)/bin
# Images of containers set it. Then each of the many processes that a demo or a test starts compiles everything anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help

.PHONY: help install demo kind-demo test fast types suite lint bench up down lock clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: ## Create .venv with the pinned packages, and install missing system packages
	@scripts/install run

demo: install  ## Run the comparison once on a one-machine cluster and print the result
	@$(BIN)/bigtcp-bench demo

kind-demo:  ## Run it once on real Cilium in a kind cluster (needs Docker, kind, kubectl, helm)
	@scripts/install kind
	@scripts/kind-demo

test: ## Lint, type check and run every test, the end-to-end run included
	@scripts/install test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory --jobs 2 types suite

fast: ## Run the tests that start no lab, server or browser
	@scripts/install test
	$(BIN)/python -m pytest -n auto -m "not (lab or e2e or postgres or prometheus or browser)"

# Side by side: many tests wait for what they have started.
types:
	$(BIN)/mypy

suite:
	$(BIN)/python -m pytest -n 5 --durations=15

lint: install  ## Only lint and type check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: ## Measure footprint, demo, and the warehouse at ten years of nights (a quarter of an hour; prints Markdown)
	@scripts/install test
	@$(BIN)/python -m benchmarks.footprint; above=$$?; $(BIN)/python -m benchmarks.warehouse && exit $$above

up: install  ## Start the lab and Airflow (UI, scheduler) in the background; PORT=8081, HISTORY=1: with generated nights
	@$(BIN)/bigtcp-bench up $(if $(PORT),--port $(PORT)) $(if $(HISTORY),--history)

down: ## Stop what make up started
	@if [ -x $(BIN)/bigtcp-bench ]; then $(BIN)/bigtcp-bench down; else echo "nothing is installed, so nothing runs"; fi

lock: install ## Resolve requirements.lock again from pyproject.toml
	@scripts/lock

clean: down ## Stop everything and delete what the other targets created
	rm -rf $(VENV) .bigtcp .pytest_cache .mypy_cache .ruff_cache .hypothesis dist plugins/bigtcp_bench/report/charts/vega.js
