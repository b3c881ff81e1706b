"""Drives a run: cases, environments, workers' lives, lockstep, comparison, diagnosis, report, command line. Imports no
framework.
"""
