# Every command makes the environment it needs; `make help` lists them.
PYTHON ?= python3
UV := .uv/bin/uv
BIN := .venv/bin

# The build of torch: that of PyPI, on Linux with CUDA, or the CPU build of PyTorch's own index. It is kept until another is named.
TORCH ?= $(or $(patsubst .venv/.locked-%,%,$(wildcard .venv/.locked-*)),default)
$(if $(filter $(TORCH),default cpu),,$(error TORCH is $(TORCH); allowed are default and cpu))
STAMP := .venv/.locked-$(TORCH)
SIZE_default := 3.3 GB to download and 6.6 GB on disk on Linux (without CUDA about 0.5 and 2 GB: make env TORCH=cpu)
SIZE_cpu := about 0.5 GB to download and 2 GB on disk
PROGRESS := $(shell test -t 2 || echo --quiet) # uv's bars, on a terminal

EXTRAS := notebook onnx ray s3 search server slurm # optional parts of pyproject.toml, a target each
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
.PHONY: help env repro claims test coverage check audit torture mutants ui docs lock clean $(EXTRAS)

help: ## List the commands
	@grep -hE '^[a-z0-9]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-8s %s\n", $$1, $$2}'

$(UV): .ci/requirements-uv.txt
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --require-hashes --requirement .ci/requirements-uv.txt
	touch $(UV)

# The CPU builds are other files than those in requirements.lock: the hashes of torch and torchvision alone are not checked.
CPU_LOCK := awk '/^[a-z]/ {drop = /^(cuda|nvidia)-|^triton=/; torch = /^torch(vision)?=/} drop || torch && /^ / {next} \
	torch {sub(/ .*/, "")} {print}' requirements.lock
BOTH := --reinstall-package torch --reinstall-package torchvision # both builds have the same version
SYNC = $(UV) pip sync $(PROGRESS) --python $(BIN)/python --compile-bytecode $(if $(filter-out $(STAMP),$(wildcard .venv/.locked-*)),$(BOTH))

$(STAMP): requirements.lock pyproject.toml | $(UV)
	@echo "make: the environment in .venv, $(SIZE_$(TORCH)); what uv has is not downloaded again" >&2
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) .venv
ifeq ($(TORCH),cpu)
	@$(CPU_LOCK) > .venv/cpu.lock
	@grep -E '^torch(vision)?=' .venv/cpu.lock | $(UV) pip install --dry-run --quiet --python $(BIN)/python --reinstall --no-deps \
		--torch-backend cpu --requirement - 2>/dev/null || { echo "error: PyTorch's index of CPU builds cannot be reached;" \
		"try again, or take the build with CUDA: make env TORCH=default" >&2; exit 1; }
	@$(SYNC) --torch-backend cpu .venv/cpu.lock
else
	@$(SYNC) --require-hashes requirements.lock
endif
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@rm -f .venv/.locked* $(EXTRAS:%=.venv/.%) && touch $(STAMP)
	@echo "make: done; source .venv/bin/activate puts dvc, mlflow and latent on your path" >&2

env: $(STAMP) ## Make the environment in .venv (TORCH=cpu: without CUDA)

repro: env ## Run the main pipeline: data, training, evaluation, figures, explorer
	$(BIN)/dvc repro
	@$(BIN)/latent summary # also when DVC had nothing to run

claims: env ## Run both pipelines: also the comparison models and the ledger of claims
	$(BIN)/dvc repro --all-pipelines
	@$(BIN)/latent summary

test: env ## Run the tests
	$(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0

coverage: env ## Run the tests and print the lines that none of them runs
	COVERAGE_FILE=$(CURDIR)/.coverage $(BIN)/pytest --numprocesses 2 --dist loadfile --max-worker-restart 0 --cov --cov-report term-missing:skip-covered --cov-fail-under 92

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

$(EXTRAS:%=.venv/.%): .venv/.%: .ci/requirements-%.txt $(STAMP)
	@$(UV) pip install $(PROGRESS) --python $(BIN)/python --no-deps --require-hashes --requirement $<
	@touch $@

notebook: .venv/.notebook ## Open the tutorial in Jupyter
	$(BIN)/jupyter lab --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.handlers.announcements.NeverCheckForUpdate notebooks/latent_spaces.ipynb

onnx: .venv/.onnx ## Add what `latent export --onnx` needs to the environment

ray: .venv/.ray ## Add what `latent sweep --backend ray` needs to the environment

s3: .venv/.s3 ## Add what artifacts and DVC remotes on S3 need to the environment

search: .venv/.search ## Add what `latent search` needs to the environment

server: .venv/.server ## Add what `deploy/local.sh` needs to the environment

slurm: .venv/.slurm ## Add what `latent sweep --backend slurm` needs to the environment

.uv/docs/bin/mkdocs: .ci/requirements-docs.txt | $(UV)
	@$(UV) venv --quiet --clear --python $(PYTHON) .uv/docs
	@$(UV) pip sync --quiet --python .uv/docs/bin/python --require-hashes $<
	@touch $@

docs: .uv/docs/bin/mkdocs ## Make the documentation's site in site/
	@NO_MKDOCS_2_WARNING=1 $< build --strict
	@echo "make: the site is in site/; look at it with: python3 -m http.server --directory site --bind 127.0.0.1"

COMPILE := pip compile --quiet --universal --generate-hashes --python-version 3.11 --custom-compile-command 'make lock' --upgrade
EXTRA := $(PYTHON) -c 'import sys, tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"][sys.argv[1]], sep="\n")'

lock: $(UV) ## Solve the dependencies of pyproject.toml and of the tools anew
	$(UV) $(COMPILE) --extra dev pyproject.toml --output-file requirements.lock
	$(EXTRA) docs | $(UV) $(COMPILE) - --output-file .ci/requirements-docs.txt
	$(EXTRA) notebook | $(UV) $(COMPILE) - --constraints requirements.lock --output-file .ci/requirements-notebook.txt
	$(EXTRA) onnx | $(UV) $(COMPILE) - --constraints requirements.lock --output-file .ci/requirements-onnx.txt
	$(EXTRA) ray | $(UV) $(COMPILE) - --constraints requirements.lock --output-file .ci/requirements-ray.txt
	echo 'python-dateutil>=2.1' > .uv/overrides.txt # botocore asks for one before 3, uses its parser and tz alone, and works with 4
	$(EXTRA) s3 | $(UV) $(COMPILE) - --constraints requirements.lock --override .uv/overrides.txt --output-file .ci/requirements-s3.txt
	$(EXTRA) search | $(UV) $(COMPILE) - --constraints requirements.lock --output-file .ci/requirements-search.txt
	$(EXTRA) server | $(UV) $(COMPILE) - --constraints requirements.lock --override .uv/overrides.txt --output-file .ci/requirements-server.txt
	$(EXTRA) slurm | $(UV) $(COMPILE) - --constraints requirements.lock --output-file .ci/requirements-slurm.txt
	echo uv | $(UV) $(COMPILE) - --output-file .ci/requirements-uv.txt
	echo pip-audit | $(UV) $(COMPILE) - --output-file .ci/requirements-audit.txt

clean: ## Delete the checkpoints of abandoned trainings (only while none runs)
	rm -rf .pipeline/checkpoints
