# Everything runs from the virtual environment in .venv, which `make install` makes from the lock files.
# `make` alone lists the targets.

PYTHON ?= python3
PORT ?= 8080
# Extra words for pytest, such as: make test PYTEST_ARGS="-x -k redemption"
PYTEST_ARGS ?=
UV ?= uv
# Of the plan of `make test-faults`; empty: another one each time.
SEED ?=
# Extra words for the benchmarks, such as: make bench BENCH_ARGS="--only assessor --profile"
BENCH_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

LOCK_COMMAND = $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
	--no-emit-index-url --no-emit-find-links

.DEFAULT_GOAL := help
.PHONY: help install run test test-unit test-faults lint format bench bench-growth bench-memory lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(INSTALLED) ## make the virtual environment and install the pinned dependencies

# The stamp is written last: a changed lock, or an installation that broke off, installs again.
$(INSTALLED): requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Tallymarks needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | tail -n 1)." \
			"Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments. Install its module, then try again:" \
			"apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing the pinned dependencies into $(VENV)"
	@rm -f $@
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

run: $(INSTALLED) ## run everything on this machine in the foreground; PORT=8080
	@exec $(BIN)/python -m tallymarks_local --port $(PORT)

test: $(INSTALLED) ## every test, against real servers, with coverage; PYTEST_ARGS="..."
	@[ -n "$$TALLYMARKS_TEST_AMQP_URL" ] || $(BIN)/python -m tallymarks_local --install-only
	@rm -f .coverage .coverage.*
	$(BIN)/python -m pytest --cov --cov-report=term $(PYTEST_ARGS)

test-unit: $(INSTALLED) ## only the tests that need no server
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

test-faults: $(INSTALLED) ## everything is killed, cut off and stalled under load, for up to 15 minutes; SEED=1
	@$(BIN)/python -m tallymarks_local --install-only
	@exec $(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED))

lint: $(INSTALLED) ## format, lint, types, direction of imports, migrations; known vulnerabilities, where PyPI tells them
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/squawk --assume-in-transaction shared/tallymarks/migrations/*.sql
	$(BIN)/python -m tests.audit requirements.lock requirements-dev.lock

format: $(INSTALLED) ## write the format, and the lint fixes that are safe
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

bench: $(INSTALLED) ## the benchmarks, and one table of ratios, in some minutes; BENCH_ARGS="--only assessor"
	@exec $(BIN)/python -m tests.benchmarks $(BENCH_ARGS)

bench-growth: $(INSTALLED) ## the same beside 10,000,000 stored events: up to 30 GB, up to 30 minutes
	@exec $(BIN)/python -m tests.benchmarks.growth $(BENCH_ARGS)

bench-memory: $(INSTALLED) ## the memory of an api and an assessor that are busy for 5 minutes
	@exec $(BIN)/python -m tests.benchmarks.memory $(BENCH_ARGS)

lock: ## resolve the dependencies anew into the lock files (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv: pip install uv (or name it: make lock UV=...)" >&2; exit 1; }
	$(LOCK_COMMAND) --upgrade pyproject.toml -o requirements.lock
	@# pip, which pip-audit asks for, is the environment's own.
	$(LOCK_COMMAND) --upgrade pyproject.toml --group dev -c requirements.lock --no-emit-package pip -o requirements-dev.lock

clean: ## remove the environment, caches and reports (the data in .local stays)
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .schemathesis htmlcov
	rm -f .coverage .coverage.* coverage.xml
	find shared services deploy tests -name __pycache__ -type d -prune -exec rm -rf {} +
