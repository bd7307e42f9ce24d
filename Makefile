# `make demo` and `make test` need nothing but Python 3.11 or 3.12: each makes .venv by itself when it is missing or old.
SHELL := /bin/bash
PYTHON ?= $(shell for p in python3.12 python3.11 python3; do $$p -c 'import sys; sys.exit(sys.version_info[:2] not in ((3,11),(3,12)))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
READY := .venv/.ready
export UV_CACHE_DIR ?= $(HOME)/.cache/uv

.PHONY: demo test test-slow test-gpu sweep check format constraints wheel clean

demo: $(READY)
	@$(BIN)/vlm demo

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-slow: $(READY)
	$(BIN)/python -m pytest -q -m slow

test-gpu: $(READY)
	$(BIN)/python -m pytest -q -m gpu

sweep: $(READY)  ## the check over timm's families and open_clip's towers; goes on where it stopped, rm -r runs/sweep starts anew
	HF_HUB_OFFLINE=1 $(BIN)/python -m tests.encoders.sweep run runs/sweep/results.jsonl

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow and not gpu and not long"

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

constraints:  ## new pins, from the ranges in pyproject.toml; no address gets into the file
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --upgrade \
	  --extra dev --extra weights --extra hf --extra build --extra plots --extra lora --extra eval --extra parquet --extra remote \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -q -o constraints.txt
	$(BIN)/uv pip compile pyproject.toml --universal --python-version 3.11 --upgrade --extra lmms-eval \
	  --generate-hashes --no-header --no-annotate --no-emit-index-url -q -o constraints-lmms-eval.txt

wheel: $(READY)
	$(BIN)/python -m build --wheel --no-isolation --outdir dist

clean:
	rm -rf .venv build dist *.egg-info

# The stamp is written last, so a set-up that broke off is done again. uv is pinned; where it cannot be had, pip does the same.
$(READY): constraints.txt constraints-uv.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or 3.12 found; install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 2; }
	@echo "Setting up .venv (once; about 6 GB, a minute or two) ..."
	@rm -f $@
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@if $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r constraints-uv.txt \
	  && $(BIN)/uv pip sync -q --python $(BIN)/python --require-hashes --allow-empty-requirements constraints.txt constraints-uv.txt; \
	then :; else echo "uv did not work here; going on with pip"; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes --no-deps -r constraints.txt || exit 1; fi
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip -q
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -c "import torch, torchvision, lightning, timm, open_clip, webdataset, vlm, encoders, data, eval"
	@touch $@
