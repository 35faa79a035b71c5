"""The permits and their queue, by plain calls: no event loop, no blocking."""

from __future__ import annotations

import dis
import functools
import gc
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from resilient._core import permits as module
from resilient._core.permits import Permit, Permits, Waiter


class Fake(Waiter):
    """A waiter that only notes that it was woken."""

    def __init__(self, *, dead: bool = False) -> None:
        super().__init__()
        self.dead = dead
        self.woken = False

    def wake(self) -> bool:
        self.woken = not self.dead
        return not self.dead


class Worker:
    """A worker thread's run, as far as a permit is concerned."""

    def __init__(self) -> None:
        self.done = False
        self._callbacks: list[Any] = []

    def add_done_callback(self, fn: Any) -> None:
        if self.done:
            fn(self)
        else:
            self._callbacks.append(fn)

    def end(self) -> None:
        self.done = True
        for fn in self._callbacks:
            fn(self)


def taken(permits: Permits, number: int) -> list[Permit]:
    found = [permits.take() for _ in range(number)]
    assert None not in found
    return found  # type: ignore[return-value]


def queued(permits: Permits, number: int, *, dead: bool = False) -> list[Fake]:
    waiters = [Fake(dead=dead) for _ in range(number)]
    for waiter in waiters:
        assert permits.join(waiter)
    return waiters


def whole(permits: Permits) -> bool:
    """Whether nobody runs or waits, and exactly `limit` permits can be had."""
    gc.collect()
    if permits.active or permits.pending:
        return False
    held = [permits.take() for _ in range(permits.limit + 1)]
    for permit in held:
        if permit is not None:
            permits.give_back(permit)
    return held[-1] is None and None not in held[:-1]


def test_up_to_the_limit() -> None:
    """As many permits are given out as the limit says, and no more."""
    permits = Permits(3, 0)
    held = taken(permits, 3)
    assert permits.take() is None
    assert permits.active == 3
    permits.give_back(held[0])
    assert permits.active == 2
    assert permits.take() is not None


def test_a_huge_limit_costs_nothing() -> None:
    """Permits are made when they are needed."""
    permits = Permits(10**12, 0)
    assert not permits.free
    for _ in range(3):
        permits.give_back(taken(permits, 1)[0])
    assert len(permits.free) == 1


def test_the_first_to_come_is_served_first() -> None:
    """Permits go to waiters in the order of arrival, one each."""
    permits = Permits(2, 5)
    held = taken(permits, 2)
    first, second, third = queued(permits, 3)
    permits.give_back(held[0])
    assert [w.woken for w in (first, second, third)] == [True, False, False]
    permits.give_back(held[1])
    assert [w.woken for w in (first, second, third)] == [True, True, False]
    assert permits.active == 2
    assert permits.pending == 1


def test_a_full_queue_takes_nobody() -> None:
    """Beyond `max_queue`, joining fails and changes nothing."""
    permits = Permits(1, 2)
    held = taken(permits, 1)
    queued(permits, 2)
    assert not permits.has_room
    assert not permits.join(Fake())
    assert permits.pending == 2
    assert len(held) == 1


def test_a_newcomer_does_not_pass_the_queue() -> None:
    """A permit that has come back but has not been handed on is the first waiter's."""
    permits = Permits(1, 2)
    held = taken(permits, 1)
    waiter = queued(permits, 1)[0]
    permits.free.append(held.pop())  # a release, stopped half-way
    assert permits.take() is None
    assert waiter.woken
    assert permits.leave(waiter) is not None


def test_a_newcomer_does_not_take_what_comes_back_while_it_looks() -> None:
    """A release takes no lock, so it may come between serving the queue and the newcomer."""

    class Late(deque[Permit]):
        def pop(self) -> Permit:  # type: ignore[override]
            if not self:
                self.append(held.pop())
                raise IndexError
            return super().pop()

    permits = Permits(1, 2)
    held = taken(permits, 1)
    waiter = queued(permits, 1)[0]
    permits.free = Late()
    assert permits.take() is None
    assert waiter.woken


def test_who_joins_when_a_permit_has_just_come_back_gets_it() -> None:
    """Waiting is enqueueing and then looking for permits, so no release is missed."""
    permits = Permits(1, 1)
    held = taken(permits, 1)
    assert permits.take() is None
    permits.give_back(held.pop())
    waiter = queued(permits, 1)[0]
    assert waiter.woken


