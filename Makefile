# The commands of the people who work on jobonnx. Each runs in an environment made by: pip install -c constraints.txt -e ".[test]"
PYTHON ?= python
# What `make campaign` begins with, and how long each campaign may take.
SEED ?= 1
SECONDS_EACH ?= 300

.PHONY: check test test-fast test-all bench campaign

check: # lint, layout, types
	ruff check .
	ruff format --check .
	mypy

test: # what CI runs: all but the markers slow, network and campaign
	$(PYTHON) -m pytest

# Besides, without the marker medium; tests/conftest.py gives it to every test that needs an export.
test-fast: # under 90 seconds on two cores
	$(PYTHON) -m pytest -m "not slow and not network and not campaign and not medium"

test-all: # everything; the campaigns take SECONDS_EACH each
	JOBONNX_CAMPAIGN_SEED=$(SEED) JOBONNX_CAMPAIGN_SECONDS=$(SECONDS_EACH) $(PYTHON) -m pytest -m ""

bench: # micro-benchmarks, saved; add ARGS=--benchmark-compare to see them beside the last saved run
	$(PYTHON) -m pytest benchmarks/test_speed.py --benchmark-enable --benchmark-autosave $(ARGS)

campaign: # random attacks: make campaign SEED=7 SECONDS_EACH=3600
	JOBONNX_CAMPAIGN_SEED=$(SEED) JOBONNX_CAMPAIGN_SECONDS=$(SECONDS_EACH) $(PYTHON) -m pytest tests/campaigns -m campaign -rA
