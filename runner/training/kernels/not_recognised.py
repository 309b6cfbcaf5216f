"""Not recognised: the model has something that the fast path does not know; the message says what."""

from __future__ import annotations


class NotRecognised(Exception):  # noqa: N818  (a finding)
    """The model trains on the plain path; nothing about it was changed."""
