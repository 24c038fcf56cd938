# Two commands for everyone: `make demo` and `make test`. Both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Older generations of OpenAI's library, each in a folder of its own; tests drive the server with all of them.
SDKS := $(patsubst %,.sdk/%/.ready,1.109.1 2.54.0 3.52.0)

.PHONY: setup demo test check fix docs bench clean

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] <= (3, 13) else f"Kivnun needs Python 3.11 to 3.13, this is {sys.version.split()[0]}; name another with: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

demo: setup
	$(BIN)/kivnun run recipes/tone.yaml
	$(BIN)/kivnun generate runs/tone "I checked the lock three times and still heard steps on the stairs"

.sdk/%/.ready: | $(READY)
	rm -rf $(@D)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(@D) openai==$*
	@touch $@

test: setup $(SDKS)
	$(BIN)/python -m pytest -n 2 --dist loadfile

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

fix: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/python docs/generate.py

bench: setup
	$(BIN)/python bench/training.py --quick

clean:
	rm -rf $(VENV) .sdk runs build dist