def test_a_grant_is_claimed_once() -> None:
    """`leave` hands a grant to the first who asks, and nothing to the next."""
    permits = Permits(1, 1)
    held = taken(permits, 1)
    waiter = queued(permits, 1)[0]
    permits.give_back(held.pop())
    assert permits.leave(waiter) is not None
    assert permits.leave(waiter) is None


def test_a_cancelled_waiter_is_skipped() -> None:
    """A waiter that left is not served; the next one is."""
    permits = Permits(1, 2)
    held = taken(permits, 1)
    gone, next_one = queued(permits, 2)
    permits.abandon(gone)
    permits.give_back(held.pop())
    assert next_one.woken
    assert not gone.woken


def test_a_grant_that_came_too_late_is_passed_on() -> None:
    """A waiter cancelled after it was granted hands its permit to the next."""
    permits = Permits(1, 2)
    held = taken(permits, 1)
    first, second = queued(permits, 2)
    permits.give_back(held.pop())
    permits.abandon(first)
    assert second.woken


def test_a_dead_loop_swallows_no_permit() -> None:
    """Thousands of waiters whose loop is dead are passed over, without deep recursion."""
    permits = Permits(2, 5001)
    held = taken(permits, 2)
    queued(permits, 5000, dead=True)
    alive = queued(permits, 1)[0]
    permits.give_back(held.pop())
    assert alive.woken
    assert permits.active == 2
    assert permits.pending == 0


def test_a_waiter_of_a_dead_loop_that_leaves_later_gets_nothing() -> None:
    """What a dead waiter was granted was taken back, so its clean-up finds nothing."""
    permits = Permits(1, 1)
    held = taken(permits, 1)
    dead = queued(permits, 1, dead=True)[0]
    permits.give_back(held.pop())
    assert permits.leave(dead) is None
    assert whole(permits)


def test_a_dead_waiter_that_left_while_it_was_woken() -> None:
    """What it has passed on already is not taken back a second time."""

    class Leaving(Fake):
        def wake(self) -> bool:
            permits.abandon(self)
            return False

    permits = Permits(1, 2)
    held = taken(permits, 1)
    permits.join(Leaving())
    next_one = queued(permits, 1)[0]
    permits.give_back(held.pop())
    assert next_one.woken
    permits.abandon(next_one)
    assert whole(permits)


def test_an_interrupt_while_waking_is_made_good() -> None:
    """Whose waking was cut off is woken before the interrupt goes on."""

    class Struck(Fake):
        def wake(self) -> bool:
            if not self.dead:
                self.dead = True
                raise KeyboardInterrupt
            self.woken = True
            return True

    permits = Permits(1, 1)
    held = taken(permits, 1)
    waiter = Struck()
    permits.join(waiter)
    with pytest.raises(KeyboardInterrupt):
        permits.give_back(held.pop())
    assert waiter.woken
    permits.abandon(waiter)
    assert whole(permits)


def test_a_lost_permit_is_replaced() -> None:
    """A permit that is collected without having been given back serves the next waiter."""
    permits = Permits(1, 1)
    held = taken(permits, 1)
    waiter = queued(permits, 1)[0]
    held.clear()
    assert waiter.woken
    permits.abandon(waiter)
    assert whole(permits)


def test_a_permit_lost_under_the_lock_is_replaced() -> None:
    """A finalizer that strikes where the lock is held does not wait for it."""
    permits = Permits(2, 1)
    held = taken(permits, 2)
    waiter, bystander = queued(permits, 1)[0], Fake()
    with permits._lock:
        held.pop()
    assert permits.pending == 1
    permits.leave(bystander)  # whoever uses the lock next looks for what was left
    assert waiter.woken


def test_collecting_it_all_brings_nothing_back() -> None:
    """Permits do not keep alive, or revive, what they belong to."""
    permits = Permits(3, 0)
    held = taken(permits, 3)
    permits.give_back(held.pop())
    alive = module.weakref.ref(permits)
    del permits
    assert alive() is None
    assert held[0]() is None
    held.clear()


def test_a_cycle_through_it_is_collected() -> None:
    """A bulkhead in a reference cycle is freed with all of its permits."""
    permits = Permits(3, 1)
    held = taken(permits, 3)
    holder: list[Any] = [permits, held]
    holder.append(holder)
    alive = module.weakref.ref(permits)
    del permits, held, holder
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_a_permit_is_held_for_abandoned_workers(order: tuple[int, ...]) -> None:
    """It comes back when the last worker ends, and not earlier."""
    permits = Permits(1, 0)
    workers = [Worker(), Worker(), Worker()]
    permits.give_back_after(taken(permits, 1)[0], workers)
    for number in order:
        assert permits.active == 1
        workers[number].end()
    assert whole(permits)


