"""Extractive question answering without Beam: tokenizer, windows, reader, prediction loop, span decoding, objective."""
