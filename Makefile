# Each target sets up what it needs by itself: git, make and Python >= 3.11 are enough.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: search test test-long lint coverage clean

search: $(VENV)/installed
	$(BIN)/python -m twins_nas.search --space space/svt.yaml

test: $(VENV)/installed
	$(BIN)/python -m pytest

test-long: $(VENV)/installed
	$(BIN)/python -m pytest -m long

coverage: $(VENV)/installed
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=85

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python >= 3.11 is needed, this is %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,onnx]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
