# `make demo` runs the main job, `make test` the tests; each sets up .venv by itself, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ready
RUN := $(BIN)/python

.PHONY: demo test cover gate soak check format bench setup notebooks clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	$(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[cli,demo,notebook,test,check,bench,zstd,plot,prometheus,lightning,huggingface,arrow]'
	touch $@

setup: $(STAMP)  ## fill .venv with all that check, test, demo and the notebooks need

demo: $(STAMP)  ## the main job on real text
	$(RUN) -m mmsb_torch.demo

test: $(STAMP)  ## the tests
	$(RUN) -m pytest -n 2

cover: $(STAMP)  ## the same, with coverage: nearly twice as long
	$(RUN) -m pytest -n 2 --cov --cov-report=term

gate: $(STAMP)  ## the reliability rows at full length; build/reliability-gate.json has the result
	MMSB_GATE=1 $(RUN) -m pytest -n 2 --dist worksteal -p no:randomly tests/reliability tests/memory/collecting \
		tests/training/test_kills.py \
		tests/graph/scope/test_programs.py --timeout 1200

soak: $(STAMP)  ## the same for hours, and the laws and the state machine with many examples
	MMSB_GATE=soak HYPOTHESIS_PROFILE=soak $(RUN) -m pytest -n 2 --dist worksteal tests/reliability \
		tests/integration/test_machine.py tests/types tests/graph/scope/test_programs.py --timeout 36000
	MMSB_SOAK=1 $(RUN) -m pytest -n 2 tests/integration/tables
	MMSB_STRESS_S=600 $(RUN) -m pytest tests/integration/threads/test_instrumented.py --timeout 1200

check: $(STAMP)  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)  ## let ruff format and fix what it can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(STAMP)  ## the measured table: medians and ratios to the floor
	$(RUN) benchmarks/run.py

clean:  ## forget .venv and every cache
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage* build *.egg-info
