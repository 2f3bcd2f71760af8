# `make demo` and `make test` each do all the set-up that they need, on a machine with Python 3.11,
# make and git.
.DEFAULT_GOAL := help
SHELL := /bin/bash

TOOLS := .tools
UV := $(shell command -v uv 2>/dev/null || echo $(TOOLS)/bin/uv)
# Compiled once here, each start of a command or a training worker saves seconds of compiling.
export UV_COMPILE_BYTECODE := 1
# `shoal spark setup` and `shoal reproduce --env rebuild` look for uv as a user's shell would have it.
export PATH := $(PATH):$(CURDIR)/$(TOOLS)/bin
RUN := $(UV) run --no-sync
# A file's tests stay together: they share servers and hold about 1 GB a process.
PYTEST := $(RUN) pytest -q -n auto --maxprocesses 4 --dist loadfile

install = { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(1) >/dev/null; } || echo "$(1) could not be installed."

# A program of others, in an environment of its own.
apart = test -x $(TOOLS)/$(1)/bin/$(1) || { $(UV) venv --quiet --clear $(TOOLS)/$(1) && \
	  $(UV) pip install --quiet --python $(TOOLS)/$(1)/bin/python $(2); } || echo "$(1) could not be had; its tests are skipped."

.PHONY: controlplane docs help setup setup-heavy servers servers-heavy demo test test-heavy test-fast lint format bench clean

help: ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

$(TOOLS)/bin/uv:
	@python3 -m venv $(TOOLS) 2>/dev/null || \
	  { apt-get update -qq && apt-get install -y -qq python3-venv && python3 -m venv --clear $(TOOLS); }
	@$(TOOLS)/bin/python -m pip install --quiet 'uv>=0.9'

# What `make test-heavy` adds, gigabytes of deep learning, stays once it is there.
setup: $(UV) ## Make the environment from the lock file
	@$(UV) sync --locked --inexact --extra all --quiet

setup-heavy: $(UV) # The same, with PyTorch and TensorFlow
	@$(UV) sync --locked --inexact --all-extras --quiet

ifneq ($(UV),$(TOOLS)/bin/uv)
$(UV): ;
endif

demo: setup ## Real flights, from raw files to a REST answer
	@rm -rf demo
	@$(RUN) shoal demo --folder demo

test: setup servers ## The tests, but for the heavy ones
	@command -v Rscript >/dev/null || { echo "There is no R; its tests are skipped."; export SHOAL_TEST_WITHOUT_R=1; }; \
	  $(PYTEST) -rs -m "not heavy"

# What LightGBM links to, and what the tests of R and Kafka start: R and Java from the distribution,
# Kafka's jars from Maven Central. Kafka's tests say why they are skipped where it cannot be had.
servers:
	@ldconfig -p 2>/dev/null | grep -q libgomp.so.1 || $(call install,libgomp1)
	@command -v Rscript >/dev/null || $(call install,r-base-core)
	@command -v java >/dev/null || $(call install,openjdk-17-jre-headless)
	@command -v mvn >/dev/null || $(call install,maven)
	@timeout 300 $(RUN) python tests/kafka.py || echo "Kafka's jars could not be fetched; its tests are skipped."

# The servers and schedulers that read what Shoal writes; the browser that the workspace is tested in,
# and axe-core, which checks that all can use it; the Apache Spark with Delta Lake that
# engine = "spark" starts, PostgreSQL below MLflow's server, and what speaks as Azure's Blob service
# and Google's Cloud Storage do, the second built where there is a Go. Tests say why they are skipped.
servers-heavy: servers
	@$(call apart,mlserver,mlserver==1.7.1 mlserver-mlflow==1.7.1)
	@$(call apart,dagster,dagster==1.13.29)
	@$(call apart,airflow,apache-airflow==3.3.2)
	@command -v chromium >/dev/null || $(call install,chromium)
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || $(call install,postgresql)
	@command -v npm >/dev/null || $(call install,nodejs npm)
	@test -s $(TOOLS)/axe/axe.min.js || { mkdir -p $(TOOLS)/axe && cd $(TOOLS)/axe && \
	  npm pack --silent axe-core@4.14.1 >/dev/null && tar xzf axe-core-*.tgz --strip-components=1 package/axe.min.js package/LICENSE; } || \
	  echo "axe-core could not be fetched; the tests of accessibility are skipped."
	@timeout 300 $(RUN) python tests/gcs.py || echo "fake-gcs-server could not be built; its tests are skipped."
	@timeout 300 $(RUN) python tests/stores.py || echo "Azurite could not be fetched; its tests are skipped."
	@$(RUN) shoal spark setup || echo "Apache Spark could not be had; its tests are skipped."

test-heavy: setup-heavy servers-heavy ## The tests that need minutes, PyTorch, TensorFlow or other engines
	@$(RUN) python tests/heavy.py

controlplane: setup ## A real API server for the tests of deploying: 15 minutes of Go, once
	@$(RUN) python tests/controlplane.py

test-fast: setup ## The tests that start no other server and kill no process
	@$(PYTEST) -m "not slow and not heavy"

lint: setup ## Style, types, and the rooms' import order
	@$(RUN) ruff check
	@$(RUN) ruff format --check
	@$(RUN) mypy
	@$(RUN) lint-imports

format: setup ## Mend what ruff can mend
	@$(RUN) ruff check --fix
	@$(RUN) ruff format

docs: setup ## The documentation's pages into dist/site, and no warning
	@$(UV) sync --locked --inexact --extra all --group docs --quiet
	@$(RUN) python docs/commands.py
	@NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --quiet --strict

bench: setup ## The benchmarks, as ratios
	@$(RUN) python benchmarks/fleet.py
	@$(RUN) python benchmarks/scoring.py
	@$(RUN) python benchmarks/pipeline.py
	@$(RUN) python benchmarks/medallion.py
	@$(RUN) python benchmarks/ui.py
	@$(RUN) python benchmarks/browser.py

clean: ## Remove what make made
	@rm -rf .venv $(TOOLS) demo dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
