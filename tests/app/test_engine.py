"""The line of jobs: order, positions, cancelling, short tasks, and errors that the worker outlives."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from idpersona.app.engine import Busy, Cancelled, Engine
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
