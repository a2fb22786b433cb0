# Everything here happens in .venv, which is made on first use. Outside this folder only the browser is installed that
# `make test` wants, where none is found: see .browser-sought.

VENV    := .venv
BIN     := $(VENV)/bin
PYTHON  ?=
WORKERS ?= 2
ARGS    ?=

# The oldest Python that will do, from the one place that says so.
OLDEST := $(shell sed -n 's/^requires-python = ">=\([0-9.]*\)"/\1/p' pyproject.toml)
PYTHONS := $(if $(PYTHON),$(PYTHON),python3 python3.13 python3.12 python3.11 python3.14 python)
SUITABLE = import ensurepip, sys, venv; sys.exit(sys.version_info < tuple(map(int, sys.argv[1].split("."))))

.DEFAULT_GOAL := help
.PHONY: help demo test soak lab lint format clean distclean
.NOTPARALLEL:

help: ## say what can be made
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-12s %s\n", $$1, $$2 }'
	@echo
	@echo 'PYTHON=... picks the interpreter that .venv is made from; WORKERS=$(WORKERS) and ARGS="-k ghost" go to pytest.'

demo: $(VENV)/.installed-demo ## install, then grow a first network on real images: the main job
	@$(BIN)/ghostkit run notebooks/01_first_growth.ipynb -p seeds 3

test: $(VENV)/.installed-test $(VENV)/.browser-sought ## install what the tests need, then run them all
	@$(BIN)/python -c '$(BROWSER)' || echo "==> NO CHROMIUM: the tests in a real browser are skipped; ghostkit doctor says how to get one" >&2
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

soak: $(VENV)/.installed-test ## what takes long by nature: a thousand edits in a row, runs and sweeps killed, thousands of hostile files
	@GHOSTKIT_SOAK=1 $(BIN)/python -m pytest -n $(WORKERS) tests/growth/test_soak.py tests/sweeps/test_running.py tests/reliability tests/hostile $(ARGS)

lab: $(VENV)/.installed-demo ## open JupyterLab on the notebooks
	@$(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

lint: $(VENV)/.installed-dev ## check style, types and that notebooks carry no outputs
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy ghostkit
	@$(BIN)/nbstripout --verify --keep-id notebooks/*.ipynb

format: $(VENV)/.installed-dev ## put right what lint finds, as far as a tool can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format
	@$(BIN)/nbstripout --keep-id notebooks/*.ipynb

clean: ## remove caches and build output; runs/ and .venv stay
	@rm -rf build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache .coverage htmlcov test-results
	@find ghostkit notebooks tests benchmarks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune \
		-exec rm -rf {} + 2>/dev/null || true

distclean: clean ## remove .venv as well
	@rm -rf $(VENV)

# One environment; a stamp for each extra that was installed into it, out of date when pyproject.toml is newer.
$(VENV)/.installed-%: pyproject.toml $(VENV)/.created
	@echo "==> installing ghostkit$(if $(filter-out demo,$*), with its $* extra,) into $(VENV) (the first time, PyTorch takes minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.$(if $(filter-out demo,$*),[$*])'
	@touch $@

# Tests in a real browser want a Chromium. Where none is found, one attempt is made to get it; it may fail.
BROWSER = from ghostkit.browser import find_browser; raise SystemExit(not find_browser())
$(VENV)/.browser-sought: $(VENV)/.installed-test
	@$(BIN)/python -c '$(BROWSER)' || { \
		echo "==> getting a Chromium for the tests in a real browser"; \
		if [ "$$(id -u)" = 0 ] && command -v apt-get; then \
			apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y chromium fonts-liberation; \
		fi >/dev/null 2>&1; \
		$(BIN)/python -c '$(BROWSER)' || $(BIN)/python -m playwright install chromium >/dev/null 2>&1; \
	} || true
	@touch $@

$(VENV)/.created:
	@for python in $(PYTHONS); do \
		if "$$python" -c '$(SUITABLE)' $(OLDEST) >/dev/null 2>&1; then \
			echo "==> making $(VENV) with $$("$$python" --version)"; \
			"$$python" -m venv $(VENV) && touch $@; exit; \
		fi; \
	done; \
	echo "No Python >= $(OLDEST) with its venv module among: $(PYTHONS)." >&2; \
	echo "Install one (on Debian and Ubuntu: python3 and python3-venv), or name it: make PYTHON=/path/to/python3 ..." >&2; \
	exit 1
