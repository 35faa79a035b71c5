"""The members of the failover demo: `python -m resilient._cli.backends NAME:DELAY:PORT ...`."""

from __future__ import annotations

import sys
import time

from resilient._cli.servers import Handler, Listener, any_port, serve


class _Backend(Listener):
    def __init__(self, name: str, delay: float, port: int) -> None:
        self.name = name
        self.delay = delay
        super().__init__(("127.0.0.1", port), _Answers)


class _Answers(Handler):
    server: _Backend  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:  # noqa: N802 - the base's name
        """Say the server's name, after its delay."""
        time.sleep(self.server.delay)
        self.answer(200, self.server.name.encode())


def _backend(argument: str) -> Listener:
    name, delay, port = argument.split(":")
    if int(port):
        return _Backend(name, float(delay), int(port))
    return any_port(lambda port: _Backend(name, float(delay), port))


if __name__ == "__main__":
    serve([_backend(argument) for argument in sys.argv[1:]])
