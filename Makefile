# Every command makes the environment it needs; `make help` lists them.
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
STAMP := .venv/.locked

PORT := 5000
SAMPLE := 80
SEED := 1

# The activated environment, and MLflow's telemetry off; stages call plain `python`.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

# DVC unpickles what lies in its site cache, so that is a folder of this user alone and not the world-writable /var/tmp/dvc.
export DVC_SITE_CACHE_DIR ?= $(CURDIR)/.dvc/tmp/site_cache
$(shell mkdir -p .dvc/tmp && mkdir -p -m 700 .dvc/tmp/site_cache)

.DEFAULT_GOAL := help
.PHONY: help env repro claims test coverage check audit torture mutants ui lock clean

help: ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(UV): .ci/requirements-uv.txt
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --require-hashes --requirement .ci/requirements-uv.txt
	touch $(UV)

$(STAMP): requirements.lock pyproject.toml | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(STAMP)

env: $(STAMP) ## Make the environment in .venv

repro: env ## Run the main pipeline: data, training, evaluation, figures, explorer
	@touch .dvc/tmp/repro
	$(BIN)/dvc repro
	@test metrics/summary.json -nt .dvc/tmp/repro || $(BIN)/latent summary # which the last stage prints if it runs

claims: env ## Run both pipelines: also the comparison models and the ledger of claims
	$(BIN)/dvc repro --all-pipelines

test: env ## Run the tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile

coverage: env ## Run the tests and print the lines that none of them runs
	$(BIN)/pytest --numprocesses 2 --dist loadfile --cov --cov-report term-missing:skip-covered --cov-fail-under 92

check: env ## Lint, format and type checks, the same as pre-commit and CI
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(UV) ## Look the locked packages up in the database of known vulnerabilities
	.ci/audit

torture: env ## Inject faults for 15 minutes and print what survived, see docs/reliability.md
	$(BIN)/python -m tests.torture $(TORTURE)

mutants: env ## Change the code a little, many times, and print what no test notices, see docs/mutants.md
	nice -n 19 $(BIN)/python -m tests.mutants $(foreach room,$(ROOM),--room $(room)) --sample $(SAMPLE) --seed $(SEED)

ui: env ## Rebuild missing runs, then show all in MLflow on http://127.0.0.1:5000 (or PORT=5001)
	@$(BIN)/latent ui --port $(PORT)

COMPILE := pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command 'make lock' --upgrade

lock: $(UV) ## Solve the dependencies of pyproject.toml and of the tools anew
	$(UV) $(COMPILE) --extra dev pyproject.toml --output-file requirements.lock
	echo uv | $(UV) $(COMPILE) - --output-file .ci/requirements-uv.txt
	echo pip-audit | $(UV) $(COMPILE) - --output-file .ci/requirements-audit.txt

clean: ## Delete the checkpoints of abandoned trainings (only while none runs)
	rm -rf .pipeline/checkpoints
