"""Both middlewares under real servers, with clients that do what clients do."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from tests.integrations.served import BLOCK, BLOCKS, LIMIT
from tests.integrations.server_process import (
    ASGI,
    GRACE,
    WSGI,
    Answer,
    Served,
    free_port,
    request,
    serving,
    start,
    stop,
)

MB = 1024  # in kB, as the memory is told


@pytest.fixture(scope="module", params=ASGI + WSGI)
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    kind = "asgi" if request.param in ASGI else "wsgi"
    with serving(request.param, f"tests.integrations.served:{kind}") as found:
        found.name = request.param  # type: ignore[attr-defined]
        yield found


def hold(served: Served, stack: ExitStack, path: str = "/hold") -> list[Any]:
    """As many requests as are let in, under way."""
    held = [stack.enter_context(served.sending(path)) for _ in range(LIMIT)]
    served.until(active=LIMIT)
    return held


def test_more_connections_than_the_limit(served):
    """The first ones are served, those beyond the limit refused, and exempt paths answered."""
    with ExitStack() as stack:
        held = hold(served, stack)
        for _ in range(LIMIT):
            refused = served.get("/")
            assert refused.status == 503
            assert refused.headers["retry-after"] == "1"
            assert json.loads(refused.body)["status"] == 503
            head = served.get("/", "HEAD")
            assert head.status == 503
        served.get("/release")
        assert [Answer(one).status for one in held] == [200] * LIMIT
    served.until(active=0)
    assert served.get("/").body == b"ok"


def test_clients_that_hang_up_half_way(served):
    """Their permits return."""
    with ExitStack() as stack:
        for connection in hold(served, stack, "/endless"):
            assert connection.recv(100)
    served.until(active=0)


def test_a_body_that_is_sent_slowly(served):
    """It arrives whole, and holds one permit all the while."""
    body = b"x" * 1000
    with served.sending("/upload", "POST", Content_Length="1000") as connection:
        connection.sendall(body[:400])
        if served.name != "waitress":  # which reads it before it calls the application
            served.until(active=1)
        connection.sendall(body[400:])
        assert Answer(connection).body == b"1000"


def test_a_long_answer_takes_little_memory(served):
    """256 MB pass through the policies chunk by chunk."""
    served.get("/")
    before = served.state()["peak"]
    with served.sending("/big", Connection="close") as connection:
        assert Answer(connection, keep=False).size == BLOCKS * len(BLOCK)
    assert served.state()["peak"] - before < 64 * MB
    served.until(active=0)


def test_one_connection_serves_several_requests(served):
    """Answers and refusals alike leave the connection usable."""
    with served.connect() as connection, ExitStack() as stack:
        connection.sendall(request("/"))
        assert Answer(connection).body == b"ok"
        connection.sendall(request("/", "HEAD"))
        head = Answer(connection, head_only=True)
        assert (head.status, head.headers["content-length"]) == (200, "2")
        # The client may have its answer before the server has come back from sending it.
        served.until(active=0)
        hold(served, stack, "/endless")
        connection.sendall(request("/"))
        assert Answer(connection).status == 503
        connection.sendall(request("/state"))
        assert Answer(connection).status == 200
    served.until(active=0)


def test_an_answer_without_a_body(served):
    """One that says that nothing has changed ends with its head."""
    assert served.get("/304").status == 304
    served.until(active=0)


def test_continue_is_sent_when_the_body_is_asked_for(served):
    """A client that waits for it is told to go on."""
    headers = {"Content_Length": "3", "Expect": "100-continue"}
    with served.sending("/upload", "POST", **headers) as connection:
        assert Answer(connection).status == 100
        connection.sendall(b"abc")
        assert Answer(connection).body == b"3"


def test_a_refused_client_is_not_told_to_continue(served):
    """Its body is never asked for."""
    if served.name != "uvicorn":
        pytest.skip(f"{served.name} says it before it calls the application")
    with ExitStack() as stack:
        hold(served, stack, "/endless")
        headers = {"Content_Length": "3", "Expect": "100-continue"}
        with served.sending("/upload", "POST", **headers) as connection:
            assert Answer(connection).status == 503
    served.until(active=0)


def test_background_tasks_hold_no_permit(served):
    """The answer is there, the permit is free, and the task runs to its end."""
    if served.name in WSGI:
        pytest.skip("WSGI has no background tasks")
    before = served.state()["background"]
    with served.sending("/background") as connection:
        assert Answer(connection).body == b"ok"
        # The client may have its answer before the server has come back from sending it.
        served.until(active=0, background=before)
        served.get("/release")
        served.until(active=0, background=before + 1)


def test_websockets_pass(served):
    """They are not counted, and speak in both directions."""
    if served.name in WSGI:
        pytest.skip("WSGI has no websockets")
    client = pytest.importorskip("websockets.sync.client")
    with client.connect(f"ws://127.0.0.1:{served.port}/", open_timeout=GRACE) as socket:
        socket.send("hello")
        assert socket.recv(GRACE) == "hello"
        assert served.state()["active"] == 0


@pytest.mark.parametrize("server", ASGI)
def test_a_lifespan_that_fails_to_start_ends_the_server(server):
    """The failure reaches the server as without the middleware."""
    process = start(server, "tests.integrations.served:asgi", free_port(), FAIL_STARTUP="1")
    try:
        process.wait(GRACE)
    finally:
        stop(process)


class Upstream(BaseHTTPRequestHandler):
    """The other service, to whose protection the examples see."""

    def do_GET(self) -> None:
        assert 0 < float(self.headers["X-Time-Left"]) <= 2
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"42\n")

    def log_message(self, *args: Any) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def upstream() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("server", ASGI + WSGI)
def test_the_examples(server, upstream):
    """They serve, call another service, and answer when it is not there."""
    app = f"examples.{'asgi' if server in ASGI else 'wsgi'}_app:app"
    with serving(server, app, UPSTREAM=upstream) as served:
        assert json.loads(served.get("/healthz").body) == {"active": 0}
        assert served.get("/quote").body == b"42\n"
        assert served.get("/report").body.endswith(b"line 99\n")
        assert served.get("/nowhere").status == 404
        if server in ASGI:
            assert served.get("/order").status == 202
    with serving(server, app, UPSTREAM=f"127.0.0.1:{free_port()}") as served:
        assert served.get("/quote").status == 502
