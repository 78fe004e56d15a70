"""The pool of one-threaded processes, and what a killed parent leaves behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch

from tasks.training import workers
from tasks.training.workers import active_pool, report_progress, worker_pool

START_A_CHILD = """
import multiprocessing, time
from tasks.training.workers import end_with_parent

def work():
    end_with_parent()
    print(multiprocessing.current_process().pid, flush=True)
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("fork").Process(target=work).start()
    time.sleep(60)
"""

WORK_UNTIL_INTERRUPTED = """
import time
from tasks.training.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(1) as pool:
        pool.submit(time.sleep, 0).result()  # it has started
        pending = [pool.submit(time.sleep, 600) for _ in range(3)]
        while not pending[1].running():  # the worker holds the first, the second is queued where nobody can cancel it
            time.sleep(0.01)
        print("working", flush=True)
        pending[0].result()
"""


def test_a_child_ends_with_its_killed_parent() -> None:
    with subprocess.Popen([sys.executable, "-c", START_A_CHILD], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, 0)
        parent.kill()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError("the child goes on")


@pytest.mark.parametrize("interrupt", [os.killpg, os.kill], ids=["group, as Ctrl-C does", "process alone"])
def test_an_interrupt_ends_the_work_and_what_is_queued_behind_it(interrupt: Callable[[int, int], None]) -> None:
    command = [sys.executable, "-c", WORK_UNTIL_INTERRUPTED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, process_group=0) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == "working\n"
        interrupt(parent.pid, signal.SIGINT)
        try:
            assert parent.wait(timeout=60) == -signal.SIGINT
        finally:
            parent.kill()


@pytest.mark.parametrize(("handler", "expected"), [(signal.SIG_IGN, signal.SIG_IGN), (signal.default_int_handler, signal.SIG_DFL)])
def test_workers_ignore_an_interrupt_where_their_parent_does(handler: signal.Handlers, expected: signal.Handlers) -> None:
    """A command in a shell's background goes on when the one in front is interrupted."""
    before = signal.signal(signal.SIGINT, handler)
    try:
        with worker_pool(1) as pool:
            assert pool.submit(signal.getsignal, signal.SIGINT).result() == expected
    finally:
        signal.signal(signal.SIGINT, before)


def test_workers_run_one_thread_and_report_to_the_parent() -> None:
    reports: list[tuple[str, int]] = []
    with worker_pool(1, lambda what, amount: reports.append((what, amount))) as pool:
        assert active_pool() is pool
        assert pool.submit(torch.get_num_threads).result() == 1
        assert pool.submit(os.getpid).result() != os.getpid()
        for amount in (1, 2):
            pool.submit(report_progress, "steps", amount).result()
        with pytest.raises(ValueError, match="invalid literal"):
            pool.submit(int, "one").result()
    # Leaving waits for the last report.
    assert reports == [("steps", 1), ("steps", 2)]


def test_a_prepared_pool_has_rehearsed_and_is_taken_once() -> None:
    workers.prepare_pool(rehearse)
    with worker_pool() as prepared:
        assert {prepared.submit(os.getenv, "REHEARSED").result() for _ in range(4)} == {"once"}
    with worker_pool(1) as opened:
        assert opened is not prepared
        assert opened.submit(os.getenv, "REHEARSED").result() is None


def rehearse() -> None:
    assert "REHEARSED" not in os.environ
    os.environ["REHEARSED"] = "once"


def test_outside_a_pool_there_is_none() -> None:
    report_progress("steps", 1)
    with pytest.raises(RuntimeError, match=r"^no worker pool is open; enter worker_pool first$"):
        active_pool()
