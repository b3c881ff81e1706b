"""Gradients that differ though the forward pass agrees."""
