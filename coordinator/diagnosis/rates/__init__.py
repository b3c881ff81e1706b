"""Learning rates: which law each side's follow, and where the laws differ."""
