PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: venv demo test torture advisories lint check clean

venv: $(INSTALLED)  ## what everything else needs

demo: $(INSTALLED)  ## annotate the bundled sample with the bundled model, and show what came out
	$(BIN)/python run_pipeline.py annotate --input bundled --output out/demo
	$(BIN)/python -m pipeline.show out/demo

test: $(INSTALLED)  ## all tests
	$(BIN)/pytest --cov --cov-report=term

torture: $(INSTALLED)  ## kills, faults and damaged files by the thousand: an hour or so
	$(BIN)/pytest -m torture -v -s

advisories: $(INSTALLED)  ## known vulnerabilities of all pins, asked of PyPI
	$(PYTHON) -m venv .venv/advisories
	.venv/advisories/bin/pip install --quiet pip-audit
	.venv/advisories/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

lint: $(INSTALLED)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what CI runs

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv build dist out *.egg-info
