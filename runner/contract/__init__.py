"""What the daemon and its stages share: the spec, the records, the paths and the exit codes.

Nothing in this package imports torch, and nothing in it acts on a run: it only names things.
"""
