# Every target that needs the environment makes it first; nothing but Python 3.11 and make is expected.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TRAIN := $(BIN)/python -m anomaly_lightning.train
ARGS ?=
# Tests run side by side, one thread each; a file stays with one process, which keeps what its tests share.
JOBS ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install demo train evaluate test test-all lint type format bench tensorboard clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-12s %s\n", $$1, $$2}'

install: $(READY) ## Make .venv with a set of packages that is known to work

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here; name yours: make PYTHON=python3 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## Train on generated leather with weights that need no download, and show what came out
	$(TRAIN) data=synthetic category=leather backbone=efficientnet_lite0 $(ARGS)

train: $(READY) ## Train; say what with ARGS="category=leather data.root=..."
	$(TRAIN) $(ARGS)

evaluate: $(READY) ## Metrics of a checkpoint: ARGS="checkpoint=outputs/.../best.ckpt"
	$(BIN)/python -m anomaly_lightning.evaluate $(ARGS)

test: $(READY) ## Run the tests (eleven minutes on two cores)
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY) ## Run all tests, the slow ones too
	$(PYTEST) $(ARGS)

lint: $(READY) ## Check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## Check types
	$(BIN)/mypy

format: $(READY) ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) ## Measure speed and memory on this machine
	$(BIN)/python -m anomaly_lightning.benchmark $(ARGS)

tensorboard: $(READY) ## Look at all runs in outputs/
	$(BIN)/tensorboard --logdir outputs

clean: ## Remove the environment and the tools' caches; outputs stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build dist *.egg-info
