# `make run` and `make test` need Python 3.11 or newer, and nothing else.
.DEFAULT_GOAL := help
BIN := .venv/bin
READY := .venv/.ready
RUN_READY := .venv/.run-ready
SHELL := /bin/sh

# Run each candidate: a name alone may be a shim without a Python behind it.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$python"; break; }; \
	done)

LOCK := uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate
# Everything, and the part that `make run` needs, in the same versions.
LOCK_ALL := $(LOCK) --all-extras
LOCK_RUN := $(LOCK) --extra local --constraint requirements.lock
# Strict, since pip-audit calls packages safe that it could not ask about; with an environment of its own, so that what
# is audited and what audits have nothing to do with each other.
AUDITOR := uv tool run pip-audit==2.10.1 --requirement requirements.lock --require-hashes --disable-pip --strict \
	--progress-spinner off --vulnerability-service osv
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check install

.PHONY: help run test bench bench-scale chaos chaos-broken chaos-baseline check audit messages format lock setup

help:
	@echo "make run      the whole system on this machine; Ctrl-C stops it"
	@echo "make test     every test"
	@echo "make bench    what is fast and what is not, against yardsticks in the same run; takes long"
	@echo "make bench-scale   how reading and posting grow, up to 10 million messages, and wear; SIZES=\"10000 1000000\", ROUNDS=5"
	@echo "make chaos    faults at random while people write; CHAOS_SECONDS=60, CHAOS_SEED="
	@echo "make chaos-broken, make chaos-baseline   the same against builds that are broken on purpose, each of which"
	@echo "              must be caught; against plain Celery, for comparison"
	@echo "make check    format, lint, types, layers, migrations, translations, lock"
	@echo "make audit    look up what requirements.lock names among known vulnerabilities; needs the network"
	@echo "make messages bring the translations' catalogues up to the words of the sources"
	@echo "make format   put the code in its format"
	@echo "make lock     bring requirements.lock up to pyproject.toml; UPGRADE=1 for the newest versions"

# A line without shell syntax, so that `chats` is the child of `make` itself and ends with it. It needs no linters, no
# browser and no fuzzer; where those are installed already, nothing else is.
run: $(if $(wildcard $(READY)),$(READY),$(RUN_READY))
	@$(BIN)/chats run

# -rs names every test that was skipped, and why; who has done its share of the tests takes over some of the others'. One
# more than there are processors: tests of whole systems wait more than they compute.
# Hundreds of processes start: where Python is told to keep no bytecode, each would compile all sources for itself.
test: export PYTHONDONTWRITEBYTECODE :=
test: $(READY)
	$(BIN)/python -m pytest -n $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist worksteal -rs

bench: $(READY)
	@$(BIN)/python -m bench.posting
	@$(BIN)/python -m bench.pipeline
	@$(BIN)/python -m bench.desk
	@$(BIN)/python -m bench.size
	@$(BIN)/python -m bench.reading
	@$(BIN)/python -m bench.streams

bench-scale: $(READY)
	@$(BIN)/python -m bench.growth
	@$(BIN)/python -m bench.wear

chaos: $(READY)
	@$(BIN)/python -m bench.chaos

chaos-broken: $(READY)
	@$(BIN)/python -m bench.chaos --broken

chaos-baseline: $(READY)
	@$(BIN)/python -m bench.chaos.baseline

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.check_migrations
	$(BIN)/python -m deploy.messages --check
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && cp requirements.lock requirements-run.lock "$$new" && \
		$(BIN)/$(LOCK_ALL) --output-file "$$new/requirements.lock" && \
		$(BIN)/$(LOCK_RUN) --output-file "$$new/requirements-run.lock" && \
		diff requirements.lock "$$new/requirements.lock" && diff requirements-run.lock "$$new/requirements-run.lock" || \
		{ echo "The requirements*.lock files do not match pyproject.toml: run \`make lock\`." >&2; exit 1; }

# AUDIT="--osv-url …" asks another database, AUDIT="--ignore-vuln ID" leaves out what does not concern us.
audit: $(READY)
	@log=$$(mktemp) && trap 'rm -f "$$log"' EXIT; found=$$($(BIN)/$(AUDITOR) $(AUDIT) 2>"$$log") && \
		{ echo "Nothing that requirements.lock names has a known vulnerability."; exit 0; }; \
	if [ -n "$$found" ]; then echo "$$found"; echo "requirements.lock names packages with known vulnerabilities: see above." >&2; \
	else tail -n 1 "$$log" >&2; \
		echo "requirements.lock was NOT audited: the database of vulnerabilities, or pip-audit, could not be reached." >&2; fi; \
	exit 1

messages: $(READY)
	$(BIN)/python -m deploy.messages

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lock: $(READY)
	$(BIN)/$(LOCK_ALL) $(if $(UPGRADE),--upgrade) --output-file requirements.lock
	$(BIN)/$(LOCK_RUN) --output-file requirements-run.lock

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	$(call install,requirements.lock)
	@touch $@

$(RUN_READY): requirements-run.lock pyproject.toml
	$(call install,requirements-run.lock)
	@touch $@

# Make .venv, if it is not there yet, and install what a lock names, and this project.
define install
	@test -n "$(PYTHON)" || { echo "Customer Chats needs Python 3.11 or newer, and there is none on the PATH;" \
		"make PYTHON=/path/to/python3 names another." >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Customer Chats needs Python 3.11" \
		"or newer; $(PYTHON) is older or does not run." >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { echo "$(PYTHON) cannot make virtual environments:" \
		"its module venv or ensurepip is missing (on Debian and Ubuntu: apt install python3-venv)." >&2; exit 1; }
	@echo "Setting up .venv with $$("$(PYTHON)" --version) from $(1); this is done once and takes a minute …"
	@"$(PYTHON)" -m venv .venv
	@$(PIP) --require-hashes --requirement $(1)
	@$(PIP) --no-deps --no-build-isolation --editable .
endef
