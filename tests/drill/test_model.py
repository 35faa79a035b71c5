"""The simulated world: load, backends, latencies, faults, figures."""

import asyncio
import itertools
import math
import random
import statistics
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from resilient.drill import (
    Backend,
    Errors,
    Fault,
    Flapping,
    Latency,
    Load,
    Outage,
    RegionLoss,
    ScenarioError,
    Slow,
    always,
    drawn,
    exponential,
    lognormal,
    mixture,
    normal,
)
from resilient.drill.histogram import Histogram
from resilient.drill.latency import latency_of
from resilient.drill.objectives import objective, spell
from resilient.drill.recorder import PIECES, Recorder

SOURCE = 4711


def play(body: Callable[[Any], Awaitable[Any]], *backends: Backend) -> Any:
    """Run `body(now)` on virtual time, `now()` being seconds since its begin."""

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        start = loop.time()
        recorder = Recorder(start, 100, ())
        for backend in backends:
            backend._begin(recorder, 0)
        result = await body(lambda: round(loop.time() - start, 6))
        for backend in backends:
            backend._end()
        return result

    return asyncio.run(main())


async def timed(backend: Backend, now: Callable[[], float]) -> tuple[str, float]:
    """What became of one request, and when."""
    try:
        await backend.request("argument", key=1)
    except ConnectionError as error:
        return str(error), now()
    return "answered", now()


# Latencies.

LATENCIES = {
    "always": (always(0.5), 0.5, 0.5),
    "exponential": (exponential(2.0), 2.0, 2.0 * math.log(2)),
    "lognormal": (lognormal(0.02, 0.2), None, 0.02),
    "normal": (normal(10.0, 1.0), 10.0, 10.0),
    "mixture": (mixture((0.25, 4.0), (0.75, always(1.0))), 1.75, 1.0),
    "drawn": (drawn(lambda source: source.uniform(1, 3), 2.0), 2.0, 2.0),
}


@pytest.mark.parametrize(("latency", "mean", "median"), LATENCIES.values(), ids=LATENCIES)
def test_latencies_have_the_mean_and_median_that_they_say(
    latency: Latency, mean: float | None, median: float
) -> None:
    source = random.Random(SOURCE)
    found = [latency.draw(source) for _ in range(20_000)]
    assert statistics.median(found) == pytest.approx(median, rel=0.05)
    assert statistics.mean(found) == pytest.approx(latency.mean, rel=0.05)
    if mean is not None:
        assert latency.mean == mean
    assert str(latency)


def test_a_lognormal_has_its_99th_percentile() -> None:
    source, latency = random.Random(SOURCE), lognormal(0.02, 0.2)
    found = sorted(latency.draw(source) for _ in range(50_000))
    assert found[int(len(found) * 0.99)] == pytest.approx(0.2, rel=0.1)


def test_a_mixture_whose_shares_fall_short_by_rounding_draws_the_last_part() -> None:
    class Highest(random.Random):
        def random(self) -> float:
            return 1.0 - 1e-17

    shares = [(0.1, float(part)) for part in range(10)]
    assert mixture(*shares).draw(Highest()) == 9.0


@pytest.mark.parametrize(
    ("table", "mean"),
    [
        ({"seconds": 3}, 3.0),
        ({"mean": 2}, 2.0),
        ({"mean": 2, "deviation": 0.1}, 2.0),
        ({"mixture": [{"share": 1, "latency": {"mean": 4}}]}, 4.0),
        (5, 5.0),
        (always(6), 6.0),
    ],
)
def test_latencies_as_tables(table: Any, mean: float) -> None:
    assert latency_of(table, "latency").mean == mean


# Load.


def test_even_calls_come_at_even_times() -> None:
    times = list(Load(10, arrivals="even").times(0.5, random.Random(SOURCE)))
    assert times == [0.0, 0.1, 0.2, 0.3, 0.4]


def test_independent_calls_come_at_random_times() -> None:
    times = list(Load(100).times(100, random.Random(SOURCE)))
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == pytest.approx(10_000, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.01, rel=0.05), "as an exponential's"
    assert times == sorted(times)


def test_the_rate_goes_in_steps_or_along_a_ramp() -> None:
    steps = Load([(0, 0), (10, 100), (20, 0)], arrivals="even")
    times = list(steps.times(30, random.Random(SOURCE)))
    assert len(times) == 1000 == steps.expected(30)
    assert min(times) == 10.0
    assert max(times) == pytest.approx(19.99)
    ramp = Load([(0, 0), (10, 100)], ramp=True, arrivals="even")
    times = list(ramp.times(20, random.Random(SOURCE)))
    assert ramp.expected(20) == pytest.approx(1500)
    assert len(times) == pytest.approx(1500, rel=0.03)
    assert sum(at < 5 for at in times) == pytest.approx(125, rel=0.2)


