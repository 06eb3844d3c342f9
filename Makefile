# What a person types, CI runs. Every target installs what it needs into .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --disable-pip-version-check
MACHINES ?= 60
PARTS    ?=

.PHONY: help demo fleet-demo test test-site check audit licences fuzz fuzz-coverage soak bench bench-short docs deb deb-test deb-boot lock hooks clean
help:            ## what can be made
	@sed -n 's/^\([a-z-]*\): .*## /\1\t/p' $(MAKEFILE_LIST)

# Python and the locked packages, then this project in place, without a further download.
$(BIN)/hashcost: pyproject.toml requirements/run.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hashcost needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "installing into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "no venv: install python3-venv (apt-get install python3-venv)" >&2; exit 1; }
	@$(PIP) install --require-hashes -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev: $(BIN)/hashcost requirements/dev.txt
	@echo "installing the test tools ..."
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(BIN)/hashcost  ## a simulated site of 60 machines, the agent, margins and recommendations
	@if [ -t 1 ]; then exec $(BIN)/hashcost demo --machines $(MACHINES); \
	else exec $(BIN)/hashcost demo --machines $(MACHINES) --once; fi

fleet-demo: $(VENV)/dev  ## three simulated sites of 200 machines, a cluster of NATS servers, and the fleet of them
	@if [ -t 1 ]; then exec $(BIN)/hashcost fleet demo; else exec $(BIN)/hashcost fleet demo --once; fi

test: $(VENV)/dev  ## the tests of all parts, a quarter of an hour on two cores
	@$(BIN)/python -m pytest -q --ignore=tests/site

test-site: $(VENV)/dev  ## the whole agent against simulated sites, a quarter of an hour more
	@$(BIN)/python -m pytest -q tests/site

check: $(VENV)/dev  ## lint, types, import contracts, licences, known vulnerabilities as far as there is a network
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy -m bench.run -m bench.stock_table
	@$(BIN)/lint-imports
	@$(BIN)/python requirements/audit.py licences
	@$(BIN)/python requirements/audit.py vulnerabilities

audit: $(VENV)/dev  ## known vulnerabilities of what is locked; fails where not everything could be asked about
	@$(BIN)/python requirements/audit.py vulnerabilities --strict

licences: $(VENV)/dev  ## write requirements/licences.txt anew from what is installed
	@$(BIN)/python requirements/audit.py licences --write

INPUTS ?= 1000000
fuzz: $(VENV)/dev  ## INPUTS (a million) inputs for every parser of bytes from outside; some hours
	@FUZZ_INPUTS=$(INPUTS) $(BIN)/python -m pytest -q tests/fuzz

fuzz-coverage: $(VENV)/dev  ## the same under atheris, which follows coverage and bounds memory; PARTS names some parsers
	@$(PIP) install --require-hashes -r requirements/maintain.txt
	@$(BIN)/python -m tests.fuzz.coverage --inputs $(INPUTS) $(PARTS)

SOAK_MACHINES ?= 80
ROUNDS ?= 1
soak: $(VENV)/dev  ## a fault campaign of ROUNDS rounds against a simulated site of SOAK_MACHINES machines
	@$(BIN)/python -m tests.site.campaign --machines $(SOAK_MACHINES) --rounds $(ROUNDS)

# What hashcost is measured beside, in an environment of its own, as `pip install` of each would have it.
$(VENV)-rivals/ready: bench/requirements.txt
	@echo "installing the rivals ..."
	@$(PYTHON) -m venv $(VENV)-rivals
	@$(VENV)-rivals/bin/python -m pip --quiet --disable-pip-version-check install --require-hashes -r bench/requirements.txt
	@touch $@

bench: $(BIN)/hashcost $(VENV)-rivals/ready  ## everything beside its rivals, an hour; writes bench/latest.json
	@BENCH_RIVALS=$(VENV)-rivals/bin/python $(BIN)/python -m bench.run $(PARTS)

bench-short: $(BIN)/hashcost $(VENV)-rivals/ready  ## the same on small sites, some minutes; writes bench/short.json
	@BENCH_RIVALS=$(VENV)-rivals/bin/python $(BIN)/python -m bench.run --short $(PARTS)

docs: $(VENV)/dev  ## write the pictures and tables of docs/ anew; look at what changed
	@HASHCOST_WRITE_DOCS=1 $(BIN)/python -m pytest -q tests/tui/test_pictures.py tests/agent/test_source_matrix.py \
	  tests/agent/test_power_matrix.py tests/drivers/test_fault_matrix.py

deb: $(BIN)/hashcost  ## a Debian package in dist/
	@systemd/debian/build.sh $(BIN)/python dist

deb-test: deb  ## install, upgrade and remove it in a clean Debian root; needs root and debootstrap
	@systemd/debian/test.sh $$(ls -t dist/*.deb | head -n 1)

deb-boot: deb  ## boot a clean Debian root and run the service in it; needs root, debootstrap and systemd-nspawn
	@systemd/debian/boot.sh $$(ls -t dist/*.deb | head -n 1)

lock:  ## write requirements/*.txt anew from pyproject.toml
	@$(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/pip install --quiet uv
	@for set in run:build dev:build,dev,fleet,postgres,alerts,mqtt,openadr,parquet,charts maintain:maintain; do \
	  extras=$$(echo $${set#*:} | sed 's/\([a-z]*\),*/--extra \1 /g'); \
	  $(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	    --custom-compile-command 'make lock' $$extras pyproject.toml -o requirements/$${set%%:*}.txt || exit 1; \
	done
	@$(VENV)-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --custom-compile-command 'make lock' bench/requirements.in -o bench/requirements.txt
	@rm -r $(VENV)-lock

hooks: $(VENV)/dev  ## run the checks before every commit
	@$(PIP) install --require-hashes -r requirements/maintain.txt
	@$(BIN)/pre-commit install

clean:  ## remove what was installed and built
	@rm -rf $(VENV) $(VENV)-lock $(VENV)-rivals dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -r {} +
