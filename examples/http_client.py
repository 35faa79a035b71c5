"""An HTTP client that retries, waits as it is told, and leaves a dead host alone."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

from resilient import CircuitBreaker, CircuitOpenError, Pipeline, Retry, Timeout, subscribe
from resilient.events import CircuitStateChanged, Event, RetryScheduled
from resilient.httpx import ResilienceTransport

policy = Pipeline(
    Timeout(10, sync="deadline"),  # the whole call; it sets the client's own timeouts
    Retry(on=httpx.TransportError, attempts=3, backoff=[0.01, 0.02]),
    CircuitBreaker(consecutive_failures=3),  # one for each host
    name="shop",
)


class Shop(BaseHTTPRequestHandler):
    """Answers every other request by 503, and those for `/down` always."""

    protocol_version = "HTTP/1.1"
    requests = 0

    def do_GET(self) -> None:
        Shop.requests += 1
        busy = self.path == "/down" or Shop.requests % 2 == 1
        body = json.dumps({"busy": busy}).encode()
        self.send_response(503 if busy else 200)
        self.send_header("Content-Length", str(len(body)))
        if busy:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, text: str, *args: object) -> None:
        """Say nothing."""


def show(event: Event) -> None:
    if isinstance(event, RetryScheduled):
        print(f"  attempt {event.attempt} failed: {event.error}")
    elif isinstance(event, CircuitStateChanged):
        print(f"  the circuit went from {event.old} to {event.new}")


def use(url: str) -> None:
    with httpx.Client(transport=ResilienceTransport(policy), base_url=url) as client:
        answer = client.get("/orders/7")
        print("orders:", answer.status_code, answer.json())
        assert answer.status_code == 200

        answer = client.get("/down")
        print("down:", answer.status_code, answer.json())
        assert answer.status_code == 503

        try:
            client.get("/down")
        except CircuitOpenError as refused:
            print("down, once more:", refused)
        else:
            raise AssertionError("the circuit should have been open")


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Shop)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    unsubscribe = subscribe(show)
    try:
        use(f"http://127.0.0.1:{server.server_port}")
    finally:
        unsubscribe()
        server.shutdown()
        server.server_close()
        thread.join()


if __name__ == "__main__":
    main()
