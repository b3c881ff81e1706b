"""Interpreters and the managed environments they live in: found, probed, made, removed, examined."""