def test_bursts_come_besides() -> None:
    load = Load(1, arrivals="even", bursts=[(2.5, 3), (0.5, 1), (99, 1)])
    assert list(load.times(4, random.Random(SOURCE))) == [0.0, 0.5, 1.0, 2.0, 2.5, 2.5, 2.5, 3.0]
    assert load.expected(4) == 8


# Backends.


def test_a_backend_serves_as_many_as_it_can_and_queues_the_rest(clock: Any) -> None:
    api = Backend("api", latency=1, capacity=2, queue=1)

    async def body(now: Any) -> Any:
        return await asyncio.gather(*(timed(api, now) for _ in range(4)))

    assert play(body, api) == [
        ("answered", 1.0),
        ("answered", 1.0),
        ("answered", 2.0),
        ("api has no room in its queue", 0.0),
    ]
    assert (api.requests, api.failures, api.busy) == (4, 1, 3.0)
    assert "api" in repr(api)


def test_without_a_capacity_nothing_queues(clock: Any) -> None:
    api = Backend("api", latency=1)

    async def body(now: Any) -> Any:
        return await asyncio.gather(*(timed(api, now) for _ in range(100)))

    assert play(body, api) == [("answered", 1.0)] * 100


@pytest.mark.parametrize(("skips", "second"), [(False, 2.0), (True, 1.0)])
def test_a_request_whose_caller_has_gone_is_served_all_the_same_unless_it_is_skipped(
    skips: bool, second: float, clock: Any
) -> None:
    api = Backend("api", latency=1, capacity=1, skips_abandoned=skips)

    async def body(now: Any) -> Any:
        first = asyncio.create_task(timed(api, now))
        await asyncio.sleep(0)
        gone = asyncio.create_task(timed(api, now))
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.sleep(0)
        return await first, await timed(api, now)

    (_, first), (_, last) = play(body, api)
    assert (first, last) == (1.0, 1.0 + second)


def test_it_answers_only_inside_a_drill(clock: Any) -> None:
    with pytest.raises(RuntimeError, match="only inside a drill"):
        asyncio.run(Backend("api").request())


def test_a_refusing_backend_breaks_off_what_it_was_doing(clock: Any) -> None:
    api, fault = Backend("api", latency=2, capacity=1), Outage("api", at=1, seconds=1)

    async def body(now: Any) -> Any:
        two = [asyncio.create_task(timed(api, now)) for _ in range(2)]
        await asyncio.sleep(1)
        fault.set(api, True)
        refused = await timed(api, now)
        fault.set(api, False)
        return await asyncio.gather(*two), refused, await timed(api, now)

    broken = ("api broke the connection off", 1.0)
    refused = ("api refused the connection", 1.0)
    assert play(body, api) == ([broken, broken], refused, ("answered", 3.0))


def test_a_silent_backend_answers_nobody_also_not_afterwards(clock: Any) -> None:
    api, fault = Backend("api", latency=1), Outage("api", at=1, seconds=1, how="hang")

    async def body(now: Any) -> Any:
        before = asyncio.create_task(timed(api, now))
        await asyncio.sleep(0)
        fault.set(api, True)
        during = asyncio.create_task(timed(api, now))
        await asyncio.sleep(5)
        fault.set(api, False)
        after = await timed(api, now)
        hang = not before.done() and not during.done()
        before.cancel()
        during.cancel()
        return hang, after

    assert play(body, api) == (True, ("answered", 6.0))


def test_a_stalled_backend_queues_and_serves_afterwards(clock: Any) -> None:
    api = Backend("api", latency=1, capacity=2)
    fault = Outage("api", at=0, seconds=5, how="stall")

    async def body(now: Any) -> Any:
        running = asyncio.create_task(timed(api, now))
        await asyncio.sleep(0)
        fault.set(api, True)
        waiting = [asyncio.create_task(timed(api, now)) for _ in range(3)]
        await asyncio.sleep(5)
        fault.set(api, False)
        return [await one for one in (running, *waiting)]

    found = play(body, api)
    assert [at for _, at in found] == [1.0, 6.0, 6.0, 7.0]


def test_slow_and_erring_backends(clock: Any) -> None:
    api = Backend("api", latency=1)
    slow, erring = Slow("api", at=0, seconds=1), Errors("api", at=0, seconds=1, share=1.0)

    async def body(now: Any) -> Any:
        slow.set(api, True)
        late = await timed(api, now)
        erring.set(api, True)
        slow.set(api, False)
        wrong = await timed(api, now)
        erring.set(api, False)
        return late, wrong, await timed(api, now)

    assert play(body, api) == (
        ("answered", 10.0),
        ("api answered with an error", 11.0),
        ("answered", 12.0),
    )


def test_faults_that_overlap_add_up(clock: Any) -> None:
    api = Backend("api", latency=1)
    double, triple = Slow("api", at=0, seconds=1, factor=2), Slow("api", at=0, seconds=1, factor=3)
    outages = [Outage("api", at=0, seconds=1) for _ in range(2)]

    async def body(now: Any) -> Any:
        double.set(api, True)
        triple.set(api, True)
        slow = await timed(api, now)
        for fault in outages:
            fault.set(api, True)
        outages[0].set(api, False)
        return slow, await timed(api, now)

    assert play(body, api) == (("answered", 6.0), ("api refused the connection", 6.0))


