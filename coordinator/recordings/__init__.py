"""One side of a run, kept: written by `stepalign record`, and played back in place of that side's worker."""
