# `make run` and `make test` need only Python 3.11 or newer.
.DEFAULT_GOAL := help
BIN := .venv/bin
READY := .venv/.ready
RUN_READY := .venv/.run-ready
SHELL := /bin/sh

# Run each candidate: a name may be a shim without a Python.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; \
	done)

LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# All dependencies, and those of `make run`, in the same versions.
LOCK_ALL := $(LOCK) --all-extras
LOCK_RUN := $(LOCK) --extra local --constraint requirements.lock
# --strict: otherwise pip-audit reports packages as safe that it could not look up. It runs in an environment of its own,
# apart from the packages that it audits.
AUDITOR := uv tool run pip-audit==2.10.1 --requirement requirements.lock --require-hashes --disable-pip --strict \
	--progress-spinner off --vulnerability-service osv
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install
BY_PIP := $(PIP) --require-hashes --requirement
# A third of pip's CPU, but uv does not read pip's configuration: without access to its own index, pip installs.
BY_UV := awk '/^uv==/,!/\\$$/' requirements.lock | $(BY_PIP) /dev/stdin && \
	$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --require-hashes --requirement requirements.lock

.PHONY: help run test verify verify-containers bench bench-quick bench-scale chaos chaos-broken chaos-baseline check audit messages api-reference format lock setup hooks

help:
	@echo "make run             Run the whole system on this machine; Ctrl-C stops it"
	@echo "make setup           Install what development and tests need"
	@echo "make test            Run all tests"
	@echo "make check           Check format, lint, types, layers, migrations, translations, API reference, prose, spelling and lock files"
	@echo "make verify          Run the checks too slow for CI: all crash points, long fuzzing and chaos, coverage; takes hours"
	@echo "make verify-containers  Run docker-compose.yml and the image with podman, without a registry; needs root on Debian"
	@echo "make hooks           Install the pre-commit hooks, which run the fast checks"
	@echo "make format          Format the code and fix lint errors"
	@echo "make messages        Update the translation catalogues from the sources"
	@echo "make api-reference   Update docs/api from the sources, and its examples from running services"
	@echo "make lock            Update requirements.lock from pyproject.toml; UPGRADE=1 for the newest versions"
	@echo "make audit           Check requirements.lock for known vulnerabilities; needs the network"
	@echo "make bench-quick     Compare the cost of requests and messages with the merge base; BASE=main, ROUNDS=11"
	@echo "make bench           Measure speed against baselines in the same run; takes long"
	@echo "make bench-scale     Measure growth up to 10 million messages, and wear; SIZES=\"10000 1000000\", ROUNDS=5"
	@echo "make chaos           Inject random faults while simulated users write; CHAOS_SECONDS=60, CHAOS_SEED="
	@echo "make chaos-broken    Check that the chaos test catches each of several deliberately broken builds"
	@echo "make chaos-baseline  Run the chaos test against plain Celery, for comparison"

# A line without shell syntax, so that `chats` is a child of `make` itself and ends with it. It needs no linters, browser
# or fuzzer; an environment that already has them is used as it is.
run: $(if $(wildcard $(READY)),$(READY),$(RUN_READY))
	@$(BIN)/chats run

