# Everything a developer types. It needs make, git and Python 3.11 or later; the rest installs itself.
PYTHON ?= python3
PYTEST_ARGS ?=
# How many processes run tests, each the next file; twice as many as cores, since many tests wait.
TEST_WORKERS ?= 4
# Where the tests are of which the whole takes less than two minutes on two cores.
FAST := espnet3 tests/unit
OLDEST ?= 3.11
TORCH ?= torch
FAULTS ?= 1000
SEED ?=
BENCH_ARGS ?=
SCALING_ARGS ?=
# Which Pythons the wheel is tried on; every one of this host where empty.
PYTHONS ?=

# Workers that may keep no bytecode start several times slower.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
CODE := $(wildcard espnet3 espnet3_run.py tests examples benchmarks docs)
# Touched when an installation succeeded, so that it is repeated only when pyproject.toml changed.
DEV := $(VENV)/.installed-dev
EXAMPLES := $(VENV)/.installed-examples
PLOTS := $(VENV)/.installed-bench
DOCS := $(VENV)/.installed-docs
# What the benchmarks compare with, in an environment of its own.
PEERS_VENV := .venv-peers
PEERS := $(PEERS_VENV)/.installed

.DELETE_ON_ERROR:
.PHONY: help venv demo test test-fast cookbook test-pythons chaos bench scaling check schemas docs dist dist-check clean

help:  ## say what the targets do
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r target text; do \
	    printf '%-18s %s\n' "$$target" "$$text"; done
	@echo "PYTEST_ARGS='-k name -x' goes to pytest, BENCH_ARGS='--only sync' to the benchmarks, PYTHON=python3.12 chooses the interpreter."

venv: $(DEV)  ## make .venv with everything for development

demo: $(EXAMPLES)  ## decode real speech on this machine
	@$(PY) examples/librivox/demo.py

test: $(DEV)  ## run all tests, against a real Slurm where one can be installed
	@$(PY) -m tests.support.slurm_cluster install || true
	@$(PY) -m tests.support.sge_cluster install || true
	@$(PY) -m tests.support.oar_cluster install || true
	@$(PY) -m pytest -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

# Those that start a cluster all the same fail, and say so.
test-fast: $(DEV)  ## run the tests that need no server and little time, before each commit
	@ESPNET3_WITHOUT_SERVERS=1 $(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "not server and not slow" $(FAST) $(PYTEST_ARGS)

# Gigabytes: torch, transformers and lhotse. TORCH names a smaller torch, for machines without a GPU.
cookbook: $(DEV)  ## run the cookbook's pages that need torch, which the other tests leave out
	@$(PIP) install --quiet --editable '.[cookbook]' '$(TORCH)'
	@$(PY) -m pytest -n 0 -k cookbook tests/integration/test_documents.py $(PYTEST_ARGS)

test-pythons: $(DEV)  ## run the tests that need no server on each Python of this host from OLDEST=3.11 on
	@$(PY) -m tests.support.pythons --from $(OLDEST) -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

chaos: $(DEV)  ## inject FAULTS=1000 random faults into many small runs; SEED=n repeats
	@$(PY) -m tests.chaos.soak --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

bench: $(DEV) $(PEERS)  ## measure speed beside the peers; writes benchmarks/RESULTS.md
	@$(PY) -m benchmarks $(BENCH_ARGS)

scaling: $(DEV) $(PLOTS)  ## measure how costs grow; writes docs/scaling.md, .json and the plots
	@$(PY) -m benchmarks.scaling $(SCALING_ARGS)

check: $(DEV)  ## lint, types, the rules of the imports, current schemas
	$(PY) -m ruff check $(CODE)
	$(PY) -m ruff format --check $(CODE)
	$(PY) -m mypy --strict $(CODE)
	$(VENV)/bin/lint-imports --no-logo
	$(PY) -m espnet3.specs.schema --check

schemas: $(DEV)  ## write schemas/ anew from the models
	$(PY) -m espnet3.specs.schema

# Not --quiet, which would count no warnings. The theme announces its end on each call.
docs: $(DOCS)  ## build the site into build/site; a link that leads nowhere is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

dist: $(DEV)  ## build sdist and wheel into dist/, and check them
	@rm -rf dist
	@$(PY) -m build --outdir dist . >/dev/null
	@$(PY) -m twine check --strict dist/*

dist-check: dist  ## install the wheel on each Python of this host, and run the demo there
	@$(PY) -m tests.support.dist_check $(PYTHONS)

clean:  ## remove the environment, caches and builds
	rm -rf $(VENV) $(PEERS_VENV) .venv-pythons build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name .git -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(DEV): pyproject.toml | $(PY)
	@echo "installing espnet3 for development into $(VENV)"
	@$(PIP) install --quiet --editable '.[examples,test,dev]'
	@touch $@ $(EXAMPLES)

$(EXAMPLES): pyproject.toml | $(PY)
	@echo "installing espnet3 and what its examples need into $(VENV)"
	@$(PIP) install --quiet --editable '.[examples]'
	@touch $@

$(PLOTS): pyproject.toml | $(DEV)
	@echo "installing what draws plots into $(VENV)"
	@$(PIP) install --quiet --editable '.[bench]'
	@touch $@

$(DOCS): pyproject.toml | $(DEV)
	@echo "installing what builds the site into $(VENV)"
	@$(PIP) install --quiet --editable '.[docs]'
	@touch $@

$(PEERS): benchmarks/peers.txt | $(PY)
	@echo "installing what the benchmarks compare with into $(PEERS_VENV)"
	@$(PY) -m venv --clear $(PEERS_VENV)
	@$(PEERS_VENV)/bin/python -m pip --disable-pip-version-check install --quiet -r $<
	@touch $@

# Debian ships Python without ensurepip; a half-made .venv would then stay behind, so ask before.
$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "espnet3 needs Python 3.11 or later; name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	    package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
	    if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	        echo "installing $$package"; \
	        apt="apt-get -qq -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0"; \
	        export DEBIAN_FRONTEND=noninteractive; \
	        $$apt install -y --no-install-recommends $$package >/dev/null 2>&1 || { \
	            $$apt update && $$apt install -y --no-install-recommends $$package >/dev/null; }; \
	    else \
	        echo "$(PYTHON) cannot make environments: install the package $$package (as root: apt-get install $$package)" >&2; \
	        exit 1; \
	    fi; }
	@$(PYTHON) -m venv --clear $(VENV)
