"""Measurements of stepalign itself: run from a checkout, never installed."""
