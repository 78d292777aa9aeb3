# Everything that a person types. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
UV := $(BIN)/uv
# Compiled once, here and below, because PYTHONDONTWRITEBYTECODE would make every process compile all that it imports.
INSTALL := $(UV) pip install --quiet --compile-bytecode --python
# In the order of their paths: sorted by number of tests, the few long ones would come last, in one process.
PARALLEL := -n 2 --dist loadfile --no-loadscope-reorder
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
export MLFLOW_DISABLE_TELEMETRY := true
export RAY_USAGE_STATS_ENABLED := 0
export FEAST_USAGE := False

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: serve
serve: $(VENV)/.runtime ## Install what is needed and run the platform in the foreground (Ctrl-C stops it)
	@$(BIN)/ml-serve up $(ARGS)

.PHONY: test
test: check clients ## Everything that CI runs: the checks, then the tests that need a running platform
	$(BIN)/pytest -m "ray and not faults" $(ARGS)

.PHONY: check
check: $(VENV)/.dev ## Format, lint, types, layers, generated files, documentation and the quick tests
	@$(MAKE) --no-print-directory --jobs 2 --output-sync types style
	$(BIN)/pytest -m "not ray" $(PARALLEL) $(ARGS)

.PHONY: types
types: $(VENV)/.dev
	$(BIN)/mypy

.PHONY: style
style: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check
	$(BIN)/python docs/build_site.py

.PHONY: parity
parity: $(VENV)/.dev ## Compare with MLflow over generated models, requests and answers; N=EXAMPLES and SEED=NUMBER choose them
	PARITY_EXAMPLES=$(or $(N),5000) PARITY_SEED=$(or $(SEED),$(shell date +%s)) $(BIN)/pytest -s tests/parity tests/contract/test_mlflow_answers.py

.PHONY: fuzz
fuzz: $(VENV)/.dev ## Fuzz every parser of what callers send; SECONDS=600 for all together, T=TARGETS narrows it
	$(BIN)/python -m tests.fuzz.fuzz --seconds $(or $(SECONDS),600) $(T)

.PHONY: faults
faults: $(VENV)/.dev ## Rehearse faults under load, and write what callers saw into docs/operate/failures.md
	@mkdir -p .reports && rm -f .reports/faults.jsonl
	FAULTS_REPORT=.reports/faults.jsonl $(BIN)/pytest -s tests/faults
	$(BIN)/python -m tests.faults.report .reports/faults.jsonl docs/operate/failures.md docs/operate/faults.svg

.PHONY: hostile
hostile: $(VENV)/.dev ## Send hostile requests to a running platform, and to every parser for SECONDS
	$(BIN)/pytest -s tests/end_to_end/test_hostile.py tests/contract/test_wrong_requests.py
	@$(MAKE) --no-print-directory fuzz

.PHONY: soak
soak: $(VENV)/.dev ## Send mixed traffic for MINUTES, 60 by default, and show that no resource grows
	$(BIN)/python -m tests.soak.run $(or $(MINUTES),60) .reports/soak.json

.PHONY: coverage
coverage: $(VENV)/.dev clients ## Measure the branches that the quick and the platform's tests run together, and hold them to the floors
	$(BIN)/pytest -m "not ray" $(PARALLEL) --cov --cov-report=
	$(BIN)/pytest -m "ray and not faults" --cov --cov-append --cov-report=
	$(BIN)/coverage report --include "app/serving/*,app/api/*" --fail-under 98
	$(BIN)/coverage report --fail-under 96

.PHONY: bench
bench: $(VENV)/.dev ## Measure side by side with the peers; W=WORKLOADS, S=SYSTEMS and ROUNDS=N narrow it, BEFORE=CHECKOUT adds one
	$(BIN)/python -m benchmarks.bench $(if $(W),--workloads $(W)) $(if $(S),--systems $(S)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
		$(if $(BEFORE),--before $(BEFORE)) $(ARGS)

.PHONY: compare
compare: $(VENV)/.dev ## Compare with another checkout, BEFORE, while both run: finds differences of a few percent; W=WORKLOADS
	$(BIN)/python -m benchmarks.paired --before $(BEFORE) $(if $(W),--workloads $(W)) $(ARGS)

.PHONY: install
install: $(VENV)/.dev $(CLIENTS)/.done ## Install what all other targets need; `make --jobs 2 install` is faster

.PHONY: clients
clients: $(CLIENTS)/.done ## Install other projects' clients, which examples and tests use, into an environment of their own

.PHONY: format
format: $(VENV)/.dev ## Format the code and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: openapi
openapi: $(VENV)/.dev ## Write the generated files: openapi/gateway.yaml, docs/settings.md, the code of openapi/inference.proto
	$(BIN)/python docs/generate.py

.PHONY: docs
docs: $(VENV)/.dev ## Build the documentation and show it on http://127.0.0.1:8080 (Ctrl-C stops it)
	$(BIN)/python docs/build_site.py --serve

.PHONY: lock
lock: ## Update the locked requirements
	requirements/lock.sh

.PHONY: clean
clean: ## Remove the environments and the built documentation
	rm -rf $(VENV) $(CLIENTS) .venv-peers .site .cache .reports

.PHONY: reset
reset: ## Remove the embedded state in .ml-serve: registry, models, feature store
	rm -rf .ml-serve

# The dev requirements contain the runtime ones at the same versions, so either may come first.
$(VENV)/.runtime: requirements/runtime.txt pyproject.toml clients/python/pyproject.toml | $(UV)
	$(INSTALL) $(BIN)/python --require-hashes --requirement requirements/runtime.txt
	$(INSTALL) $(BIN)/python --no-deps --no-build-isolation --editable clients/python --editable .
	$(BIN)/python -m compileall -q app clients/python/src
	@touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml clients/python/pyproject.toml | $(UV)
	$(INSTALL) $(BIN)/python --require-hashes --requirement requirements/dev.txt
	$(INSTALL) $(BIN)/python --no-deps --no-build-isolation --editable clients/python --editable .
	$(BIN)/python -m compileall -q app clients/python/src
	@touch $@ $(VENV)/.runtime

$(CLIENTS)/.done: requirements/clients.txt | $(UV)
	$(BIN)/python -m venv $(CLIENTS)
	$(INSTALL) $(CLIENTS)/bin/python --require-hashes --requirement requirements/clients.txt
	@touch $@

# uv takes a tenth of pip's time.
$(UV): | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --require-hashes --requirement requirements/uv.txt

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
		{ echo "Python 3.11, 3.12 or 3.13 is needed; choose one with: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "Python's venv module is needed: on Debian, apt-get install python3-venv"; exit 1; }
