# Needs python3 (3.11 or newer) and make; everything else is set up in .venv from the lock file.
PYTHON ?= python3
BIN := .venv/bin
CORES ?= $(shell getconf _NPROCESSORS_ONLN)
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES) --rerun-incomplete
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Threads that wait must not spin: trainings run side by side.
export OMP_WAIT_POLICY := PASSIVE

.PHONY: setup demo subset test bench docs lock clean

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("partbench needs Python 3.11 or newer, this is " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	@$(PYTHON) -m venv .venv || { echo "python3 cannot make virtual environments here; install its venv package (Debian: python3-venv)"; exit 1; }
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/python -m pip install --quiet --require-hashes --requirement .venv/uv.lock
	@# Compiled now, or every job of the DAG compiles torch anew where Python may not write it.
	$(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode --python $(BIN)/python requirements.lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

# A killed Snakemake leaves a lock behind.
demo: setup
	@$(BIN)/partbench unlock
	$(SNAKEMAKE) --quiet rules --configfile config/demo.yaml
	@echo "report: $(CURDIR)/report/demo/index.html"

subset: setup
	@$(BIN)/partbench unlock
	$(SNAKEMAKE) --configfile config/subset.yaml
	@echo "report: $(CURDIR)/report/subset/index.html"

test: setup
	tests/install_chromium.sh
	tests/install_slurm.sh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint --configfile config/demo.yaml
	$(BIN)/pytest -n $(CORES) --dist worksteal

bench: setup
	$(BIN)/python -m benchmarks

docs: setup
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going docs docs/_build
	@echo "documentation: $(CURDIR)/docs/_build/index.html"

# Rewrites the lock file after a change of the dependencies in pyproject.toml.
lock: setup
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-header \
		--python-version 3.11 --extra dev --upgrade pyproject.toml --output-file requirements.lock

clean:
	rm -rf results/demo results/subset report/demo report/subset .snakemake