def test_a_cold_backend_must_be_started(clock: Any) -> None:
    api = Backend("api", latency=1, cold=True, start_time=3)

    async def body(now: Any) -> Any:
        cold = await timed(api, now)
        await api.start()
        warm = await timed(api, now)
        await api.stop()
        return cold, warm, await timed(api, now), api.running_time(0.0)

    refused = "api refused the connection"
    assert play(body, api) == ((refused, 0.0), ("answered", 4.0), (refused, 4.0), 1.0)


def test_probes_go_past_the_queue_and_see_what_is_down(clock: Any) -> None:
    api = Backend("api", latency=1, capacity=1)
    down, silent = Outage("api", at=0, seconds=1), Outage("api", at=0, seconds=1, how="hang")

    async def body(now: Any) -> Any:
        busy = asyncio.create_task(timed(api, now))
        await asyncio.sleep(0)
        await api.probe()
        at = now()
        down.set(api, True)
        with pytest.raises(ConnectionError, match="refused the probe"):
            await api.probe()
        down.set(api, False)
        silent.set(api, True)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(api.probe(), 5)
        await busy
        return at

    assert play(body, api) == 1.0


def test_an_error_may_be_made_by_a_function(clock: Any) -> None:
    api = Backend("api", error=lambda text: ConnectionError(f"mine: {text}"))

    async def body(now: Any) -> Any:
        Outage("api", at=0, seconds=1).set(api, True)
        return await timed(api, now)

    assert play(body, api) == ("mine: api refused the connection", 0.0)


# Faults.


def test_flapping_is_down_and_up_in_turns() -> None:
    fault = Flapping("api", at=10, seconds=5, down=1, up=2)
    assert list(fault.spans()) == [(10, 11), (13, 14)]
    assert list(Flapping("api", at=0, seconds=2.5, down=2, up=0.1).spans())[-1] == (2.1, 2.5)


def test_a_lost_region_takes_its_backends_along() -> None:
    backends = {name: Backend(name, region=name[:2]) for name in ("eu-1", "eu-2", "us-1")}
    fault = RegionLoss("eu", at=1, seconds=1)
    assert fault.resolve(backends) == ("eu-1", "eu-2")
    fault.set(backends["eu-1"], True)
    assert backends["eu-1"]._silent == 1
    with pytest.raises(ScenarioError, match="no backend in the region"):
        RegionLoss("mars", at=1, seconds=1).resolve(backends)


def test_a_fault_of_ones_own_says_what_it_does() -> None:
    with pytest.raises(NotImplementedError):
        Fault("api", at=0, seconds=1).set(Backend("api"), True)


# Figures.


def test_percentiles_are_right_to_one_per_cent() -> None:
    source, histogram = random.Random(SOURCE), Histogram()
    found = sorted(source.lognormvariate(-4, 2) for _ in range(30_000))
    assert histogram.percentile(50) is None
    for value in found:
        histogram.add(value)
    for percent in (1, 50, 90, 99, 99.9):
        exact = found[math.ceil(len(found) * percent / 100) - 1]
        assert histogram.percentile(percent) == pytest.approx(exact, rel=0.01)
    assert histogram.percentile(100) == found[-1]
    assert len(histogram.counts) < 2_500


def test_a_percentile_of_nothing_but_zeros_is_zero() -> None:
    histogram = Histogram()
    histogram.add(0.0)
    assert histogram.percentile(99) == 0.0


def test_what_comes_after_the_end_is_in_the_last_piece() -> None:
    recorder = Recorder(100.0, 60.0, ())
    assert recorder.bucket(100.0) == 0
    assert recorder.bucket(159.99) == PIECES - 1 == recorder.bucket(1e6)


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("availability >= 0.999", 0.999, 0.998),
        ("availability>=99.9%", 0.9991, 0.998),
        ("p99 <= 250 ms", 0.25, 0.26),
        ("amplification < 1.1x", 1.09, 1.1),
        ("recovery_time<5s", 4.9, None),
        ("calls == 100", 100, 99),
        ("nines > 3", math.inf, 3),
    ],
)
def test_objectives_say_what_they_mean(text: str, good: float, bad: float | None) -> None:
    found = objective(text, "objectives[0]")
    assert found.met(good)
    assert not found.met(bad)


def test_figures_are_spelled_for_people() -> None:
    assert spell("p99", 0.0421) == "42.1 ms"
    assert spell("p99", 0.99999) == "1.00 s"
    assert spell("availability", 0.99954) == "99.9540%"
    assert spell("recovery_time", None) == "never"
    assert spell("utilisation", None) == "-"
    assert spell("nines", math.inf) == "all"
