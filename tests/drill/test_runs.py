"""Whole runs: what the report says of them."""

import asyncio
import random
import signal
import socket
import threading
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest

from resilient import CallTimeoutError, CircuitBreaker, Pipeline, Retry, Timeout
from resilient.drill import (
    Backend,
    Crash,
    Errors,
    Flapping,
    Load,
    NeverEnds,
    Outage,
    RunReport,
    Scenario,
    ScenarioError,
    Study,
    run,
)
from resilient.drill.recorder import Recorder
from resilient.drill.runner import _to_epoch, run_scenario
from resilient.drill.turns import new_loop
from resilient.drill.wiring import policy_of
from resilient.events import RetryScheduled
from resilient.failover import ActiveActive, ActivePassive, HealthCheck, Member, NPlusOne

FAILURES = (ConnectionError, CallTimeoutError)


def scenario(**options: Any) -> Scenario:
    """A small scenario, where nothing is said otherwise."""
    given: dict[str, Any] = {
        "load": Load(10, arrivals="even"),
        "seconds": 60,
        "backends": [Backend("api", latency=0.1)],
    }
    if "call" not in options:
        given["policy"] = Timeout(5)
    return Scenario(**{**given, **options})


def test_a_run_without_faults() -> None:
    found = run_scenario(scenario(objectives=["availability == 1", "p99 <= 101 ms"]))
    metrics = found.metrics
    assert metrics["calls"] == metrics["successes"] == metrics["requests"] == 600
    assert metrics["availability"] == metrics["amplification"] == 1
    assert metrics["p50"] == metrics["longest"] == pytest.approx(0.1, rel=0.01)
    assert metrics["finished"] == pytest.approx(60.0)
    assert metrics["recovery_time"] is None
    assert found.passed
    assert sum(value or 0 for value in found.series["load"]) == pytest.approx(6000)


def test_the_same_seed_gives_the_same_report_and_another_one_another() -> None:
    def report(seed: int) -> str:
        return run(
            scenario(
                load=20,
                backends=[Backend("api", latency=0.1, capacity=2)],
                policy=Pipeline(Retry(on=FAILURES), Timeout(1), name="api"),
                faults=[Errors("api", at=10, seconds=20, share=0.5)],
            ),
            seed=seed,
        ).as_json()

    assert report(1) == report(1)
    assert report(1) != report(2)


def test_user_code_that_draws_from_random_itself_draws_the_same_each_time() -> None:
    before = random.getstate()

    async def call() -> None:
        await asyncio.sleep(random.random())

    first, second = (run(scenario(call=call), seed=3).as_json() for _ in range(2))
    assert first == second
    assert random.getstate() == before


def test_an_outage_its_failures_and_the_recovery() -> None:
    breaker = CircuitBreaker("api", consecutive_failures=3, open_for=[2])
    found = run_scenario(
        scenario(
            policy=breaker,
            faults=[Outage("api", at=20, seconds=10)],
            objectives=["availability >= 0.99", "recovery_time <= 3 s"],
        )
    )
    assert found.metrics["availability"] == pytest.approx(500 / 600, abs=0.03)
    assert found.metrics["nines"] == pytest.approx(0.778, abs=0.1)
    assert 0 < (found.metrics["recovery_time"] or 0) <= 2.1
    assert found.metrics["degraded_time"] == pytest.approx(11, abs=1.1)
    assert [verdict.met for verdict in found.verdicts] == [False, True]
    assert not found.passed
    assert set(found.failures) == {"ConnectionError", "CircuitOpenError"}
    events = {event: count for policy, _, event, count in found.events if policy == "api"}
    assert events["CircuitStateChanged (closed to open)"] == 1
    assert events["CallRejected (circuit_open)"] == found.metrics["rejected"]
    states = [state for _, state in found.lanes["api"]]
    assert states[0] == "closed"
    assert states[-1] == "closed"
    assert "open" in states


def test_a_service_that_stays_broken_never_recovers() -> None:
    found = run_scenario(
        scenario(
            faults=[Outage("api", at=20, seconds=10), Outage("api", at=31, seconds=100)],
            objectives=["recovery_time <= 1000"],
        )
    )
    assert found.metrics["recovery_time"] is None
    assert not found.passed


def test_calls_that_hang_are_counted_and_cancelled() -> None:
    quiet = Outage("api", at=0, seconds=60, how="hang")

    async def call() -> None:
        await api.request()

    api = Backend("api")
    found = run_scenario(scenario(call=call, backends=[api], faults=[quiet], drain=1))
    assert found.metrics["unfinished"] == found.metrics["calls"] == 600
    assert found.metrics["availability"] == 0
    assert found.metrics["nines"] == 0
    assert found.metrics["p50"] is None


def test_timeouts_end_calls_that_hang() -> None:
    quiet = Outage("api", at=0, seconds=60, how="hang")
    found = run_scenario(scenario(faults=[quiet]))
    assert found.metrics["timed_out"] == 600
    assert found.failures == {"CallTimeoutError": 600}


