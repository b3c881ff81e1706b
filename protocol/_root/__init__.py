"""stepalign: show that a PaddlePaddle port of a PyTorch model trains the same."""

__version__ = "0.1.0"
