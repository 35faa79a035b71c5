"""The adapter of requests: its timeouts, hooks, cookies and redirects."""

from __future__ import annotations

import gc

import pytest

from resilient import Bulkhead, CircuitBreaker, Fallback, Pipeline, Retry, Timeout

from tests.integrations.http_clients import serve
from tests.integrations.http_server import Answer

requests = pytest.importorskip(
    "requests", reason="requests is not installed: pip install 'resilient-patterns[requests]'"
)

import urllib3  # noqa: E402
from requests.adapters import BaseAdapter  # noqa: E402

from resilient._clients.holding import Hold  # noqa: E402
from resilient.requests import ResilienceAdapter, _ended, shortened  # noqa: E402

__all__ = ["serve"]


@pytest.fixture
def session():
    with requests.Session() as session:
        session.trust_env = False
        yield session


def mounted(session, policy, **options):
    adapter = ResilienceAdapter(policy, **options)
    session.mount("http://", adapter)
    return adapter


@pytest.mark.parametrize(
    ("given", "left", "expected"),
    [
        (None, None, None),
        (3, None, 3),
        (None, 2, (2, 2)),
        (3, 2, (2, 2)),
        (1, 2, (1, 1)),
        ((1, 5), 2, (1, 2)),
        ((None, 1), 2, (2, 1)),
    ],
)
def test_the_time_left_bounds_the_timeouts(given, left, expected):
    """In each form that requests knows."""
    assert shortened(given, left) == expected


@pytest.mark.parametrize("total", [None, 1, 9])
def test_a_timeout_object_stays_one(total):
    """Its total is bounded, in a copy."""
    given = urllib3.Timeout(connect=1, read=2, total=total)
    found = shortened(given, 5)
    assert found.total == (1 if total == 1 else 5)
    assert found.connect_timeout == 1
    assert given.total == total


def test_an_attempt_gets_the_time_left(session):
    """The inner adapter is given it, with everything else as it was."""
    seen = []

    class Inner(BaseAdapter):
        def send(self, request, **options):
            seen.append((request, options))
            response = requests.Response()
            response.status_code = 503 if len(seen) == 1 else 200
            response.url = request.url
            response._content = b""
            return response

        def close(self):
            seen.append("closed")

    policy = Pipeline(Timeout(5, sync="deadline"), Retry(on=OSError, backoff=[0]))
    mounted(session, policy, adapter=Inner())
    response = session.get("http://api.test/", timeout=(1, None), verify=False, stream=True)
    assert response.status_code == 200
    (first, options), (second, _) = seen
    assert first is not second
    assert response.request is not second
    assert options["verify"] is False
    assert options["stream"] is True
    assert options["timeout"][0] == 1
    assert 4 < options["timeout"][1] <= 5
    session.close()
    assert seen[-1] == "closed"


def test_by_default_it_sends_by_itself(session, serve):
    """Hooks run once, for the answer that is returned."""
    server = serve(503, 200)
    mounted(session, Retry(on=OSError, backoff=[0]))
    hooked = []
    session.hooks["response"].append(lambda response, **_: hooked.append(response.status_code))
    assert session.get(server.url).text == "answer 200"
    assert hooked == [200]


def test_cookies_and_redirects_are_the_sessions(session, serve):
    """Each redirect is a request of its own, and cookies of the last answer are kept."""
    server = serve(
        Answer(503),
        Answer(302, headers={"Location": "/b", "Set-Cookie": "c=1; Path=/"}),
        Answer(503),
        200,
    )
    adapter = mounted(session, Pipeline(Retry(on=OSError, backoff=[0, 0]), CircuitBreaker()))
    response = session.get(f"{server.url}/a")
    assert (response.text, len(response.history)) == ("answer 200", 1)
    assert [seen.path for seen in server.seen] == ["/a", "/a", "/b", "/b"]
    assert server.seen[-1].headers["Cookie"] == "c=1"
    assert adapter.breakers[server.url].snapshot().calls == 4