def test_a_burst_of_calls_with_keys() -> None:
    seen: list[str] = []

    async def call(key: str) -> None:
        seen.append(key)

    found = run_scenario(scenario(call=call, load=Load(bursts=[(1, 50)], keys=4)))
    assert found.metrics["calls"] == 50
    assert set(seen) == {"key-0", "key-1", "key-2", "key-3"}


def test_an_unexpected_error_ends_the_drill() -> None:
    async def call() -> None:
        raise LookupError("mine")

    with pytest.raises(Crash) as caught:
        run_scenario(scenario(call=call))
    assert str(caught.value.__cause__) == "'mine'" or str(caught.value.__cause__) == "mine"
    named = run_scenario(scenario(call=call, errors=[LookupError]))
    assert named.failures == {"LookupError": 600}


def test_an_interrupted_drill_reports_so_far() -> None:
    made = 0

    async def call() -> None:
        nonlocal made
        made += 1
        if made == 300:
            signal.raise_signal(signal.SIGINT)

    study = Study("two", {"first": scenario(call=call), "second": scenario()})
    report = run(study)
    assert list(report.runs) == ["first"]
    assert report.interrupted
    assert not report.passed
    found = report.runs["first"]
    assert found.metrics["calls"] == 300
    assert found.elapsed == pytest.approx(29.9)
    assert report.as_dict()["interrupted"] is True


def test_progress_goes_from_0_to_1() -> None:
    seen: list[tuple[str, float]] = []
    run(scenario(name="small"), progress=lambda name, part: seen.append((name, part)))
    assert {name for name, _ in seen} == {"run"}
    parts = [part for _, part in seen]
    assert parts[0] == 0
    assert parts[-1] == 1
    assert parts == sorted(parts)


# The user's own policies.


def pool_of(kind: str) -> Any:
    """A pool as a service has it, whose targets and probes are real ones."""

    def probe(target: object) -> None:
        raise AssertionError("nothing real is to be probed")

    def start() -> None:
        raise AssertionError("nothing real is to be started")

    check = HealthCheck(probe, interval=1, timeout=0.5)
    targets = {"a": "postgres://a", "b": "postgres://b"}
    if kind == "active_active":
        return ActiveActive("db", targets, on=FAILURES, health_check=check)
    if kind == "active_passive":
        return ActivePassive("db", targets, on=FAILURES, health_check=check, failback_after=2)
    spare = Member("c", "postgres://c", start=start, stop=start)
    return NPlusOne("db", targets, [spare], on=FAILURES, health_check=check)


@pytest.mark.parametrize("kind", ["active_active", "active_passive", "n_plus_one"])
def test_a_pool_fails_over_and_back(kind: str) -> None:
    pool = pool_of(kind)
    check = pool._check
    before = [seat.target for seat in pool._seats.values()], check.probe, check.is_async
    found = run_scenario(
        scenario(
            load=20,
            policy=Pipeline(Timeout(5), pool, Timeout(0.5), name="orders"),
            backends=[Backend(name, latency=0.02, start_time=0.2) for name in "abc"],
            faults=[Outage("a", at=10, seconds=20)],
            objectives=["failover_time <= 5", "failback_time <= 20", "availability >= 0.99"],
        )
    )
    assert found.passed, found.verdicts
    (fault,) = found.faults
    assert fault.failover is not None
    assert fault.failback is not None
    shares = {one.name: one.share for one in found.backends}
    assert shares["a"] > 0.2
    assert (shares["c"] > 0) == (kind == "n_plus_one")
    after = [seat.target for seat in pool._seats.values()], check.probe, check.is_async
    assert after == before, "the pool has its own targets and probe back"


def test_members_that_cost_nothing_while_they_are_cold() -> None:
    pool = pool_of("n_plus_one")
    found = run_scenario(
        scenario(
            policy=Pipeline(pool, Timeout(0.5), name="orders"),
            backends=[Backend(name, latency=0.02) for name in "abc"],
            faults=[Outage("a", at=10, seconds=20)],
        )
    )
    assert 2 < (found.metrics["members"] or 0) < 3
    states = dict(found.lanes)
    assert [state for _, state in states["db: c covers"]] == ["nobody", "a", "nobody"]


def test_a_pool_that_flaps_is_told_in_bounded_memory() -> None:
    pool = ActiveActive(
        "db",
        {"a": 1, "b": 2},
        on=FAILURES,
        breaker=lambda name: CircuitBreaker(f"db.{name}", consecutive_failures=1, open_for=[0.05]),
    )
    found = run_scenario(
        scenario(
            load=50,
            seconds=120,
            policy=pool,
            backends=[Backend("a"), Backend("b")],
            faults=[Flapping("a", at=0, seconds=120, down=0.1, up=0.1)],
        )
    )
    assert all(len(changes) <= 400 for changes in found.lanes.values())
    assert max(len(changes) for changes in found.lanes.values()) == 400


