"""A real HTTP server on loopback, as a process of its own, for the failover examples."""

import random
import subprocess
import sys
import threading
import time
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

FAILURES = (OSError, HTTPException)
# Below the ports that the system gives to clients: nobody takes it while its server is down.
PORTS = range(20_000, 32_000)


class Server:
    """The server's process: started, killed, started again, and ended with its block."""

    def __init__(self, name: str, *, delay: float = 0.0) -> None:
        self.name = name
        self.delay = delay
        self.port = 0
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it; the second time on the port that it had. Returns before it listens."""
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.name, str(self.port), str(self.delay)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def listens(self) -> None:
        """Wait until it does."""
        assert self.process is not None
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        """End it as a crash would: SIGKILL, with answers half-way."""
        assert self.process is not None
        self.process.kill()
        self._gone()

    def stop(self) -> None:
        """End it, if it runs; it also ends by itself when whoever started it is gone."""
        if self.process is not None:
            self.process.terminate()
            self._gone()

    def _gone(self) -> None:
        process, self.process = self.process, None
        assert process is not None
        # Waits for its end, and closes the pipes.
        process.communicate()

    def __enter__(self) -> Self:
        self.start()
        self.listens()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


class Servers:
    """Several servers, started together."""

    def __init__(self, *servers: Server) -> None:
        self.by_name = {server.name: server for server in servers}

    def __enter__(self) -> dict[str, Server]:
        for server in self.by_name.values():
            server.start()
        for server in self.by_name.values():
            server.listens()
        return self.by_name

    def __exit__(self, *exc: object) -> None:
        for server in self.by_name.values():
            server.stop()


def get(server: Server) -> str:
    """Ask a server for its name, on a connection of its own."""
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=10)) as connection:
        connection.request("GET", "/")
        answer = connection.getresponse()
        if answer.status != 200:
            raise HTTPException(answer.status)
        return answer.read().decode()


class Answers(BaseHTTPRequestHandler):
    """Says the server's name, after a while."""

    name, delay = "", 0.0

    def do_GET(self) -> None:
        time.sleep(self.delay)
        body = self.name.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


class Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *args: Any) -> None:
        """A client that went away before its answer is no news."""


def listen(port: int) -> Listener:
    while True:
        try:
            return Listener(("127.0.0.1", port or random.choice(PORTS)), Answers)
        except OSError:
            if port:
                raise


def main(name: str, port: str, delay: str) -> None:
    Answers.name, Answers.delay = name, float(delay)
    server = listen(int(port))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()  # ends when whoever started this process has gone


if __name__ == "__main__":
    main(*sys.argv[1:])
