PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: venv demo test lint check dataflow-graph airflow clean

venv: $(INSTALLED)  ## what everything else needs

demo: $(INSTALLED)  ## annotate the bundled sample with the bundled model, and show what came out
	$(BIN)/python run_pipeline.py annotate --input bundled --output out/demo
	$(BIN)/python -m pipeline.show out/demo

test: $(INSTALLED)  ## all tests
	$(BIN)/pytest --cov --cov-report=term

lint: $(INSTALLED)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test  ## what CI runs

dataflow-graph: $(INSTALLED)  ## the Dataflow job of the demo, made offline and not submitted: out/dataflow
	$(BIN)/python deploy/dataflow/graph.py out/dataflow annotate --input bundled --output out/demo \
		--project=my-project --region=us-central1 --temp_location=gs://my-bucket/tmp \
		--sdk_container_image=us-docker.pkg.dev/my-project/spanmill/spanmill:0.1.0 \
		--experiments=no_use_multiple_sdk_containers
	$(BIN)/pytest tests/deploy/test_dataflow.py

airflow: $(INSTALLED)  ## the test of the Airflow DAG, with Airflow in an environment of its own
	test -x .venv-airflow/bin/airflow || $(PYTHON) -m venv .venv-airflow
	.venv-airflow/bin/pip install --quiet 'apache-airflow>=3' apache-airflow-providers-standard
	AIRFLOW_PYTHON=.venv-airflow/bin/python $(BIN)/pytest -rs tests/deploy/test_airflow.py

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-airflow build dist out *.egg-info
