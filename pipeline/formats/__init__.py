"""Formats other than Parquet, and rows of finished runs."""
