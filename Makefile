# Two commands matter: `make demo` and `make test`. Each makes .venv when it is missing.
# PYTHON=/path/to/python picks the interpreter; otherwise the first of 3.10-3.13 that is found.
VENV    := .venv
BIN     := $(VENV)/bin
STAMP   := $(VENV)/.installed
IN_RANGE = -c 'import sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))'
PYTHON  ?= $(shell for p in python3 python3.12 python3.13 python3.11 python3.10; do \
              if $$p $(IN_RANGE) 2>/dev/null; then echo $$p; break; fi; done)
PIP     := $(BIN)/python -m pip
PIP_RUN := $(PIP) --disable-pip-version-check install --quiet -c constraints.txt
LAVA    := lava-nc==0.10.0
PEERS   := "spikingjelly==2.0.0; python_version >= '3.11'" norse==1.1.0
COUNTERS := neurobench==2.3.0 "syops==0.0.5; python_version >= '3.11'" sinabs==3.1.3
TONIC   := tonic==1.7.0

.PHONY: demo test lint bench clean install
.DEFAULT_GOAL := demo

demo: $(STAMP)
	@$(BIN)/rmp-deploy demo

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py infer_float --quick

install: $(STAMP)

# lava-nc 0.10.0 declares Python <3.11 but runs on 3.11-3.13 with rmp_deploy.converters.lava.compat.
# There it is installed without its (older) pins, after its dependencies, which the extra `lava` brings. SpikingJelly and
# Norse are installed without torchvision, matplotlib and more, which their neurons do not need; see the extra `bench`.
# So are NeuroBench, syops and sinabs, whose counts ours are compared with, and tonic; see the extra `events`. Pillow is
# the part of the extra `vision` that works beside any torch.
# lava-dl (also Python <3.11 by its own word) is the judge of what we write as .net.
$(STAMP): pyproject.toml constraints.txt Makefile
	@test -L rmp_deploy/converters || { echo "error: rmp_deploy/converters is not a symlink. Run 'git config core.symlinks true' and check out again."; exit 2; }
	@test -n "$(PYTHON)" || { echo "error: no python3 of version 3.10-3.13 with the venv module found. Set PYTHON=/path/to/python."; exit 2; }
	@echo "installing into $(VENV) (a few minutes, once) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_RUN) -e ".[train,lava,nir,netx,events,tensorboard,bench,dev]" pillow
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || exit 0; \
	    $(PIP) --disable-pip-version-check install --quiet --no-deps --ignore-requires-python "$(LAVA)"
	@$(PIP_RUN) --no-deps $(PEERS) $(COUNTERS) $(TONIC)
	@$(PIP_RUN) --no-deps --ignore-requires-python lava-dl
	@touch $@

clean:
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
