# make run: the service with a real language model.  make test: its tests.  Both install what they need.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: run test test-faults test-package lint types postman transformers clean

# Without a .env the packaged model answers; with one, what it says.
run: $(VENV)/.run
	@if [ ! -f .env ]; then export LLM_BACKEND="$${LLM_BACKEND:-huggingface}"; fi; exec $(BIN)/gunicorn wsgi:app

test: $(VENV)/.dev
	FLASK_SKIP_DOTENV=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# Kills, full disks, rotation, held locks; FAULTS=full takes the counts of a proof, in some six minutes.
test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest tests/faults -s

# The wheel in an environment of its own, the examples, import time, and the oldest versions that pyproject.toml allows.
test-package: $(VENV)/.dev
	FLASK_SKIP_DOTENV=1 $(BIN)/python -m pytest tests/package -s

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Models that are not GGUF files; 1.2 GB. With it, make test runs their tests too.
transformers: $(VENV)/.run requirements-transformers.txt
	$(BIN)/pip install --quiet -r requirements-transformers.txt

# The Postman collection against the running service: make postman BASE_URL=http://127.0.0.1:8000
BASE_URL ?= http://127.0.0.1:8000
postman: build/node_modules/.bin/newman
	build/node_modules/.bin/newman run LLM-API.postman_collection.json --env-var base_url=$(BASE_URL) --reporters cli --bail

build/node_modules/.bin/newman:
	npm install --silent --no-fund --no-audit --prefix build newman@6.2.2

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.python requirements.txt requirements-local.txt
	$(BIN)/pip install --quiet -r requirements.txt
	$(BIN)/pip install --quiet --no-deps -r requirements-local.txt
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(BIN)/pip install --quiet -r requirements-dev.txt
	@touch $@

clean:
	rm -rf $(VENV) build
