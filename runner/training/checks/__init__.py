"""Checks of the data before the GPU starts: what the model will learn, and what it should not."""
