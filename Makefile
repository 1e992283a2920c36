# Works on a machine with Python 3.11 or newer and nothing else: whatever a
# target needs is installed into .venv first, once.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LEAST_BRANCHES := 95
FUZZ_TARGETS := frames handshake messages datagrams names journal
FUZZ_SECONDS := 60

# An editable install finds the twistd plugins only in this mode.
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet \
	--config-settings editable_mode=compat

.DELETE_ON_ERROR:
.PHONY: help demo test unit system seeds lint types docs package bench fuzz clean

help:
	@echo "make demo     a registry and two nodes move and verify a file, as you watch"
	@echo "make test     unit tests under trial and pytest, branch coverage, system tests"
	@echo "make seeds    networks in memory: nodes, 1000 beacons, swarms, elections; 2500 seeds"
	@echo "make lint     ruff: rules and formatting"
	@echo "make types    mypy --strict"
	@echo "make docs     the manual in docs/_build/html, the API in docs/api"
	@echo "make package  build sdist and wheel, and try them in clean environments"
	@echo "make bench    every figure of docs/performance.rst, measured here; half an hour"
	@echo "make fuzz     coverage-guided fuzzing, each target for a minute"
	@echo "make clean    remove what the others made, but for .venv"

demo: $(VENV)/.test
	$(BIN)/flow512 demo

test: unit system

unit: $(VENV)/.test
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage json --quiet -o - | $(BIN)/python tools/branch_coverage.py $(LEAST_BRANCHES)
	$(BIN)/python -m twisted.trial --random=0 tests

system: $(VENV)/.test
	$(BIN)/python -m pytest tests/system

seeds: $(VENV)/.test
	FLOW512_BEACONS=1000 $(BIN)/python -m pytest tests/unit/test_beacon_traffic.py & \
	FLOW512_SEEDS=0:80 $(BIN)/python -m pytest tests/unit/test_network_of_nodes.py && \
	FLOW512_SWARM_SEEDS=20:320 $(BIN)/python -m pytest tests/unit/test_swarms.py && wait $$!
	FLOW512_SWARM_OF_NODES_SEEDS=8:38 $(BIN)/python -m pytest tests/unit/test_swarm_of_nodes.py & \
	FLOW512_SWARM_OF_NODES_SEEDS=38:68 $(BIN)/python -m pytest tests/unit/test_swarm_of_nodes.py \
	&& wait $$!
	FLOW512_ELECTION_SEEDS=0:1000 $(BIN)/python -m pytest tests/unit/test_elections.py & \
	FLOW512_ELECTION_SEEDS=1000:2000 $(BIN)/python -m pytest tests/unit/test_elections.py \
	&& wait $$!
	FLOW512_VILLAGE_SEEDS=0:60 $(BIN)/python -m pytest tests/unit/test_villages.py & \
	FLOW512_VILLAGE_SEEDS=60:120 $(BIN)/python -m pytest tests/unit/test_villages.py && wait $$!

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy
	$(BIN)/mypy benchmarks tools
	$(BIN)/mypy fuzz

docs: $(VENV)/.dev
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/python -m pydoctor --quiet

package: $(VENV)/.dev
	tools/check_package.sh $(BIN)/python

bench: $(VENV)/.test
	$(BIN)/python benchmarks/table.py --write docs/performance.rst

fuzz: $(VENV)/.fuzz
	set -e; for target in $(FUZZ_TARGETS); do \
		$(BIN)/python fuzz/$$target.py -max_total_time=$(FUZZ_SECONDS); \
	done

clean:
	rm -rf build dist flow512.egg-info docs/_build docs/api htmlcov .coverage .coverage.* \
		_trial_temp* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find flow512 twisted tests tools benchmarks docs fuzz -name __pycache__ -prune -exec rm -rf {} +
	rm -rf fuzz/.names fuzz/*-crash-* fuzz/*-timeout-* fuzz/*-oom-*
	rm -f twisted/plugins/dropin.cache

# The stamps: made last, so that an installation that was cut short is done again.
$(VENV)/.test: setup.cfg pyproject.toml | $(BIN)/pip
	$(INSTALL) -e '.[test]'
	@touch $@

$(VENV)/.dev: setup.cfg pyproject.toml | $(BIN)/pip
	$(INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.test

$(VENV)/.fuzz: setup.cfg pyproject.toml | $(BIN)/pip
	$(INSTALL) -e '.[fuzz]'
	@touch $@

$(BIN)/pip:
	@command -v $(PYTHON) >/dev/null || { \
		echo "flow512 needs Python 3.11 or newer, and there is no $(PYTHON) here." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit( \
		"flow512 needs Python 3.11 or newer, and $(PYTHON) is Python %d.%d; name another one: make PYTHON=python3.12" \
		% tuple(sys.version_info[:2]))'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$(PYTHON) cannot make virtual environments; on Debian or Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