def test_a_kept_answer_reads_in_every_way(session, serve):
    """Whole, in chunks, raw, and decoded."""
    import gzip

    packed = gzip.compress(b"why" * 100)
    server = serve(Answer(503, packed, {"Content-Encoding": "gzip", "Set-Cookie": "a=b"}))
    mounted(session, Retry(on=OSError, attempts=2, backoff=[0]))
    assert session.get(server.url).text == "why" * 100
    assert session.cookies["a"] == "b"
    with session.get(server.url, stream=True) as response:
        assert b"".join(response.iter_content(7)) == b"why" * 100
    with session.get(server.url, stream=True) as response:
        assert response.raw.read(decode_content=False) == packed
    with session.get(server.url, stream=True) as response:
        assert next(response.iter_lines()) == b"why" * 100


def test_a_failed_answer_that_breaks_off(session, serve):
    """It is a failed answer still; reading it raises what broke it."""
    server = serve(Answer(503, b"half", length=10))
    mounted(session, Retry(on=OSError, attempts=2, backoff=[0]))
    with session.get(server.url, stream=True, timeout=5) as response:
        assert response.status_code == 503
        with pytest.raises((requests.RequestException, OSError)):
            response.content  # noqa: B018 - reading is what fails


def test_an_answer_of_another_kind_of_adapter(session):
    """What holds no connection holds no permit either."""
    bulkhead = Bulkhead(1)

    class Canned(BaseAdapter):
        def send(self, request, **options):
            response = requests.Response()
            response.status_code = 503
            response.url = request.url
            response._content = b"canned"
            return response

        def close(self):
            pass

    mounted(session, Pipeline(Retry(on=OSError, attempts=2, backoff=[0]), bulkhead),
            adapter=Canned())  # fmt: skip
    assert session.get("http://api.test/").text == "canned"
    assert bulkhead.snapshot().active == 0


def test_a_fallback_may_return_anything(serve):
    """What it returns is passed on as it is; only an awaitable cannot be meant."""
    server = serve(503)
    request = requests.Request("GET", server.url).prepare()
    adapter = ResilienceAdapter(Fallback("cached", on=OSError))
    assert adapter.send(request) == "cached"
    adapter.close()

    async def using(outcome, request):
        return None

    adapter = ResilienceAdapter(Fallback(using=lambda *args: using(*args), on=OSError))
    with pytest.raises(TypeError, match="awaitable"):
        adapter.send(request)
    adapter.close()


def test_a_long_answer_reads_in_pieces(session, serve):
    """What was read ahead comes first, then the rest, which may break off."""
    server = serve(Answer(503, b"a" * 65_536 + b"b" * 100_000, chunked=True))
    bulkhead = Bulkhead(1)
    mounted(session, Pipeline(bulkhead, Retry(on=OSError, attempts=2, backoff=[0])))
    with session.get(server.url, stream=True) as response:
        pieces = list(response.iter_content(50_000))
    assert b"".join(pieces) == b"a" * 65_536 + b"b" * 100_000
    with session.get(server.url, stream=True) as response:
        assert len(response.raw.read()) == 165_536
    with session.get(server.url, stream=True):
        assert bulkhead.snapshot().active == 1
    assert bulkhead.snapshot().active == 0


def test_an_answer_that_nobody_closes(session, serve):
    """Its permit comes back when it is collected."""
    server = serve(Answer(200, b"x" * 1_000_000))
    bulkhead = Bulkhead(1)
    mounted(session, bulkhead)
    response = session.get(server.url, stream=True)
    assert bulkhead.snapshot().active == 1
    del response
    gc.collect()
    assert bulkhead.snapshot().active == 0


def test_an_answer_that_is_being_collected():
    """Its finalizer closes it when nothing of it is left to close."""
    hold = Hold()
    _ended(lambda: None, "close", hold)
    assert hold.done
