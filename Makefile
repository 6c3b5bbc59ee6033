# What there is to do in this repository. `make help` lists it; `make demo` needs nothing but Python 3.11 or later.

PYTHON = python3
VENV = .venv
ARGS =
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check --no-input --quiet

.DEFAULT_GOAL = help
.DELETE_ON_ERROR:
.PHONY: help demo setup test proof lint types imports bench controlplane boot schema rules lock wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## try truetally: a NAS and a cluster on loopback, and a story on them
	$(BIN)/truetally lab $(ARGS)

setup: $(VENV)/.dev ## the virtual environment with all that the other targets need

test: $(VENV)/.dev controlplane ## all tests, or those in ARGS: make test ARGS=tests/settings
	$(BIN)/python -m pytest $(ARGS)

HISTORIES = 100000
proof: $(VENV)/.dev ## play 100,000 random histories and hold what is found against the truth (HISTORIES=2000, MUTANTS=1, SEED=17)
	PYTHONPATH=daemon:tests $(BIN)/python -m proof.runner --histories $(HISTORIES) $(if $(MUTANTS),--mutants) $(if $(SEED),--seed $(SEED))
	$(if $(MUTANTS)$(SEED),,$(BIN)/python bench/baseline.py --histories 1000)

lint: $(VENV)/.dev ## style and mistakes that can be seen without running
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

imports: $(VENV)/.dev ## the layers: imports go down only
	$(BIN)/lint-imports

bench: $(VENV)/.dev ## how fast and how large; the figures stand in bench/README.md
	$(BIN)/python bench/run.py $(ARGS)

controlplane: $(VENV)/.dev ## build the real kube-apiserver and etcd that the tests use (once, then cached)
	$(BIN)/python tests/controlplane/harness.py build

boot: ## boot a real systemd with the shipped unit and look (root, systemd-nspawn and uv; about 15 s)
	UV=$(UV) sh tests/systemd/boot.sh

schema: $(VENV)/.dev ## write config/truetally.schema.json from the settings
	$(BIN)/python -m truetally.configuration.schema > $(VENV)/schema.json
	mv $(VENV)/schema.json config/truetally.schema.json

rules: $(VENV)/.dev ## write docs/rules.md from the rules
	$(BIN)/python -m truetally.findings.reference > $(VENV)/rules.md
	mv $(VENV)/rules.md docs/rules.md

wheel: $(VENV)/.dev ## build the wheel into dist/
	$(BIN)/python -m hatchling build -t wheel -d dist

# uv.lock names the index it was made from, so it stays here; the exported files hold versions and hashes only.
UV = uv
EXPORT = $(UV) export --quiet --locked --no-emit-project --no-annotate --no-header --format requirements-txt
lock: ## write the lock files anew from pyproject.toml (needs uv; UPGRADE=1 takes newer versions)
	$(UV) lock $(if $(UPGRADE),--upgrade)
	$(EXPORT) --no-dev --output-file requirements-lock.txt > /dev/null
	$(EXPORT) --all-groups --output-file requirements-dev-lock.txt > /dev/null
	$(EXPORT) --only-group build --output-file deploy/build-requirements.txt > /dev/null

clean: ## remove what the other targets made
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

# A changed lock starts from an empty environment, so that nothing is left of the old one.
$(VENV)/.runtime: requirements-lock.txt deploy/build-requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("truetally needs Python 3.11 or later, and \
	$(PYTHON) is " + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv --clear $(VENV)
	$(PIP) install --require-hashes -r requirements-lock.txt -r deploy/build-requirements.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements-dev-lock.txt
	$(PIP) install --require-hashes -r requirements-dev-lock.txt
	touch $@
