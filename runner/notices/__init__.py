"""Notices: that a run has ended, left as a file and sent from a container of its own."""