# -rs lists skipped tests with the reason. One worker more than there are processors: tests of whole systems mostly wait.
# The tests start hundreds of processes, which would all compile the sources if Python did not store bytecode.
# On shared machines, CI tries what failed once more, with nothing beside it. The report of the first failure stays in its
# output: most of them were races in the product.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)
	$(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --no-loadscope-reorder -rs || \
		{ [ $$? = 1 ] && [ -n "$$CI" ] && $(BIN)/python -m pytest --last-failed --exitfirst --verbose; }

# The checks that are too slow for CI. Coverage counts one service at a time, without code that runs in separate processes.
COVERAGE := 93
REDIS_SERVER ?= $(shell command -v redis-server)
ON_REDIS := tests/system/test_broker_rights.py tests/system/test_pipeline.py tests/system/test_failover.py \
	tests/system/test_faults.py tests/service/shared/test_publisher.py tests/service/deploy/test_doctor_broker.py
verify: export HYPOTHESIS_PROFILE := verify
verify: export EVERY_CASE := 1
verify: export SCHEMATHESIS_EXAMPLES := 200
verify: $(READY)
	$(BIN)/python -m pytest -n $$(getconf _NPROCESSORS_ONLN) -rs --timeout 3600 tests/unit tests/model tests/service \
		--cov --cov-fail-under=$(COVERAGE)
	[ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || tests/real_mail/unpack
	$(BIN)/python -m pytest -rs tests/browser/test_accessibility.py tests/real_mail tests/system
	if [ -n "$(REDIS_SERVER)" ]; then REDIS_SERVER="$(REDIS_SERVER)" $(BIN)/python -m pytest -rs $(ON_REDIS); \
		else echo "Not run: tests on Redis, because there is no redis-server." >&2; fi
	$(MAKE) verify-containers
	$(BIN)/python -m tests.system.upgrade
	$(BIN)/python -m tests.system.crash
	CHAOS_SECONDS=$${CHAOS_SECONDS:-600} $(BIN)/python -m bench.chaos
	$(BIN)/python -m bench.chaos --broken
	$(MAKE) bench-scale

# All in Debian: podman, its parts, and what makes a base image.
CONTAINER_PACKAGES := podman runc debootstrap catatonit slirp4netns netavark aardvark-dns iptables
verify-containers: $(READY)
	@command -v podman >/dev/null && command -v debootstrap >/dev/null || \
		{ apt-get update -qq; DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(CONTAINER_PACKAGES); }
	@$(BIN)/python -m deploy.verify

bench: $(READY)
	@$(BIN)/python -m bench.posting
	@$(BIN)/python -m bench.pipeline
	@$(BIN)/python -m bench.inbound
	@$(BIN)/python -m bench.desk
	@$(BIN)/python -m bench.size
	@$(BIN)/python -m bench.reading
	@$(BIN)/python -m bench.streams
	@$(BIN)/python -m bench.agent_hour

bench-quick: $(READY)
	@$(BIN)/python -m bench.quick

bench-scale: $(READY)
	@$(BIN)/python -m bench.growth
	@$(BIN)/python -m bench.wear

chaos: $(READY)
	@$(BIN)/python -m bench.chaos

chaos-broken: $(READY)
	@$(BIN)/python -m bench.chaos --broken

chaos-baseline: $(READY)
	@$(BIN)/python -m bench.chaos.baseline

# The tests, which run at the same time in CI, compile the sources.
check: export PYTHONDONTWRITEBYTECODE :=
check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.check_migrations
	$(BIN)/python -m deploy.messages --check
	$(BIN)/python -m deploy.api_reference --check
	$(BIN)/python -m deploy.check_prose
	$(BIN)/typos
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && cp requirements.lock requirements-run.lock "$$new" && \
		$(BIN)/$(LOCK_ALL) --output-file "$$new/requirements.lock" && \
		$(BIN)/$(LOCK_RUN) --output-file "$$new/requirements-run.lock" && \
		diff requirements.lock "$$new/requirements.lock" && diff requirements-run.lock "$$new/requirements-run.lock" || \
		{ echo "The requirements*.lock files do not match pyproject.toml. Run \`make lock\`." >&2; exit 1; }

# AUDIT="--osv-url …" queries another database, AUDIT="--ignore-vuln ID" ignores a vulnerability.
audit: $(READY)
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; found=$$($(BIN)/$(AUDITOR) $(AUDIT) 2>"$$log") && \
		{ echo "No known vulnerabilities in requirements.lock."; exit 0; }; \
	if [ -n "$$found" ]; then echo "$$found"; echo "Known vulnerabilities in requirements.lock, see above." >&2; \
	else tail -n 1 "$$log" >&2; \
		echo "requirements.lock was NOT audited: pip-audit or the vulnerability database could not be reached." >&2; fi; \
	exit 1

messages: $(READY)
	$(BIN)/python -m deploy.messages

api-reference: $(READY)
	UPDATE_EXAMPLES=1 $(BIN)/python -m pytest --quiet tests/service/api/test_reference.py
	$(BIN)/python -m deploy.api_reference

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY)
	$(BIN)/$(LOCK_ALL) $(if $(UPGRADE),--upgrade) --output-file requirements.lock
	$(BIN)/$(LOCK_RUN) --output-file requirements-run.lock
	for store in django flask; do $(BIN)/$(subst pyproject.toml,examples/$$store/requirements.in,$(LOCK)) \
		--constraint requirements.lock --output-file examples/$$store/requirements.txt || exit 1; done

setup: $(READY)

hooks: $(READY)
	$(BIN)/uv tool run pre-commit==4.7.0 install

$(READY): requirements.lock pyproject.toml
	$(call install,requirements.lock,$(BY_UV) || $(BY_PIP) requirements.lock)
	@touch $@

$(RUN_READY): requirements-run.lock pyproject.toml
	$(call install,requirements-run.lock,$(BY_PIP) requirements-run.lock)
	@touch $@

# Create .venv if needed, and install the packages of a lock file and this project.
define install
	@test -n "$(PYTHON)" || { echo "Customer Chats needs Python 3.11 or newer, but none was found on the PATH." \
		"Set one with: make PYTHON=/path/to/python3" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Customer Chats needs Python 3.11" \
		"or newer, but $(PYTHON) is older or does not run." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot create virtual environments:" \
		"its module venv or ensurepip is missing (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Setting up .venv with $$("$(PYTHON)" --version) from $(1). This is done once and takes about a minute …"
	@"$(PYTHON)" -m venv .venv
	@$(2)
	@$(PIP) --no-deps --no-build-isolation --editable .
endef
