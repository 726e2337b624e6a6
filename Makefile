# Every command makes the environment it needs; `make help` lists them.
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin
STAMP := .venv/.locked

# The activated environment, and MLflow's telemetry off; stages call plain `python`.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MLFLOW_DISABLE_TELEMETRY := true

.DEFAULT_GOAL := help
.PHONY: help env repro claims test check torture ui lock clean

help: ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(UV):
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv==0.13.9

$(STAMP): requirements.lock pyproject.toml | $(UV)
	test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $(STAMP)

env: $(STAMP) ## Make the environment in .venv

repro: env ## Run the main pipeline: data, training, evaluation, figures, explorer
	$(BIN)/dvc repro

claims: env ## Run both pipelines: also the comparison models and the ledger of claims
	$(BIN)/dvc repro --all-pipelines

test: env ## Run the tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile

check: env ## Lint, format and type checks, the same as pre-commit and CI
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

torture: env ## Inject faults for 15 minutes and print what survived, see docs/reliability.md
	$(BIN)/python -m tests.torture $(TORTURE)

ui: env ## Rebuild missing runs, then show all in MLflow on http://127.0.0.1:5000
	-MLFLOW_TRACKING_URI=sqlite:///mlflow.db $(BIN)/latent sync
	$(BIN)/mlflow ui --host 127.0.0.1 --backend-store-uri sqlite:///mlflow.db

lock: $(UV) ## Solve the dependencies of pyproject.toml anew
	$(UV) pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra dev \
		--custom-compile-command 'make lock' --upgrade pyproject.toml --output-file requirements.lock

clean: ## Delete the checkpoints of abandoned trainings (only while none runs)
	rm -rf .pipeline/checkpoints
