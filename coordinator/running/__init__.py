"""A run from its case to its verdict: recorded, judged, replayed, located."""
