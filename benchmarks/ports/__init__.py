"""A suite of faulty and correct ports with what stepalign must say about each: ``python -m benchmarks.ports``.

A model family is one pair of scripts; a fault is an option that one side reads differently (``[options.paddle]``),
so that faulty and correct ports share every line that is not the fault.
"""
