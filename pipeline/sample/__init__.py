"""The bundled sample of `--input bundled`, and what it is built from."""

import os

SAMPLE = os.path.join(os.path.dirname(__file__), "sample.parquet")
"""What `--input bundled` reads."""
