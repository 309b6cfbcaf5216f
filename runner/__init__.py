"""Turns job specs dropped into a folder into fine-tuned adapters, one run at a time."""

__version__ = "0.1.0"
