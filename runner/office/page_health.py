"""Health check of the page's container: does it answer on its socket? Stands alone, to be quick.

python -IS page_health.py SOCKET
"""

# It runs every 15 seconds as `python -IS`: 20 ms; with the site's packages it takes ten times that.
import socket
import sys

SECONDS = 8.0
"""So long it may take to answer: less than Compose waits."""


def answers(path: str) -> bool:
    """Ask for /healthz, which needs no key."""
    try:
        with socket.socket(socket.AF_UNIX) as asked:
            asked.settimeout(SECONDS)
            asked.connect(path)
            asked.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            return asked.makefile("rb").readline().split()[1:2] == [b"200"]
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(0 if answers(sys.argv[1]) else 1)
