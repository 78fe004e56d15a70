"""Worker processes: one thread each, forked from a server that has torch, diffusers and peft loaded already.

One thread a process makes the same bytes on any number of cores; shards in parallel processes give the best throughput (two threads
in each of two processes are 30 times slower, spinning). Loading the libraries takes a new process about 10 seconds, hence the fork
server. Workers report progress through a queue that a thread of the parent drains.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from multiprocessing.queues import SimpleQueue
from types import FrameType

Progress = Callable[[str, int], None]
"""Called with (what advanced, by how much)."""

_PRELOADED = ["accelerate", "diffusers.models.unets.unet_2d_condition", "open_clip", "peft", "scipy.special", "timm"]
_PRELOADED += [
    "cdm_core.training",
    "cdm_core.composition.serving",
    "cdm_core.evaluation.features",
    "cdm_core.centroids",
    "cdm_core.evaluation.quality_gate",
]
_queue: SimpleQueue[tuple[str, int] | None] | None = None  # in a worker: where it reports to
_pool: ProcessPoolExecutor | None = None  # in a parent: the pool that is open


@dataclass(frozen=True, slots=True, kw_only=True)
class _Opened:
    """A pool and the queue that its workers report to."""

    pool: ProcessPoolExecutor
    queue: SimpleQueue[tuple[str, int] | None]


_prepared: _Opened | None = None  # in a parent: what the next `worker_pool` takes


def ignore_progress(what: str, amount: int) -> None:
    """For callers that show none."""


def report_progress(what: str, amount: int = 1) -> None:
    """Tell the parent, from inside a worker; does nothing outside one."""
    if _queue is not None:
        _queue.put((what, amount))


def load_workers() -> None:
    """Have the server that workers are forked from load the libraries, while the caller does other things; done once a process."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)
    forkserver.ensure_running()


def prepare_pool(rehearse: Callable[[], None]) -> None:
    """Open the next `worker_pool`'s processes now, and have each of them rehearse; returns when all are ready."""
    global _prepared
    _prepared = _open_pool(os.cpu_count() or 1, rehearse)


@contextmanager
def worker_pool(num_workers: int | None = None, on_progress: Progress = ignore_progress) -> Iterator[ProcessPoolExecutor]:
    """A pool of single-threaded processes, by default one a core, ended on leaving; within it `active_pool` gives it to anyone."""
    global _pool, _prepared
    opened, _prepared = _prepared or _open_pool(num_workers or os.cpu_count() or 1), None
    drain = threading.Thread(target=_drain, args=(opened.queue, on_progress), daemon=True)
    drain.start()
    _pool = opened.pool
    try:
        with _interrupting_workers():
            yield opened.pool
    finally:
        _pool = None
        opened.pool.shutdown(cancel_futures=True)
        opened.queue.put(None)
        drain.join()


@contextmanager
def _interrupting_workers() -> Iterator[None]:
    """An interrupt of this process alone, not of its group, ends its workers too: whoever waits for their results would go on waiting."""
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield  # interrupts are ignored, or not for this thread to handle
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        for worker in multiprocessing.active_children():
            worker.terminate()
        before(number, frame)

    signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _open_pool(num_workers: int, rehearse: Callable[[], None] | None = None) -> _Opened:
    load_workers()
    context = multiprocessing.get_context("forkserver")
    queue: SimpleQueue[tuple[str, int] | None] = context.SimpleQueue()
    # A worker that raised KeyboardInterrupt would end one piece of work and begin the next that was queued. Stores bear a kill.
    on_interrupt = signal.SIG_IGN if signal.getsignal(signal.SIGINT) is signal.SIG_IGN else signal.SIG_DFL
    pool = ProcessPoolExecutor(num_workers, mp_context=context, initializer=_start_worker, initargs=(queue, on_interrupt, rehearse))
    if rehearse is not None:
        for ready in [pool.submit(os.getpid) for _ in range(num_workers)]:  # each is handed to a process of its own, and started for it
            ready.result()
    return _Opened(pool=pool, queue=queue)


def active_pool() -> ProcessPoolExecutor:
    """The pool that is open: a step run by an orchestrator gets no pool passed, since that would hash and copy its parameters.

    Raises:
        RuntimeError: none is open.
    """
    if _pool is None:
        raise RuntimeError("no worker pool is open; enter worker_pool first")
    return _pool


def end_with_parent() -> None:
    """Have this process end when the one that started it does: a parent that was killed can't end its children."""
    threading.Thread(target=_end_after, args=(multiprocessing.parent_process(),), daemon=True).start()


def _end_after(parent: BaseProcess | None) -> None:
    if parent is not None:  # None: this process is the first
        parent.join()
        os._exit(1)


def _start_worker(queue: SimpleQueue[tuple[str, int] | None], on_interrupt: signal.Handlers, rehearse: Callable[[], None] | None) -> None:
    import torch

    from cdm_core.fingerprint import NUM_THREADS

    global _queue
    _queue = queue
    signal.signal(signal.SIGINT, on_interrupt)
    torch.set_num_threads(NUM_THREADS)
    end_with_parent()
    if rehearse is not None:
        rehearse()


def _drain(queue: SimpleQueue[tuple[str, int] | None], on_progress: Progress) -> None:
    while (item := queue.get()) is not None:
        on_progress(*item)
