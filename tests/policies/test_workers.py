"""Worker threads: no queue, no wait at the end, and nothing kept alive."""

from __future__ import annotations

import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from contextvars import copy_context
from typing import Any

import pytest

from resilient._runtime import workers
from resilient._runtime.workers import Workers

LONG = 10.0


def finished(pool: Workers, fn: Any, *args: Any) -> Any:
    run = pool.start(fn, *args)
    assert run is not None
    assert run.wait(LONG)
    return run.outcome()


def threads_of(pool: Workers) -> int:
    """How many threads the pool has."""
    return pool._limit - len(pool._shop.tokens)


def test_the_worker_used_last_is_used_next() -> None:
    """So that the others can end."""
    pool = Workers(3)
    go = threading.Event()
    runs = [pool.start(go.wait, LONG) for _ in range(3)]
    assert pool.start(int) is None
    go.set()
    for run in runs:
        assert run is not None
        assert run.wait(LONG)
    assert len({finished(pool, threading.get_ident) for _ in range(50)}) == 1
    assert threads_of(pool) == 3


def test_callbacks_run_once_before_and_after_the_end() -> None:
    pool, go, ended = Workers(1), threading.Event(), threading.Event()
    called = []
    run = pool.start(go.wait, LONG)
    assert run is not None
    run.add_done_callback(lambda: called.append("before"))
    run.add_done_callback(ended.set)
    assert called == []
    go.set()
    assert ended.wait(LONG)
    assert run.wait(LONG)
    run.add_done_callback(lambda: called.append("after"))
    assert called == ["before", "after"]


def test_a_failing_callback_is_logged_and_harms_nobody(caplog: pytest.LogCaptureFixture) -> None:
    pool, go = Workers(1), threading.Event()
    run = pool.start(go.wait, LONG)
    assert run is not None
    run.add_done_callback(lambda: 1 / 0)
    with caplog.at_level(logging.ERROR, "resilient"):
        go.set()
        assert run.wait(LONG)
    assert "callback" in caplog.text
    assert finished(pool, int) == 0


def test_abandoning_what_has_just_ended_gives_its_outcome() -> None:
    pool, ended = Workers(1), threading.Event()
    run = pool.start(lambda: "in time")
    assert run is not None
    run.add_done_callback(ended.set)
    assert ended.wait(LONG)
    # The callbacks run right before the result is handed over: the worker is in between.
    assert run._finished.acquire(timeout=LONG)
    run._finished.release()
    assert not run.abandon()
    assert run.outcome() == "in time"


def test_an_abandoned_run_that_had_not_begun_does_not_begin() -> None:
    pool = Workers(1)
    begun: list[int] = []
    run = workers.Run(begun.append, (1,), copy_context())
    assert run.abandon()
    run._execute()
    run._hand_over()
    assert begun == []
    assert finished(pool, int) == 0


def test_even_an_exit_in_a_worker_is_handed_over() -> None:
    pool = Workers(1)
    with pytest.raises(SystemExit):
        finished(pool, sys.exit)
    assert finished(pool, int) == 0


def test_idle_workers_end_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "idle_seconds", 0.001)
    pool = Workers(2)
    thread = finished(pool, threading.current_thread)
    thread.join(LONG)
    assert not thread.is_alive()
    assert threads_of(pool) == 0
    assert finished(pool, int) == 0


def test_ending_and_being_taken_at_once_loses_no_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that retire all the time, callers that always come."""
    monkeypatch.setattr(workers, "idle_seconds", 0.0)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        pool = Workers(4)
        found: list[int] = []

        def caller() -> None:
            found.extend(finished(pool, abs, -number) for number in range(150))

        threads = [threading.Thread(target=caller) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    finally:
        sys.setswitchinterval(interval)
    assert sorted(found) == sorted(list(range(150)) * 4)


def test_idle_workers_end_with_their_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "idle_seconds", LONG * 100)
    pool = Workers(2)
    thread = finished(pool, threading.current_thread)
    del pool
    thread.join(LONG)
    assert not thread.is_alive()


def test_a_busy_worker_does_not_outlive_its_pool_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers, "idle_seconds", LONG * 100)
    pool, go = Workers(1), threading.Event()
    run = pool.start(lambda: (go.wait(LONG), threading.current_thread())[1])
    assert run is not None
    del pool
    go.set()
    assert run.wait(LONG)
    thread = run.outcome()
    thread.join(LONG)
    assert not thread.is_alive()


def test_an_idle_worker_keeps_nothing_of_its_last_run() -> None:
    class Thing:
        pass

    pool = Workers(1)
    idle = threading.Event()
    workers.on_idle = idle.set
    try:
        thing = Thing()
        seen = weakref.ref(thing)
        result = finished(pool, lambda one: one, thing)
        assert idle.wait(LONG)
    finally:
        workers.on_idle = None
    assert result is thing
    # One more run: by its end the worker has let go of everything before.
    finished(pool, int)
    del thing, result
    gc.collect()
    assert seen() is None


def test_what_runs_is_known_until_it_is_handed_over() -> None:
    pool, go, idle = Workers(1), threading.Event(), threading.Event()
    workers.on_idle = idle.set
    try:
        run = pool.start(go.wait, LONG)
        assert run in workers.running
        go.set()
        assert idle.wait(LONG)
        assert run not in workers.running
    finally:
        workers.on_idle = None


def test_a_thread_that_cannot_be_started_takes_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = Workers(1)

    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="can't start"):
            pool.start(int)
    gc.collect()
    assert threads_of(pool) == 0
    assert not workers.running
    assert finished(pool, int) == 0


def test_a_burst_up_to_the_limit_is_never_refused() -> None:
    """Not even while workers go idle and are taken again."""
    pool = Workers(8)
    refused = []

    def caller() -> None:
        for _ in range(300):
            run = pool.start(int)
            if run is None:
                refused.append(1)
            else:
                run.wait(LONG)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=caller) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LONG)
    finally:
        sys.setswitchinterval(interval)
    assert refused == []
    assert threads_of(pool) <= 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_has_all_its_workers_to_start() -> None:
    script = """
import os, threading
from resilient._runtime import workers
pool = workers.Workers(1)
busy = pool.start(threading.Event().wait)
assert pool.start(int) is None
child = os.fork()
if not child:
    run = pool.start(int)
    ok = run is not None and run.wait(10) and run.outcome() == 0 and busy not in workers.running
    os._exit(0 if ok else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=60)


def test_interpreter_exit_does_not_wait_for_an_abandoned_worker() -> None:
    script = """
import threading
from resilient import CallTimeoutError
from resilient.timeout import Timeout
try:
    Timeout(0.01, sync="thread").call(threading.Event().wait)
except CallTimeoutError:
    print("left")
"""
    found = subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=60, capture_output=True, text=True
    )
    assert (found.stdout, found.stderr) == ("left\n", "")
