"""The doctor: facts about this box become findings: what is, why it matters, how to fix it.

Each check is a file: a record of facts, a function that reads them here and now, and a pure one
that turns them into a finding. Only `card.py` imports torch, and it runs in a child.
"""
