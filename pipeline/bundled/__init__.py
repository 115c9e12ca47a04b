"""The bundled sample of `--input bundled`, and the sources that it is built from."""

import os

SAMPLE = os.path.join(os.path.dirname(__file__), "sample.parquet")
"""The file that `--input bundled` reads."""

QUESTIONS = os.path.join(os.path.dirname(__file__), "questions.jsonl")
"""The file that `--questions bundled` reads."""
