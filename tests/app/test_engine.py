"""The line of jobs: order, positions, cancelling, short tasks, and errors that the worker outlives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from idpersona.app.engine import SHORT, Busy, Cancelled, Engine, TooLong
from idpersona.errors import BadInput


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(waiting=3, each=2)
    yield made
    made.close()


class Steps:
    """A job of many steps that goes on when it is told to."""

    def __init__(self, steps: int = 1000):
        self.steps, self.done = steps, 0
        self.begun, self.go = threading.Event(), threading.Semaphore(0)

    def __call__(self, models, listener):
        listener.started(self.steps, "drawing")
        self.begun.set()
        for _ in range(self.steps):
            self.go.acquire(timeout=10)
            self.done += 1
            listener.step("here")
        return self.done


def test_jobs_run_one_after_the_other_in_the_order_they_came(engine):
    first, order = Steps(1), []
    running = engine.submit("a", first)
    first.begun.wait(5)
    waiting = [engine.submit(owner, lambda m, _, o=owner: order.append(o)) for owner in ("b", "c", "d")]
    assert [engine.position(ticket) for ticket in (running, *waiting)] == [0, 1, 2, 3]
    assert [ticket.state for ticket in waiting] == ["waiting"] * 3
    first.go.release()
    for ticket in waiting:
        ticket.wait(5)
    assert order == ["b", "c", "d"]
    assert running.wait(5) == 1
    assert not engine.busy


def test_a_full_line_and_a_greedy_owner_are_refused(engine):
    first = Steps(1)
    engine.submit("a", first)
    first.begun.wait(5)
    engine.submit("a", lambda m, _: None)
    with pytest.raises(Busy, match="you have 2 jobs"):
        engine.submit("a", lambda m, _: None)
    engine.submit("b", lambda m, _: None)
    engine.submit("c", lambda m, _: None)
    with pytest.raises(Busy, match="3 jobs are waiting"):
        engine.submit("d", lambda m, _: None)
    first.go.release()


def test_a_cancelled_job_ends_within_its_step(engine):
    job = Steps()
    ticket = engine.submit("a", job)
    job.begun.wait(5)
    for _ in range(3):
        job.go.release()
    while ticket.step < 3:
        time.sleep(0.01)
    assert engine.cancel("a") == 1
    job.go.release()
    with pytest.raises(Cancelled):
        ticket.wait(5)
    assert ticket.state == "cancelled"
    assert job.done == 4
    assert engine.submit("b", lambda m, _: "next").wait(5) == "next"


def test_only_the_owner_cancels_and_what_waits_never_starts(engine):
    job, ran = Steps(1), []
    engine.submit("a", job)
    job.begun.wait(5)
    mine = engine.submit("b", lambda m, _: ran.append("b"))
    other = engine.submit("c", lambda m, _: ran.append("c"))
    assert engine.cancel("nobody") == 0
    assert engine.cancel("b") == 1
    assert mine.state == "cancelled"
    assert engine.position(other) == 1
    job.go.release()
    other.wait(5)
    assert ran == ["c"]


def test_short_tasks_run_between_two_steps(engine):
    job = Steps(2)
    ticket = engine.submit("a", job)
    job.begun.wait(5)
    short = engine.soon("b", lambda m, _: threading.current_thread().name)
    job.go.release()
    assert short.wait(5) == "idpersona-engine"
    assert ticket.state == "running"
    job.go.release()
    assert ticket.wait(5) == 2
    assert engine.soon("b", lambda m, _: "alone").wait(5) == "alone"


def test_the_worker_outlives_errors_and_tells_them(engine, caplog):
    def refused(_models, _listener):
        raise BadInput("no face")

    def broken(_models, _listener):
        raise ZeroDivisionError

    with pytest.raises(BadInput, match="no face"):
        engine.submit("a", refused).wait(5)
    assert "failed" not in caplog.text
    with pytest.raises(ZeroDivisionError):
        engine.submit("a", broken).wait(5)
    assert "job 2 failed" in caplog.text
    assert engine.submit("a", lambda m, _: 1).wait(5) == 1


def test_a_ticket_that_has_ended_holds_nothing_of_its_job(engine):
    import gc
    import weakref

    class Heavy:
        pass

    heavy = Heavy()
    ticket = engine.submit("a", lambda m, _, kept=heavy: None)
    ticket.wait(5)
    gone = weakref.ref(heavy)
    del heavy
    gc.collect()
    assert gone() is None


def test_closing_calls_everything_off():
    engine, job = Engine(), Steps()
    running = engine.submit("a", job)
    job.begun.wait(5)
    waiting = engine.submit("b", lambda m, _: None)
    job.go.release(5)
    engine.close()
    for ticket in (running, waiting):
        with pytest.raises(Cancelled):
            ticket.wait(5)
    with pytest.raises(Busy, match="closed"):
        engine.submit("a", lambda m, _: None)


def test_the_worker_outlives_what_is_no_error_at_all(engine):
    """Libraries in Rust end in a panic, which is no Exception."""

    class Panic(BaseException):
        pass

    def panics(_models, _listener):
        raise Panic("inside")

    with pytest.raises(RuntimeError, match="Panic"):
        engine.submit("a", panics).wait(5)
    with pytest.raises(RuntimeError, match="Panic"):
        engine.soon("a", panics).wait(5)
    assert engine.submit("a", lambda m, _: 1).wait(5) == 1


def test_memory_that_is_not_enough_is_said_and_given_back(engine):
    class OutOfMemoryError(RuntimeError):
        pass

    cleared = []
    engine.models.clear = lambda: cleared.append(True)

    def greedy(_models, _listener):
        raise OutOfMemoryError("CUDA out of memory")

    with pytest.raises(BadInput, match="smaller size"):
        engine.submit("a", greedy).wait(5)
    assert cleared == [True]


def test_a_long_job_ends_when_others_wait_and_not_before():
    engine = Engine(seconds=0.2)
    try:
        long = Steps(1000)
        ticket = engine.submit("a", long)
        long.begun.wait(5)
        time.sleep(0.3)
        for _ in range(3):
            long.go.release()
        while long.done < 3:
            time.sleep(0.01)
        assert ticket.state == "running"
        other = engine.submit("b", lambda m, _: "mine")
        long.go.release()
        with pytest.raises(TooLong, match="while others wait"):
            ticket.wait(5)
        assert other.wait(5) == "mine"
    finally:
        engine.close()


def test_one_address_has_half_of_the_line():
    engine = Engine(waiting=4, each=4)
    try:
        first = Steps(1)
        engine.submit("0", first, "here")
        first.begun.wait(5)
        engine.submit("1", lambda m, _: None, "here")
        engine.submit("2", lambda m, _: None, "here")
        with pytest.raises(Busy, match="waiting already"):
            engine.submit("3", lambda m, _: None, "here")
        engine.submit("4", lambda m, _: None, "there")
        first.go.release()
    finally:
        engine.close()


def test_owners_are_those_who_wait_for_something(engine):
    assert engine.owners() == set()
    first = Steps(1)
    running = engine.submit("a", first)
    first.begun.wait(5)
    engine.submit("b", lambda m, _: None)
    engine.soon("c", lambda m, _: None)
    assert engine.owners() == {"a", "b", "c"}
    first.go.release()
    running.wait(5)


def test_short_tasks_of_one_owner_are_counted_and_hold_no_picture_up_for_ever(engine):
    first = Steps(3)
    running = engine.submit("a", first)
    first.begun.wait(5)
    slow = [engine.soon("b", lambda m, _: time.sleep(SHORT)) for _ in range(4)]
    with pytest.raises(Busy):
        engine.soon("b", lambda m, _: None)
    engine.soon("c", lambda m, _: None)
    first.go.release()
    slow[0].wait(5)
    for _ in range(2):
        first.go.release()
    running.wait(10)
    assert not slow[3].ended.is_set() or slow[3].started >= running.started
    slow[3].wait(10)
