"""Standard streams: one that was closed before this process began is opened to nowhere.

Otherwise the next file that is opened gets its number, and whatever prints writes into that file.
"""

from __future__ import annotations

import os


def open_standard_streams() -> None:
    """Make sure that descriptors 0, 1 and 2 are open."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            made = os.open(os.devnull, os.O_RDWR)  # the lowest free number: this one
            if made != number:
                os.dup2(made, number)
                os.close(made)
