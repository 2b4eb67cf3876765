# `make train` and `make test` install what they need into .venv once, the command .venv/bin/golf included, and
# then run.
# PRESET names a preset and ARGS passes options:  make train PRESET=cpu ARGS="--seed 7"

PYTHON ?= python3
VENV := .venv
IN_VENV := $(VENV)/bin/python

TORCH ?= 2.11.0
OTHER_VENV := .venv-torch-$(TORCH)
EMPTY := $(abspath .try-wheel)

# A variable that nothing reads would be taken for an option that worked.
GIVEN := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(filter-out PYTHON TORCH PRESET ARGS VENV,$(GIVEN))
$(if $(UNKNOWN),$(error $(UNKNOWN): the variables are PYTHON, TORCH, PRESET and ARGS; options go into ARGS))

.PHONY: train test lint types figures docs wheel try-wheel check-torch clean

train: $(VENV)/.run-ready
	$(IN_VENV) train_gpt.py $(if $(PRESET),--preset $(PRESET)) $(ARGS)

test: $(VENV)/.test-ready
	OMP_NUM_THREADS=1 $(IN_VENV) -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

# `make check-torch TORCH=2.9.1` checks, in its own environment, that this torch compiles what a GPU would
# and passes the CPU tests of model, training, scoring and test-time training. ARGS="--workers 1" for one
# process. numpy is below 2.4 there; other torch versions were tested with that.
check-torch: $(OTHER_VENV)/.ready
	OMP_NUM_THREADS=1 $(OTHER_VENV)/bin/python -m benchmarks.check_torch --suite --workers auto $(ARGS)

lint: $(VENV)/.test-ready
	$(IN_VENV) -m ruff check . && $(IN_VENV) -m ruff format --check .

types: $(VENV)/.test-ready
	$(IN_VENV) -m pyright --pythonpath $(IN_VENV)

# Renders the tables of measured figures in README.md and docs/ from docs/figures/*.json and committed results.
figures: $(VENV)/.run-ready
	$(IN_VENV) -m benchmarks.figures $(ARGS)

# The pages of docs/ as a site, in site/; a link, an anchor or a page that is missing is an error.
docs: $(VENV)/.test-ready
	NO_MKDOCS_2_WARNING=1 $(IN_VENV) -m mkdocs build --strict --quiet

wheel:
	rm -rf dist build
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

# The package as a stranger has it: an empty environment, an empty folder, `golf train` to an audited entry.
try-wheel: wheel
	rm -rf $(EMPTY) && $(PYTHON) -m venv $(EMPTY)/venv && mkdir $(EMPTY)/here
	$(EMPTY)/venv/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.txt dist/*.whl
	cd $(EMPTY)/here && ../venv/bin/golf --help > help.txt && ../venv/bin/golf train --steps 5 $(ARGS)
	cd $(EMPTY)/here && grep -q '"passed": true' records/local/*/audit.json && ../venv/bin/golf check records/local/*

# A torch that the system already has (from 2.8 on) is used as it is: installing the tested version could
# replace a CUDA build that fits the driver.
$(VENV)/bin/python:
	@if $(PYTHON) -c "import torch; v = torch.__version__.split('.'); assert (int(v[0]), int(v[1])) >= (2, 8)" 2>/dev/null; \
	then echo "using the torch that $(PYTHON) has"; $(PYTHON) -m venv --system-site-packages $(VENV); \
	else $(PYTHON) -m venv $(VENV); fi

$(VENV)/.run-ready: requirements.txt | $(VENV)/bin/python
	@echo "installing requirements.txt into $(VENV) (once)"
	@if grep -q "system-site-packages = true" $(VENV)/pyvenv.cfg; \
	then grep -v "^torch==" requirements.txt > $(VENV)/requirements.txt; \
	else cp requirements.txt $(VENV)/requirements.txt; fi
	@$(IN_VENV) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements.txt
	@$(IN_VENV) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@echo "the command is $(VENV)/bin/golf; 'source $(VENV)/bin/activate' puts it on the PATH"
	@touch $@

$(VENV)/.test-ready: requirements-dev.txt $(VENV)/.run-ready
	@echo "installing requirements-dev.txt into $(VENV) (once)"
	@grep -v "^-r" requirements-dev.txt > $(VENV)/requirements-dev.txt
	@$(IN_VENV) -m pip install --quiet --disable-pip-version-check -r $(VENV)/requirements-dev.txt
	@touch $@

$(OTHER_VENV)/.ready: requirements.txt requirements-dev.txt
	@echo "installing torch $(TORCH) and the rest of requirements-dev.txt into $(OTHER_VENV) (once)"
	@$(PYTHON) -m venv $(OTHER_VENV)
	@cat requirements.txt requirements-dev.txt | grep -v "^torch==" | grep -v "^-r" \
	| sed "s/^numpy==.*/numpy>=2.0,<2.4/" > $(OTHER_VENV)/requirements.txt
	@$(OTHER_VENV)/bin/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) -r $(OTHER_VENV)/requirements.txt
	@touch $@

clean:
	rm -rf $(VENV) .venv-torch-* $(EMPTY) dist build site *.egg-info .pytest_cache .ruff_cache .hypothesis
