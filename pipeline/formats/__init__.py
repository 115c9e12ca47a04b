"""Other formats than Parquet, and rows of finished runs."""
