"""A hang in the daemon's loop, planted from outside: Python imports this where PYTHONPATH names it.

Nothing that people can put into a folder makes the loop wait any more, so the hang is a fake: while
a file `hang` lies in the daemon's private folder, the loop stands still where requests are read.
"""

import time

try:
    from runner.contract import requests
except ImportError:  # a Python of something else
    pass
else:
    _read = requests.read_requests

    def read_requests(outputs):
        """Wait for as long as the file is there."""
        while (outputs.private / "hang").exists():
            time.sleep(0.1)
        return _read(outputs)

    requests.read_requests = read_requests
