"""Not recognised: what the fast path does not know of a model, in words for the log."""

from __future__ import annotations


class NotRecognised(Exception):  # noqa: N818  (a finding)
    """The model trains on the plain path; nothing about it was changed."""
