# Each verb sets up its own environment in .venv; Python 3.11 or newer and make are all it needs.
PYTHON ?= python3
PROFILE ?= digits
OUT ?= results
VENV ?= .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed
PROCESSES ?= 2
CONSTRAINTS ?= constraints.txt
PORT ?= 8888
IP ?= localhost
LOWEST ?= .venv-lowest
# A thread each: torch and the processes would else wait for one another.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(PROCESSES) --dist loadscope --no-loadscope-reorder $(OPTIONS)

.DEFAULT_GOAL := help
.PHONY: help reproduce flower-demo test quick test-lowest lab site figures bench strip

help:
	@echo "make reproduce   run every notebook, write figures, HTML report and claims to $(OUT)/ (PROFILE=$(PROFILE))"
	@echo "make flower-demo one run on Flower: a SuperLink and three SuperNodes as processes of this machine"
	@echo "make test        lint, types, unit tests, and every notebook at profile smoke"
	@echo "make quick       unit tests alone, without the slow ones and the notebooks"
	@echo "make test-lowest the quick tests with the lowest versions that pyproject.toml allows, in $(LOWEST)"
	@echo "make lab         open the notebooks in JupyterLab (PORT=$(PORT); BROWSER=no opens none; in a container also IP=0.0.0.0)"
	@echo "make site        the report anew from what is in $(OUT)/, to open in a browser; runs no notebook"
	@echo "make figures     draw accuracy over rounds and density of every run in $(OUT)/"
	@echo "make bench       time the benchmarks; writes records/inference.json and records/sparse_step/"
	@echo "make strip       remove the outputs of the notebooks"

reproduce: $(INSTALLED)
	$(BIN)/python -m fedtiny_lite notebooks --profile $(PROFILE) --out $(OUT)

flower-demo: $(INSTALLED)
	$(BIN)/python -m fedtiny_lite.flower.loopback --out $(OUT)/flower

test: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy fedtiny_lite
	$(PYTEST)

quick: $(INSTALLED)
	$(PYTEST) -m "not slow"

# Old versions warn of what newer ones changed beneath them: here that is no error.
test-lowest:
	$(MAKE) VENV=$(LOWEST) CONSTRAINTS=constraints-lowest.txt OPTIONS="-W default" quick

# The folder .jupyter tells JupyterLab not to ask about news. As root, which is who one is in a container, it wants a flag.
lab: $(INSTALLED)
	JUPYTER_CONFIG_PATH=$(CURDIR)/.jupyter $(BIN)/jupyter lab --notebook-dir=. \
	  --LabApp.default_url=/lab/tree/notebooks/00_start_here.ipynb --LabApp.extension_manager=readonly \
	  --port=$(PORT) --ip=$(IP) $(if $(filter no,$(BROWSER)),--no-browser) $(if $(filter 0,$(shell id -u)),--allow-root)

site: $(INSTALLED)
	$(BIN)/python -m fedtiny_lite report --out $(OUT)

figures: $(INSTALLED)
	$(BIN)/python -m fedtiny_lite figures --out $(OUT)

bench: $(INSTALLED)
	@status=0; for name in round_overhead engine_choice sparse_step inference panels; do \
	  $(BIN)/python -m benchmarks.$$name || status=1; done; exit $$status

strip: $(INSTALLED)
	$(BIN)/jupyter nbconvert --ClearOutputPreprocessor.enabled=True --inplace notebooks/*.ipynb

# The stamp is touched last, so an installation that was cut short is done again.
$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "FedTiny-Lite needs Python 3.11 or newer, and '$(PYTHON)' is not; name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c $(CONSTRAINTS) -e '.[test]'
	@touch $@
