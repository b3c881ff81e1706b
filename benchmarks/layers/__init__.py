"""The table of layers, measured: both frameworks on identical inputs and weights, each in a process of its own."""
