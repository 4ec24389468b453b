# Each target does its own set-up; all they need is Python >= 3.11, pip and make.
#   make quickstart   the whole story on procedural furniture, in minutes
#   make test         everything (at most an hour on two cores); make test-fast leaves out the slow ones
#   make bench        docs/benchmarks.md measured anew, on processors: less than 10 minutes of an idle machine
#   make bench-gpu    what of it needs a GPU;  make lint  what a commit must pass
#   make scaling      the measurements of docs/scaling.md: 20 minutes of an idle machine
# The environment is the folder .venv, or the one that JR_VENV names.

JR_VENV ?= $(CURDIR)/.venv
export JR_VENV
# The package comes from this clone, whichever clone the environment was made by.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
PYTHON := $(JR_VENV)/bin/python
# The first that is new enough.
BASE_PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$python" && break; done)

BENCHMARKS := chamfer step epoch oracle ido bank render ingest fit gpu_resources
GPU_BENCHMARKS := $(basename $(notdir $(wildcard benchmarks/*_gpu.py)))
# What of a benchmark is measured here; one that fails leaves the others and the page to be made.
WORK_bank := --work propose,against_sparse_adam,encoding,files
define measure
@failed=; $(foreach name,$(1),echo "== $(name)"; OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(PYTHON) \
	benchmarks/$(name).py $(2) $(WORK_$(name)) --csv docs/results/benchmarks/$(name).csv || failed="$$failed $(name)";) \
	$(PYTHON) benchmarks/page.py || exit 1; test -z "$$failed" || { echo "error: failed:$$failed" >&2; exit 1; }
endef

.PHONY: quickstart time-quickstart test test-fast bench bench-gpu scaling lint format environment shared-environment

quickstart: environment
	@$(PYTHON) -m jr_dist.quickstart

test: environment
	@$(PYTHON) -m pytest

test-fast: environment
	@$(PYTHON) -m pytest -m "not slow"

bench: environment
	$(call measure,$(BENCHMARKS),--quick)
	@$(PYTHON) benchmarks/scaling.py docs/results/benchmarks/bank.csv docs/results/steps.csv --document docs/scaling.md \
		> /dev/null

# make time-quickstart LABEL=after, and of another clone: make time-quickstart LABEL=before CLONE=../older
time-quickstart: environment
	@$(PYTHON) benchmarks/time_quickstart.py --label $(LABEL) $(if $(CLONE),--clone $(CLONE)) \
		--csv docs/results/benchmarks/quickstart.csv
	@$(PYTHON) benchmarks/page.py

bench-gpu: environment
	$(call measure,$(GPU_BENCHMARKS),)

scaling: environment
	@$(PYTHON) benchmarks/workers.py --csv docs/results/workers.csv
	@$(PYTHON) benchmarks/step_measure.py --csv docs/results/steps.csv --picture docs/images/step-model.png
	@$(PYTHON) benchmarks/scaling.py docs/results/benchmarks/bank.csv docs/results/steps.csv --document docs/scaling.md \
		> /dev/null

lint: environment
	@$(PYTHON) -m ruff check
	@$(PYTHON) -m ruff format --check
	@$(PYTHON) tools/kernel_digests.py --check
	@$(PYTHON) -m pyright --pythonpath $(PYTHON)

format: environment
	@$(PYTHON) -m ruff check --fix
	@$(PYTHON) -m ruff format
	@$(PYTHON) tools/kernel_digests.py

environment:
	@test -n "$(BASE_PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set BASE_PYTHON" >&2; exit 2; }
	@$(BASE_PYTHON) tools/environment.py

# Prints the folder of an environment that clones with the same pins can share.
shared-environment:
	@$(BASE_PYTHON) tools/environment.py --shared
