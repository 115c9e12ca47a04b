#!/bin/sh
# Train a reader on a GPU: a teacher, then a student, calibrated and audited (docs/training.md).
#
#     sh deploy/gpu/train_reader.sh    everything, with the hub and SQuAD's site at hand
#     TRAIN=a.parquet EVAL=b.parquet PYTHON=echo sh deploy/gpu/train_reader.sh    print the commands
#
# The same command resumes an interrupted training. Without a network, give local folders as bases,
# TRAIN and EVAL (comma-separated Parquet files), and TEACHER (a trained teacher) to skip its
# training.
set -eu

: "${PYTHON:=python}" "${OUT:=out/reader}" "${MINUTES:=25}" "${BATCH_TOKENS:=16384}"
: "${TEACHER_BASE:=sentence-transformers/all-mpnet-base-v2}"
: "${BASE:=sentence-transformers/all-MiniLM-L6-v2}"
: "${SQUAD:=$OUT/squad}" "${TRAIN:=}" "${EVAL:=}" "${TEACHER:=}"

# Data: SQuAD 2.0 to train on, both development sets to calibrate and measure.
if [ -z "$TRAIN" ]; then
    mkdir -p "$SQUAD"
    for name in train-v2.0 dev-v1.1 dev-v2.0; do
        url=https://rajpurkar.github.io/SQuAD-explorer/dataset/$name.json
        if [ ! -e "$SQUAD/$name.json" ]; then
            # A file has its name only when it is whole.
            curl -fL -o "$SQUAD/$name.part" "$url"
            mv "$SQUAD/$name.part" "$SQUAD/$name.json"
        fi
        [ -e "$SQUAD/$name.parquet" ] || $PYTHON -m pipeline.convert import \
            --input "$SQUAD/$name.json" --output "$SQUAD/$name.parquet"
    done
    TRAIN=$SQUAD/train-v2.0.parquet
    EVAL=$SQUAD/dev-v1.1.parquet,$SQUAD/dev-v2.0.parquet
fi
: "${EVAL:?give EVAL with TRAIN: files to calibrate and measure on}"

# What both trainings share. SQuAD 2.0 has unanswerable questions of its own: none are made up.
train() {
    $PYTHON -m model.train --train "$TRAIN" --keep_out "$EVAL" --unanswerable_share 0 \
        --objective compound --shared_normalisation --dropout 0.1 \
        --batch_tokens "$BATCH_TOKENS" --max_minutes "$MINUTES" "$@"
}

if [ -z "$TEACHER" ]; then
    TEACHER=$OUT/teacher
    train --base "$TEACHER_BASE" --learning_rate 5e-5 --warmup 500 --epochs 2 --output "$TEACHER"
fi
train --base "$BASE" --teacher "$TEACHER" --teacher_cache "$OUT/taught" \
    --learning_rate 3e-4 --epochs 6 --output "$OUT/student"

$PYTHON -m model.calibrate --model "$OUT/student" --data "$EVAL" --null on
for file in $(echo "$EVAL" | tr , ' '); do
    $PYTHON run_pipeline.py audit --input "$file" --model "$OUT/student" \
        --output "$OUT/audit-$(basename "$file" .parquet)"
done
# The last step, because a processor without oneDNN can't try it.
$PYTHON -m model.try_int8 --model "$OUT/student" --data "$EVAL"
