"""The bundled sample data set: readable sources and the script that builds them into Parquet."""
