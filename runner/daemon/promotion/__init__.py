"""Promotion: the gate that a run's adapter passes or not, and what moves `current`."""
