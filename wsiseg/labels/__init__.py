"""Annotated nuclei, from whatever files they come in: to train on and to score against."""
