"""The cases that lockstep is timed on, and the same training as a bare loop of one framework."""
