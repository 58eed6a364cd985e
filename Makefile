# Every target makes .venv with what it needs, and only that, and runs with no other preparation.
# Needed beforehand: Python 3.10 or newer with venv, make, perl and g++.

PYTHON ?= python3
BOARD ?= ulx3s_85f
PROMPT ?= Once upon a time
SIM ?= $(if $(shell command -v iverilog),icarus,verilator)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SEEDS ?=
LIMIT ?=

VENV := .venv
RUN := $(VENV)/bin/python

.NOTPARALLEL:
.PHONY: help demo profile test sim bitstream lint clean

help:
	@awk -F ' ## ' '/^[a-z]+:.* ## / {split($$1, name, ":"); printf "make %-10s %s\n", name[1], $$2}' \
		$(MAKEFILE_LIST)

demo: $(VENV)/.with-sim ## a story from the simulated board: BOARD=ulx3s_85f PROMPT="..."
	$(RUN) host/infer.py --device "sim://$(BOARD)" --prompt "$(PROMPT)"

profile: $(VENV)/.with-sim ## the same with where its cycles go: build/BOARD/profile.svg
	$(RUN) host/infer.py --device "sim://$(BOARD)" --prompt "$(PROMPT)" --profile

test: $(VENV)/.with-sim,build,test ## all tests, JOBS=n at a time
	$(RUN) -m pytest -n $(JOBS) tests

sim: $(VENV)/.with-sim,test ## cocotb benches of every unit: SIM=icarus|verilator
	SIM=$(SIM) $(RUN) -m pytest -n $(JOBS) sim/benches

# Only a JOBS that was given counts here: each seed takes a processor and much memory.
bitstream: $(VENV)/.with-build,sim ## bitstream and report: BOARD=ulx3s_85f SEEDS=n JOBS=n LIMIT=minutes
	$(RUN) -m hw.build $(BOARD) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(LIMIT),--limit $(LIMIT)) \
		$(if $(filter-out file,$(origin JOBS)),--jobs $(JOBS))

lint: $(VENV)/.with-lint ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy

clean: ## remove what the other targets made here
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

# One stamp for each set of extras. The project itself is installed in place, so that only pyproject.toml counts.
$(VENV)/.with-%: pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@