def test_workers_that_have_ended_hold_nothing() -> None:
    """A worker that ended before its call gave up is not waited for."""
    permits = Permits(1, 0)
    done, running = Worker(), Worker()
    done.end()
    permits.give_back_after(taken(permits, 1)[0], [done, running])
    assert permits.active == 1
    running.end()
    assert whole(permits)


class PermitsMachine(RuleBasedStateMachine):
    """Permits against a model in which everything happens at once."""

    def __init__(self) -> None:
        super().__init__()
        self.permits = Permits(2, 3)
        self.running: list[Permit] = []
        self.queue: list[Fake] = []
        self.granted: list[Fake] = []

    def serve(self) -> None:
        while self.queue and len(self.running) + len(self.granted) < 2:
            waiter = self.queue.pop(0)
            if not waiter.dead:
                self.granted.append(waiter)

    @rule()
    def arrive(self) -> None:
        permit = self.permits.take()
        if not self.queue and len(self.running) + len(self.granted) < 2:
            assert permit is not None
            self.running.append(permit)
            return
        assert permit is None
        waiter = Fake()
        assert self.permits.join(waiter) is (len(self.queue) < 3)
        if len(self.queue) < 3:
            self.queue.append(waiter)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data: st.DataObject) -> None:
        permit = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        self.permits.give_back(permit)
        self.serve()

    @precondition(lambda self: self.running)
    @rule()
    def lose(self) -> None:
        self.running.pop()
        self.serve()

    @precondition(lambda self: self.granted)
    @rule()
    def claim(self) -> None:
        permit = self.permits.leave(self.granted.pop(0))
        assert permit is not None
        self.running.append(permit)

    @precondition(lambda self: self.queue or self.granted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        everyone = self.queue + self.granted
        waiter = everyone[data.draw(st.integers(0, len(everyone) - 1))]
        (self.queue if waiter in self.queue else self.granted).remove(waiter)
        self.permits.abandon(waiter)
        self.serve()

    @precondition(lambda self: self.queue)
    @rule(data=st.data())
    def kill_the_loop_of(self, data: st.DataObject) -> None:
        self.queue[data.draw(st.integers(0, len(self.queue) - 1))].dead = True

    @invariant()
    def agrees(self) -> None:
        assert self.permits.active == len(self.running) + len(self.granted) <= 2
        assert list(self.permits.waiting) == self.queue
        assert all(waiter.woken and waiter.permit is not None for waiter in self.granted)
        assert not any(waiter.woken or waiter.permit for waiter in self.queue)


TestPermitsMachine = PermitsMachine.TestCase
TestPermitsMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Interrupt(BaseException):
    """What a signal handler raises."""


class Interrupter:
    """Raises `Interrupt` at the n-th point of `_core.permits` at which a signal could strike.

    CPython runs signal handlers after calls, at backward jumps and where a function starts,
    and nowhere else; finalizers swallow what is raised in them, so they are left alone.

    A handler's error belongs to the instruction just done, but a trace function can only
    raise before the next one: where another handler covers that one, the point is left out.
    """

    _STOPS = ("CALL", "JUMP_BACKWARD", "RESUME", "CALL_FUNCTION_EX")

    def __init__(self, nth: int) -> None:
        self.left = nth
        self._done: dict[FrameType, int] = {}
        self._names: dict[CodeType, dict[int, str]] = {}

    def __enter__(self) -> Interrupter:
        # Python 3.12 traces opcodes only if a frame has asked for it before.
        sys._getframe().f_trace_opcodes = True
        self._outer = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc: object) -> None:
        sys.settrace(self._outer)
        self._done.clear()  # frames hold permits

    def _trace(self, frame: FrameType, event: str, arg: Any) -> Any:
        code = frame.f_code
        if code.co_filename != module.__file__ or code.co_name in ("__del__", "lost"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            self._at(frame)
        return self._trace

    def _at(self, frame: FrameType) -> None:
        done, self._done[frame] = self._done.get(frame, -1), frame.f_lasti
        if self._name(frame.f_code, done) not in self._STOPS:
            return
        if handler(frame.f_code, done) == handler(frame.f_code, frame.f_lasti):
            self.left -= 1
            if self.left == 0:
                raise Interrupt

    def _name(self, code: CodeType, offset: int) -> str:
        if code not in self._names:
            self._names[code] = {i.offset: i.opname for i in dis.get_instructions(code)}
        return self._names[code].get(offset, "")


# Decoding takes long, and a scenario passes here for each of its points times each of them.
exception_table = functools.cache(dis._parse_exception_table)  # type: ignore[attr-defined]


def handler(code: CodeType, offset: int) -> int | None:
    """Where an error of the instruction at `offset` goes: the innermost range that has it."""
    found = None
    for entry in exception_table(code):
        if entry.start <= offset < entry.end:
            found = entry.target
    return found


def scenario(permits: Permits, waiters: list[Fake]) -> None:
    """Two calls run and end; three wait, of which the first is dead, the second is cancelled."""
    held = [permits.take(), permits.take()]
    try:
        for waiter in waiters:
            permits.join(waiter)
        permits.abandon(waiters[1])
    finally:
        for permit in held:
            if permit is not None:
                permits.give_back(permit)


def interrupted(nth: int) -> bool:
    """Run the scenario with an interrupt at point `nth`; false when it has fewer points."""
    permits = Permits(2, 5)
    waiters = [Fake(dead=True), Fake(), Fake()]
    with suppress(Interrupt), Interrupter(nth) as interrupter:
        scenario(permits, waiters)
    for waiter in waiters:
        permits.abandon(waiter)
    assert whole(permits), f"point {nth}"
    return interrupter.left <= 0


def test_an_interrupt_anywhere_leaves_the_limit_whole() -> None:
    """A signal handler may raise after any call: no permit is lost, none is made twice."""
    number = 1
    while interrupted(number):
        number += 1
    assert number > 50


def release(permits: Permits, held: list[Permit]) -> None:
    permits.give_back(held.pop())


def test_an_interrupt_keeps_no_waiter_from_its_permit() -> None:
    """What an interrupt cuts off in a release is finished before the error goes on."""
    number, left = 0, 0
    while left <= 0:
        number += 1
        permits = Permits(1, 2)
        held = taken(permits, 1)
        dead, alive = Fake(dead=True), Fake()
        permits.join(dead)
        permits.join(alive)
        with suppress(Interrupt), Interrupter(number) as interrupter:
            release(permits, held)
        gc.collect()
        assert alive.woken, f"point {number}"
        left = interrupter.left
    assert number > 5


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Blocked(Waiter):
    """A thread that waits for its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = threading.Event()

    def wake(self) -> bool:
        self.turn.set()
        return True


class Crowd:
    """Threads that run through the same permits, and count how many are inside."""

    def __init__(self, permits: Permits, threads: int, rounds: int) -> None:
        self.permits = permits
        self.inside: list[None] = []
        self.most = 0
        self.served = 0
        self._rounds = rounds
        self._barrier = threading.Barrier(threads)
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(threads)]

    def run(self) -> None:
        for thread in self._threads:
            thread.start()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), "a waiter was never woken"

    def _run(self, number: int) -> None:
        self._barrier.wait()
        for turn in range(self._rounds):
            permit = self._permit(lazy=(turn + number) % 7 == 0)
            if permit is None:
                continue
            self.inside.append(None)
            self.most = max(self.most, len(self.inside))
            self.inside.pop()
            self.permits.free.append(permit)  # as a policy's closure does it
            if self.permits.waiting:
                self.permits.settle()

    def _permit(self, *, lazy: bool) -> Permit | None:
        try:
            permit = None if self.permits.waiting else self.permits.free.pop()
        except IndexError:
            permit = None
        permit = permit or self.permits.take()
        if permit is not None:
            return permit
        waiter = Blocked()
        if not self.permits.join(waiter):
            return None
        if lazy:
            self.permits.abandon(waiter)
            return None
        waiter.turn.wait()
        return self.permits.leave(waiter)


@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("queue", [3, 100])
def test_threads_never_pass_the_limit_and_never_hang(queue: int) -> None:
    """Under a storm of threads and cancelled waiters the limit holds and everyone is woken."""
    crowd = Crowd(Permits(2, queue), threads=8, rounds=150)
    crowd.run()
    assert 1 <= crowd.most <= 2
    assert whole(crowd.permits)
