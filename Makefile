# Everything a newcomer runs, from a bare Python: each target first makes the environment it needs.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
RUN := $(VENV)/.installed
TEST := $(VENV)/.installed-test
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
BROWSER := $(VENV)/.installed-browser
PEERS := $(VENV)/.installed-peers

# The one release of which CI has a CPU build at hand; elsewhere any torch that is there will do.
TORCH ?= torch==2.13.0

# Tests start a hundred processes, which compile none of our modules twice. The tree stays clean.
TESTS := PYTHONDONTWRITEBYTECODE= PYTHONPYCACHEPREFIX=$(abspath $(VENV))/bytecode $(BIN)/python -m pytest

.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: help eval test test-fast test-browser test-peers lint notebooks docs dist clean

help: ## Lists the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

eval: $(RUN) ## Attacks the shipped models and writes a report; ARGS="--help" lists the options.
	@$(BIN)/python -m eval $(ARGS)

test: $(TEST) ## Runs the whole test suite; ARGS="-k rain" runs a part.
	@$(TESTS) --numprocesses 2 --dist loadfile $(ARGS)

test-fast: $(TEST) ## Runs the tests that are quick, in under 90 s on two cores: what is left out is in tests/slow.txt.
	@$(TESTS) --numprocesses 2 --dist loadfile -m "not slow" $(ARGS)

test-browser: $(BROWSER) ## Reads a report in Chromium, which must be installed: sorts, hovers, switches, zooms.
	@$(TESTS) tests/report/test_browser.py $(ARGS)

test-peers: $(PEERS) ## Runs the tests that need PyTorch, torchattacks, piq, Foolbox, ART or services' clients.
	@$(TESTS) tests/adapters tests/eval/test_peers.py tests/metrics/test_piq.py tests/services $(ARGS)

lint: $(TEST) $(DEV) ## Checks formatting, lint and types.
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/pyright

notebooks: $(TEST) ## Runs every notebook from top to bottom.
	@$(TESTS) --nbmake --nbmake-timeout 1500 --numprocesses 2 notebooks $(ARGS)

docs: $(DOCS) ## Builds the site in build/site; a warning is an error, a link that leads nowhere too.
	@$(BIN)/python -m sphinx --conf-dir docs --builder html --fail-on-warning --keep-going --quiet \
	  --jobs auto --doctree-dir build/doctrees $(ARGS) . build/site
	@echo "Built build/site/index.html."

dist: $(DEV) ## Builds the wheel and the source archive in dist, and tries the wheel in an environment of its own.
	@rm -rf dist
	@$(BIN)/python -m build --outdir dist . > /dev/null
	@$(BIN)/python .ci/check_dist.py dist

clean: ## Deletes the environment, caches and builds; results stay.
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@command -v $(PYTHON) > /dev/null || { \
	  echo "rainjax needs Python 3.11 or newer, and '$(PYTHON)' is not on this machine's PATH." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rainjax needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1)." \
	    "Name a newer one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }

$(RUN): EXTRAS := [data,report]
$(TEST): EXTRAS := [test]
$(DEV): EXTRAS := [dev]
$(DOCS): EXTRAS := [docs]
$(RUN) $(TEST) $(DEV) $(DOCS): pyproject.toml | $(BIN)/python
	@echo "Installing rainjax$(EXTRAS) into $(VENV); the first time takes a few minutes ..."
	@$(BIN)/python -m pip install --quiet --quiet --editable ".$(EXTRAS)"
	@touch $(RUN) $@

$(BROWSER): $(TEST)
	@$(BIN)/python -m pip install --quiet --quiet --editable ".[test,browser]"
	@touch $(RUN) $(TEST) $@

# torchattacks and piq are installed without their dependencies: both declare torchvision, which
# would bring another torch, and which neither needs for what is compared; torchattacks declares a
# release of requests from 2020 as well.
$(PEERS): $(TEST)
	@echo "Installing $(TORCH) and the peers into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --quiet "$(TORCH)"
	@$(BIN)/python -m pip install --quiet --quiet --editable ".[peers]"
	@$(BIN)/python -m pip install --quiet --quiet --no-deps torchattacks==3.5.1 piq==0.8.0
	@touch $(RUN) $(TEST) $@
