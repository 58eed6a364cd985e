# Every target makes .venv with what it needs, and only that, and runs with no other preparation.
# Needed beforehand: Python 3.10 or newer with venv, make, perl and g++.

PYTHON ?= python3
BOARD ?= ulx3s_85f
PROMPT ?= Once upon a time
MODEL ?=
TOKENS ?=
DEVICE ?=
PORT ?=
SIM ?= $(if $(shell command -v iverilog),icarus,verilator)
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
SEEDS ?=
LIMIT ?=

VENV := .venv
RUN := $(VENV)/bin/python
MADE_IN := $(VENV)/.made-in

# What users write goes to the shell as it is: in its environment, where nothing expands it.
unexport BOARD PROMPT MODEL TOKENS DEVICE PORT SEEDS LIMIT
export THE_BOARD = $(value BOARD)
export THE_PROMPT = $(value PROMPT)
export THE_MODEL = $(value MODEL)
export THE_TOKENS = $(value TOKENS)
export THE_DEVICE = $(or $(value DEVICE),sim://$(value BOARD))
export THE_PORT = $(value PORT)
export THE_SEEDS = $(value SEEDS)
export THE_LIMIT = $(value LIMIT)
STORY = host/infer.py --device "sim://$$THE_BOARD" --prompt "$$THE_PROMPT" \
	$(if $(value MODEL),--model "$$THE_MODEL") $(if $(value TOKENS),--tokens "$$THE_TOKENS")

ifneq ($(filter sim,$(MAKECMDGOALS)),)
$(if $(filter-out icarus verilator,$(SIM)),$(error SIM must be icarus or verilator, not $(SIM)))
endif

# A .venv that was left unfinished, or came here with a moved or copied checkout, or whose Python is
# gone or another one by now, is made anew.
ifneq ($(filter-out help clean,$(MAKECMDGOALS)),)
ifneq ($(wildcard $(VENV)),)
ifeq ($(shell { test ! -e $(MADE_IN) || test "$$(cat $(MADE_IN))" = "$$(pwd -P)"; } \
	&& $(VENV)/bin/python -I -c 'import pip; print("usable")' 2> /dev/null),)
$(info $(VENV) is unfinished, of another folder, or without its Python: it is made anew)
$(shell rm -rf $(VENV))
endif
endif
endif

.NOTPARALLEL:
.PHONY: help demo profile serve test quick sim estimate explore bitstream bitstream-all sweep program flash budget lint clean

help:
	@awk -F ' ## ' '/^[a-z-]+:.* ## / {split($$1, name, ":"); printf "make %-13s %s\n", name[1], $$2}' \
		$(MAKEFILE_LIST)

demo: $(VENV)/.with-sim ## a story: BOARD=name|path MODEL=name|path TOKENS=n PROMPT=
	$(RUN) $(STORY)

profile: $(VENV)/.with-sim ## the same and where its cycles go: build/BOARD/profile.svg
	$(RUN) $(STORY) --profile

serve: $(VENV)/.with-serve,sim ## a server and a page: DEVICE=sim://BOARD MODEL=name PORT=8080
	$(RUN) -m host.serve --device "$$THE_DEVICE" $(if $(value MODEL),--model "$$THE_MODEL") \
		$(if $(value PORT),--port "$$THE_PORT")

test: $(VENV)/.with-sim,build,serve,sweep,test ## all tests, JOBS=n at a time
	$(RUN) -m pytest -n $(JOBS) tests

sim: $(VENV)/.with-sim,test ## cocotb benches of every unit: SIM=icarus|verilator
	SIM=$(SIM) $(RUN) -m pytest -n $(JOBS) sim/benches

estimate: $(VENV)/.with-sim ## what a board takes, holds and runs: BOARD= MODEL=
	$(RUN) -m sim.explore "$$THE_BOARD" $(if $(value MODEL),--model "$$THE_MODEL")

# Without a BOARD that was given, of all of them.
explore: $(VENV)/.with-sim ## all boards, or machines of all sizes on one: BOARD= MODEL=
	$(RUN) -m sim.explore $(if $(filter-out file,$(origin BOARD)),"$$THE_BOARD" --geometries) \
		$(if $(value MODEL),--model "$$THE_MODEL")

# Only a JOBS that was given counts here: each seed takes a processor and much memory.
HOW = $(if $(value SEEDS),--seeds "$$THE_SEEDS") $(if $(value LIMIT),--limit "$$THE_LIMIT") \
	$(if $(filter-out file,$(origin JOBS)),--jobs $(JOBS))

bitstream: $(VENV)/.with-build,sim ## bitstream, report: BOARD= SEEDS=n JOBS=n LIMIT=minutes
	$(RUN) -m hw.build "$$THE_BOARD" $(HOW)

bitstream-all: $(VENV)/.with-build,sim ## those of all boards, and a table of their reports
	$(RUN) -m hw.build --all $(HOW)

sweep: $(VENV)/.with-build,sweep ## many seeds of a board: BOARD= SEEDS=n JOBS=n LIMIT=minutes
	$(RUN) -m hw.sweep "$$THE_BOARD" $(HOW)

program: $(VENV)/.with-build ## load what bitstream built into a board, until its power goes
	$(RUN) -m hw.build.program "$$THE_BOARD"

flash: $(VENV)/.with-build ## the same, kept in the board's flash: BOARD=ulx3s_85f
	$(RUN) -m hw.build.program "$$THE_BOARD" --flash

budget: $(VENV)/.with-build ## what machines take of their parts, against their budgets
	$(RUN) -m hw.build.budget

quick: lint $(VENV)/.with-sim,build,serve,sweep,test ## lint and the tests that need no compiled machine
	$(RUN) -m pytest -q -n $(JOBS) -m "not whole" tests

lint: $(VENV)/.with-lint,serve,sweep ## style and types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy

clean: ## remove what the other targets made here
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(RUN):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: Python 3.10 or newer is needed")'
	@mkdir -p $(VENV) && : > $(MADE_IN)
	$(PYTHON) -m venv $(VENV)
	@pwd -P > $(MADE_IN)

# One stamp for each set of extras. The project itself is installed in place, so that only pyproject.toml counts.
$(VENV)/.with-%: pyproject.toml | $(RUN)
	$(RUN) -m pip install --quiet --disable-pip-version-check --editable ".[$*]"
	@touch $@
