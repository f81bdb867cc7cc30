# `make run` and `make test` are all the set-up there is: either makes the environment first if it is not there.
PYTHON ?= python3
# Where pip looks for another build of torch than the one its own index offers, for example
# TORCH_INDEX=<address>, as the installation page of PyTorch gives it for a CPU (a tenth of the size) or a CUDA release.
TORCH_INDEX ?=
export EVERGREEN_CHROMIUM
# How many processes run the tests beside each other. Each takes up to 4 GB with the servers that it starts.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALL := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: run test check install browser lock clean

run: $(INSTALLED)
	$(BIN)/evergreen run

test: $(INSTALLED)
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(WORKERS)

install: $(INSTALLED)

$(INSTALLED): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Evergreen needs Python 3.11 or newer, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
		echo "Name another one: make $(or $(MAKECMDGOALS),run) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing into $(VENV) (some minutes, once) ..."
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --constraint requirements.lock --editable '.[demo,dev]'
	@touch $@

# Optional: what tests/flows/test_browser.py needs, and the test itself. Chromium comes from the system.
browser: $(INSTALLED)
	$(INSTALL) --constraint requirements.lock --editable '.[demo,dev,browser]'
	@[ -n "$$EVERGREEN_CHROMIUM" ] || command -v chromium >/dev/null || command -v chromium-browser >/dev/null || \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get update && apt-get install --yes --no-install-recommends chromium; \
		else \
			echo "Chromium is missing: as root, apt-get install chromium (or your system's way)," >&2; \
			echo "or name another build of it: make browser EVERGREEN_CHROMIUM=/path/to/chrome" >&2; exit 1; \
		fi
	$(BIN)/python -m pytest tests/flows/test_browser.py

# After a change of pyproject.toml: installs what it asks for and writes the versions of all that the environment holds.
lock:
	$(INSTALL) --editable '.[demo,dev,browser]'
	@{ sed -n '/^#/p' requirements.lock; \
		$(BIN)/python -m pip freeze --all --exclude-editable --exclude pip --exclude wheel \
		| sed -E '/^(triton|nvidia-|cuda-|pip-tools|build|pyproject_hooks)/d; s/\+[a-z0-9.]+$$//'; } > requirements.lock.new
	@mv requirements.lock.new requirements.lock

# The environment and the caches. What was computed stays in .evergreen, data and models.
clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find flows tasks models tests -name __pycache__ -type d -prune -exec rm -rf {} +
