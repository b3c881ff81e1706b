"""Losses that differ: by their own numbers, and by the formula that torch's follow."""