def test_too_many_policies_are_not_all_listed() -> None:
    recorder = Recorder(0.0, 10.0, ())
    heard = recorder.listen(lambda: 1.0)
    for number in range(600):
        heard(
            RetryScheduled(
                policy=f"p{number}", kind="retry", function="f", attempt=1, delay=0.0, error=None
            )
        )
        recorder.change(f"p{number}", 1.0, "closed", "open")
    assert len(recorder.events) == len(recorder.lanes) == 500


def test_a_pools_member_without_a_backend_is_refused() -> None:
    with pytest.raises(ScenarioError, match="there is none for the member 'b' of db"):
        run_scenario(scenario(policy=pool_of("active_active"), backends=[Backend("a")]))


def test_pools_around_a_call_are_run() -> None:
    one, two = Backend("one", latency=0.02), Backend("two", latency=0.02)
    check = HealthCheck(Backend.probe, interval=1, timeout=0.5)
    pool = ActivePassive("db", {"one": one, "two": two}, on=FAILURES, health_check=check)

    async def ask(backend: Backend) -> None:
        await backend.request()

    found = run_scenario(
        scenario(
            # Between calls only its checks can see that the first one is down.
            load=Load(bursts=[(1, 1), (30, 1)]),
            call=pool(ask),
            around=[pool],
            backends=[one, two],
            faults=[Outage("one", at=5, seconds=40)],
        )
    )
    assert found.metrics["amplification"] == 1
    assert found.metrics["successes"] == 2


def test_what_makes_no_policy_is_refused() -> None:
    with pytest.raises(ScenarioError, match="must name a policy"):
        policy_of(lambda: 3, "policy")


# How the time goes.


def test_two_calls_that_crash_at_once_end_the_drill_once() -> None:
    async def call() -> None:
        await asyncio.sleep(1)
        raise LookupError

    with pytest.raises(Crash):
        run_scenario(scenario(call=call, load=Load(bursts=[(1, 2)])))


def test_a_machine_that_has_been_up_for_ever_gets_a_later_epoch() -> None:
    class Clock:
        time = 2.0**29 - 1

        def now(self) -> float:
            return self.time

        def advance(self, seconds: float) -> None:
            self.time += seconds

    late = Clock()
    _to_epoch(late)  # type: ignore[arg-type]
    assert late.time == 2.0**29
    _to_epoch(late)  # type: ignore[arg-type]
    assert late.time == 2.0**29


def test_what_really_arrives_is_not_overlooked() -> None:
    """A connection of user code's own is waited for in real time."""

    async def call() -> None:
        mine, theirs = socket.socketpair()
        mine.setblocking(False)
        with mine, theirs:
            waiting = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(mine, 5))
            await asyncio.sleep(0)
            theirs.send(b"hello")
            assert await waiting == b"hello"

    found = run_scenario(scenario(call=call, load=Load(bursts=[(1, 1)])))
    assert found.metrics["successes"] == 1


def test_a_signal_between_two_turns_is_not_taken_for_the_end(clock: Any) -> None:
    loop: Any = new_loop()
    try:
        loop._write_to_self()
        assert loop._selector.select(None)
    finally:
        loop.close()


def test_a_thread_of_user_code_is_waited_for() -> None:
    threads: list[int] = []

    async def call() -> None:
        threads.append(await asyncio.to_thread(threading.get_ident))

    found = run_scenario(scenario(call=call, load=Load(bursts=[(1, 3)])))
    assert found.metrics["successes"] == 3
    assert threading.get_ident() not in threads


def test_a_background_task_that_cannot_be_ended_is_told() -> None:
    left: list[Any] = []

    async def endless() -> None:
        while True:
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(10)

    async def call() -> None:
        left.append(asyncio.get_running_loop().create_task(endless()))

    with pytest.raises(NeverEnds, match="goes on after the drill's end"):
        run_scenario(scenario(call=call, load=Load(bursts=[(1, 1)])))


def test_what_waits_for_nothing_is_told() -> None:
    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    class Never:
        async def __aenter__(self) -> None:
            await asyncio.shield(waits())

        async def __aexit__(self, *error: object) -> None:
            pass

    with pytest.raises(NeverEnds, match="nothing will bring about"):
        run_scenario(scenario(around=[Never()]))


def peak(seconds: float) -> int:
    found = scenario(
        load=40,
        seconds=seconds,
        backends=[Backend("api", latency=0.02, capacity=2)],
        policy=Pipeline(Retry(on=FAILURES), Timeout(1), name="api"),
        faults=[Errors("api", at=0, seconds=seconds, share=0.2)],
    )
    tracemalloc.start()
    try:
        run_scenario(found)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.no_cover
def test_memory_does_not_grow_with_simulated_time() -> None:
    """The pieces of time are as many; each holds more different latencies, up to a bound."""
    peak(10)
    assert peak(150) < peak(30) + 600_000


def test_reports_of_a_scenario_that_never_began() -> None:
    report: RunReport = run_scenario(scenario(load=Load(bursts=[(100, 1)])))
    assert report.metrics["calls"] == 0
    assert report.metrics["availability"] is None
    assert report.metrics["amplification"] is None
