"""The middlewares inside the frameworks that people use, where these are installed."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from resilient import Bulkhead, CircuitBreaker, CircuitState, Pipeline, Timeout
from resilient.asgi import ResilienceMiddleware
from resilient.wsgi import ResilienceMiddleware as WsgiMiddleware

from tests.integrations.asgi_server import Connection, get
from tests.integrations.wsgi_server import get as wsgi_get


def guarded() -> tuple[Bulkhead, CircuitBreaker, Pipeline[Any, Any]]:
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(consecutive_failures=1)
    return bulkhead, breaker, Pipeline(breaker, bulkhead, Timeout(5))


async def check(app: Any, bulkhead: Bulkhead, breaker: CircuitBreaker) -> None:
    """An answer, a refusal and a failure."""
    assert (await get(app, "/ok")).body == b"ok"
    async with bulkhead.guard():
        assert (await get(app, "/ok")).status == 503
    connection = await Connection(path="/broken").serve(app)
    assert connection.status in (None, 500)
    assert breaker.state is CircuitState.OPEN
    assert bulkhead.snapshot().active == 0


def starlette_routes(bulkhead: Bulkhead, seen: list[int]) -> list[Any]:
    starlette_responses = pytest.importorskip("starlette.responses")
    from starlette.background import BackgroundTask
    from starlette.routing import Route

    def look() -> None:
        seen.append(bulkhead.snapshot().active)

    async def ok(request: Any) -> Any:
        return starlette_responses.PlainTextResponse("ok", background=BackgroundTask(look))

    async def stream(request: Any) -> Any:
        async def chunks() -> Any:
            for _ in range(3):
                look()
                yield b"x"

        return starlette_responses.StreamingResponse(chunks(), background=BackgroundTask(look))

    async def broken(request: Any) -> Any:
        raise ConnectionError

    return [Route("/ok", ok), Route("/stream", stream), Route("/broken", broken)]


@pytest.mark.parametrize("spec_version", ["2.3", "2.4"])
@pytest.mark.parametrize("name", ["starlette", "fastapi"])
def test_starlette_and_fastapi(run, name, spec_version):
    """By `add_middleware`; a streamed answer that another task sends holds its permit."""
    applications = pytest.importorskip(f"{name}.applications")
    bulkhead, breaker, policy = guarded()
    seen: list[int] = []
    app = getattr(applications, {"starlette": "Starlette", "fastapi": "FastAPI"}[name])(
        routes=starlette_routes(bulkhead, seen)
    )
    app.add_middleware(ResilienceMiddleware, policy=policy, exclude=["/healthz"])

    async def test():
        connection = Connection(path="/stream")
        connection.scope["asgi"]["spec_version"] = spec_version
        await connection.serve(app)
        assert connection.body == b"xxx"
        assert seen == [1, 1, 1, 0]
        await check(app, bulkhead, breaker)

    run(test)


def test_litestar():
    """As a class of middleware with its options."""
    litestar = pytest.importorskip("litestar")
    from litestar.middleware import DefineMiddleware

    bulkhead, breaker, policy = guarded()

    async def ok() -> str:
        return "ok"

    async def broken() -> str:
        raise ConnectionError

    routes = [
        litestar.get("/ok", media_type="text/plain")(ok),
        litestar.get("/broken")(broken),
    ]
    app = litestar.Litestar(
        route_handlers=routes,
        middleware=[DefineMiddleware(ResilienceMiddleware, policy=policy)],
        logging_config=None,
    )
    anyio.run(check, app, bulkhead, breaker)


def test_flask():
    """Around `app.wsgi_app`."""
    flask = pytest.importorskip("flask")
    app = flask.Flask("served")
    bulkhead, breaker = Bulkhead(1), CircuitBreaker(consecutive_failures=1)
    app.add_url_rule("/ok", view_func=lambda: "ok")
    app.add_url_rule("/broken", "broken", lambda: flask.abort(500))
    app.wsgi_app = WsgiMiddleware(app.wsgi_app, Pipeline(breaker, bulkhead))
    check_wsgi(app, bulkhead, breaker)


def check_wsgi(app: Any, bulkhead: Bulkhead, breaker: CircuitBreaker) -> None:
    assert b"".join(wsgi_get(app, "/ok").written) == b"ok"
    with bulkhead.guard():
        assert wsgi_get(app, "/ok").status == 503
    assert wsgi_get(app, "/broken").status == 500
    assert breaker.state is CircuitState.OPEN
    assert bulkhead.snapshot().active == 0


# The views of Django, which finds them by this module's name.


def ok(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse("ok")


def broken(request: Any) -> Any:
    from django.http import HttpResponse

    return HttpResponse(status=500)


@pytest.fixture
def django() -> Any:
    found = pytest.importorskip("django")
    from django.conf import settings
    from django.urls import path

    if not settings.configured:
        urls = type("urls", (), {"urlpatterns": [path("ok", ok), path("broken", broken)]})
        settings.configure(ROOT_URLCONF=urls, ALLOWED_HOSTS=["*"], SECRET_KEY="x", DEBUG=False)
        found.setup()
    return found


def test_django_wsgi(django):
    """Around the application of `wsgi.py`."""
    from django.core.wsgi import get_wsgi_application

    bulkhead, breaker = Bulkhead(1), CircuitBreaker(consecutive_failures=1)
    app = WsgiMiddleware(get_wsgi_application(), Pipeline(breaker, bulkhead))
    check_wsgi(app, bulkhead, breaker)


def test_django_asgi(django):
    """Around the application of `asgi.py`, whose views may run in threads."""
    from django.core.asgi import get_asgi_application

    bulkhead, breaker, policy = guarded()
    app = ResilienceMiddleware(get_asgi_application(), policy)
    anyio.run(check, app, bulkhead, breaker)
