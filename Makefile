# make demo    install, then encode, search, score and mine on real text with a real model
# make test    install, then run the tests; make test-all also runs the long ones
# make fuzz    install, then look for input that breaks the readers, for about five minutes on 2 cores
# make lint    install, then check format and style
#
# TORCH chooses the build of PyTorch; the README explains it.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
RUN := PATH="$(abspath $(BIN)):$$PATH"
QUICK := not slow and not cluster and not gpu
# A file's tests share what they make, so that they run on one worker; long files come first.
BY_FILE := --dist loadfile --no-loadscope-reorder
PYTEST_ARGS ?= -m "$(QUICK)" -n 2 $(BY_FILE)

FUZZ_EXAMPLES ?= 8000

.PHONY: demo test test-all fuzz lint setup clean

demo: setup
	@echo "== demo: encode, search, score and mine (all-MiniLM-L6-v2 on the Python standard library)"
	@$(RUN) python -m trove_steps.rundemo

test: setup
	@echo "== test"
	@$(RUN) python -m pytest $(PYTEST_ARGS)

test-all: setup
	@echo "== test, on a SLURM cluster too, where one can be started"
	@# One of three workers has the cluster's file, whose tests mostly wait for SLURM.
	@$(RUN) python -m pytest -m "not gpu" -n 3 $(BY_FILE)

fuzz: setup
	@echo "== fuzz: readers of collections and judgments, $(FUZZ_EXAMPLES) inputs per test"
	@$(RUN) FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) python -m pytest -m fuzz -n 2

lint: setup
	@echo "== lint"
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) snakefmt --check Snakefile workflow
	@$(RUN) snakemake --lint

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml Makefile
	@echo "== setup: a virtual environment in $(VENV) (some minutes the first time)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: Python 3.11 or newer is needed; name one with make PYTHON=python3.12 …"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { echo "error: python3-venv is missing; on Debian: apt-get install python3-venv"; exit 1; }
	@echo "   PyTorch: $(TORCH)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH)
	@echo "   trove-steps and the rest"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[demo,dev,fast]"
	@touch $@

clean:
	rm -rf cache demo logs results .snakemake
