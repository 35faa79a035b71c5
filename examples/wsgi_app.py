"""A service that sheds load at its door, and protects the calls that it makes itself.

Run it under any WSGI server with threads::

    gunicorn --threads 16 examples.wsgi_app:app
    waitress-serve --threads 16 examples.wsgi_app:app

`/quote` asks another service, at the host and port that `UPSTREAM` names; `/report` streams;
`/healthz` is always answered.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from resilient import (
    Bulkhead,
    CircuitBreaker,
    Pipeline,
    RejectedError,
    Retry,
    Timeout,
    remaining,
)
from resilient.wsgi import ResilienceMiddleware

# Inbound: fewer requests at once than the server has threads, so that some are left to
# refuse the others. Nothing can interrupt sync code safely, so the time of a request is a
# deadline that the code below reads.
door = Bulkhead(8, name="door")
inbound = Pipeline(Timeout(5, sync="deadline"), door, name="inbound")

# Outbound: two attempts within what is left of the request's time.
outbound = Pipeline(
    Timeout(2, sync="deadline"),
    Retry(on=(OSError, http.client.HTTPException), attempts=2),
    CircuitBreaker(consecutive_failures=5, open_for=10),
    name="quotes",
)


@outbound
def quote(host: str, port: int) -> bytes:
    """Ask the other service, for no longer than the answer is waited for."""
    left = remaining(default=2) or 0.001
    connection = http.client.HTTPConnection(host, port, timeout=left)
    try:
        connection.request("GET", "/", headers={"X-Time-Left": f"{left:.3f}"})
        answer = connection.getresponse()
        if answer.status != 200:
            raise http.client.HTTPException(f"the other service answered {answer.status}")
        return answer.read()
    finally:
        connection.close()


def service(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The application itself, which knows nothing of the policies at its door."""
    match environ["PATH_INFO"]:
        case "/healthz":
            status, body = "200 OK", json.dumps({"active": door.snapshot().active}).encode()
        case "/quote":
            status, body = quoted()
        case "/report":
            start_response("200 OK", [("Content-Type", "text/plain")])
            return report()
        case _:
            status, body = "404 Not Found", b"not found\n"
    headers = [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))]
    start_response(status, headers)
    return [body]


def quoted() -> tuple[str, bytes]:
    host, _, port = os.environ.get("UPSTREAM", "127.0.0.1:9").partition(":")
    try:
        return "200 OK", quote(host, int(port))
    except (OSError, RejectedError, http.client.HTTPException):
        return "502 Bad Gateway", b"no quote to be had now\n"


def report() -> Iterator[bytes]:
    for number in range(100):
        yield b"line %d\n" % number


app = ResilienceMiddleware(service, inbound, exclude=["/healthz"], deadline_header="X-Time-Left")
