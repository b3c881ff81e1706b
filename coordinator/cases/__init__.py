"""Reads a case: case.toml, its batches, its weights files, and what each step is asked to collect."""
