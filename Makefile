PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: venv demo test quick lint docs check clean

venv: $(INSTALLED)  ## what everything else needs

demo: $(INSTALLED)  ## annotate the bundled sample with the bundled model, and show what came out
	$(BIN)/python run_pipeline.py annotate --input bundled --output out/demo
	$(BIN)/python -m pipeline.show out/demo

test: $(INSTALLED)  ## all tests
	$(BIN)/pytest --cov --cov-report=term

quick: $(INSTALLED)  ## tests without the slow ones
	$(BIN)/pytest -m 'not slow'

docs: $(INSTALLED)  ## the manual as a site in build/site, links and references checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(INSTALLED)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint docs test  ## what CI runs

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

clean:
	rm -rf .venv build dist out *.egg-info
