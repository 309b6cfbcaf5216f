"""A bad line between a browser and the page: it cuts connections in the middle of what is sent."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Line:
    """How often the line is still to be cut, and after how many bytes of one connection."""

    address: str
    after_bytes: int
    cuts: int
    done: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def is_cut(self, sent: int) -> bool:
        """Whether a connection that has sent so much is cut now."""
        with self._lock:
            if sent < self.after_bytes or self.done >= self.cuts:
                return False
            self.done += 1
            return True


def _pass_on(source: socket.socket, target: socket.socket, line: Line | None) -> None:
    sent = 0
    with contextlib.suppress(OSError):
        while content := source.recv(65536):
            target.sendall(content)
            sent += len(content)
            if line is not None and line.is_cut(sent):
                break
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def bad_line(address: str, *, after_bytes: int, cuts: int) -> Iterator[Line]:
    """Lead to a page by a line that is cut so often."""
    host, _, port = address.removeprefix("http://").partition(":")
    ends: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        line = Line(f"http://127.0.0.1:{server.getsockname()[1]}", after_bytes, cuts)

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = server.accept()
                    page = socket.create_connection((host, int(port)))
                    ends.extend((client, page))
                    for pair in ((client, page, line), (page, client, None)):
                        threading.Thread(target=_pass_on, args=pair, daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield line
        server.shutdown(socket.SHUT_RDWR)
    for end in ends:
        end.close()
