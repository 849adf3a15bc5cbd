# `make ablation` and `make test` do the whole setup themselves; `make help` lists the rest.
.PHONY: help ablation test test-slow test-lowest golden mutants lint types docs dist setup clean
.DEFAULT_GOAL := help

PYTHON   ?=
SCATTER  ?= 0
export SCATTER
VENV     ?= .venv
ARGS     ?=
TESTARGS ?=

SITE  = build/docs
RUN   = $(VENV)/bin/python
READY = $(VENV)/.attngraph-ready

# The models are small: more than four threads only get in each other's way.
CORES := $(shell n=$$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); \
	[ "$$n" -gt 4 ] && n=4; echo $$n)
OMP_NUM_THREADS ?= $(CORES)
export OMP_NUM_THREADS

help:
	@echo "make ablation   the GNN ablation table on real input: setup, then 5 minutes on 2 cores"
	@echo "                more options: make ablation ARGS='--seeds 1-1 --out runs/other'"
	@echo "make test       the tests: setup, then 5 minutes on 2 cores; TESTARGS='-k scheme' chooses some"
	@echo "make test-slow  the tests that take longer, such as long commands of the docs"
	@echo "make test-lowest  some of the tests with the lowest versions that setup.py allows, in $(VENV)-lowest"
	@echo "make mutants    how many small changes of the code the tests notice: 500 changes, one to two hours on 2 cores"
	@echo "                more options: make mutants ARGS='--under experiments/metrics --out runs/metrics'"
	@echo "make golden     what commands print and write, against transcripts of before a change: about 20 minutes"
	@echo "make lint       ruff check, ruff format --check, mypy and the word list"
	@echo "make types      mypy alone"
	@echo "make docs       the documentation, into $(SITE); needs no network, fails on warnings and broken links"
	@echo "make dist       source distribution and wheel, into dist; checked by twine (pip installs both tools)"
	@echo "make setup      only the setup; also repairs an environment that broke"
	@echo "make clean      removes the environment and build leftovers (results stay)"
	@echo
	@echo "Setup needs Python 3.11-3.13 (PYTHON=/path/to/python3.12 chooses one) and installs into VENV=$(VENV)."
	@echo "SCATTER=1 adds torch-scatter, compiled for 5 to 10 minutes. pip's own settings (PIP_...) are respected."

ablation: $(READY)
	$(RUN) -m attngraph ablation --preset quick $(ARGS)

# A worker for each core, each with one thread; a file's tests stay together, since they share what they train.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -n $(CORES) --dist loadfile

test: $(READY)
	$(PYTEST) $(TESTARGS)

test-slow: $(READY)
	$(PYTEST) -m slow $(TESTARGS)

# Versions are bounded in setup.py; these tests pass through most of what the packages are asked for.
LOWEST_TESTS = adapters/test_contract.py adapters/peft/test_contract.py adapters/peft/test_saving.py attngraph/test_graph.py \
	attngraph/test_convert.py analysis/plots analysis/test_embedding.py experiments/commands/test_ablation.py

golden: $(READY)
	$(RUN) -m tests.golden.golden $(ARGS)

test-lowest:
	@$(MAKE) --no-print-directory LOWEST=1 VENV=$(VENV)-lowest setup
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n $(CORES) --dist loadfile $(addprefix tests/,$(LOWEST_TESTS))

mutants: $(READY)
	$(RUN) tests/mutants.py --out runs/mutants $(ARGS)

lint: $(READY) types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(RUN) -m tests.docs.words

# mypy reads the folders as a wheel has them: it does not know that those next to attngraph are its packages.
types: $(READY)
	rm -rf build/types
	$(RUN) setup.py -q build_py --build-lib build/types
	cd build/types && $(abspath $(VENV))/bin/mypy --config-file $(CURDIR)/pyproject.toml --cache-dir ../mypy -p attngraph

docs: $(READY)
	rm -rf $(SITE)
	$(RUN) -m sphinx -b html -W --keep-going -n -q -d build/doctrees docs $(SITE)
	$(RUN) docs/_ext/check_site.py $(SITE)

dist: $(READY)
	$(RUN) -m pip install -q "build>=1.2" "twine>=6.1"
	rm -rf dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*

setup:
	@python=$$(sh .ci/find_python.sh "$(PYTHON)") && "$$python" .ci/setup_env.py "$(VENV)"

$(READY): setup.py .ci/setup_env.py $(wildcard attngraph/native/*.[ch])
	@python=$$(sh .ci/find_python.sh "$(PYTHON)") && "$$python" .ci/setup_env.py "$(VENV)"

clean:
	for venv in "$(VENV)" "$(VENV)-lowest"; do if [ -e "$$venv/.attngraph-venv" ]; then rm -rf "$$venv"; fi; done
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
	find attngraph adapters analysis experiments tests .ci -name __pycache__ -type d -prune -exec rm -rf {} +
