"""Measures every declared pairing of optimizers, schedules, clips and regularisers: ``python -m benchmarks.atlas``."""
