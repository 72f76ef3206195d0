"""Threads that make a loader's batches ahead of the training.

Threads, not processes: nothing is copied or pickled, and reading, decompressing, decoding and NumPy's work on large
arrays let go of the interpreter's lock, so they overlap with the training. Work in pure Python does not.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from minidl import random

__all__ = ["Job", "WorkerInfo", "Workers", "get_worker_info"]


@dataclass(frozen=True)
class WorkerInfo:
    """Which worker this is: `id` of `num_workers`, the `seed` it started with, and the dataset, which all share."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


class _Here(threading.local):
    info: WorkerInfo | None = None


_here = _Here()


def get_worker_info() -> WorkerInfo | None:
    """In a worker of a DataLoader, which one it is; elsewhere None.

    >>> get_worker_info() is None
    True
    """
    return _here.info


class Job:
    """A call that a worker makes, and what came of it."""

    __slots__ = ("call", "cancelled", "done", "error", "result")

    def __init__(self, call: Callable[[], Any]) -> None:
        self.call: Callable[[], Any] | None = call
        self.done = threading.Event()
        self.cancelled = False
        self.result: Any = None
        self.error: BaseException | None = None

    def run(self) -> None:
        call, self.call = self.call, None
        try:
            if call is not None and not self.cancelled:
                self.result = call()
        except BaseException as error:  # whatever it is, it is the consumer's to see
            self.error = error
        self.done.set()

    def get(self, timeout: float | None = None) -> Any:
        """The result, once it is there; raises what the call raised, or TimeoutError after `timeout` seconds."""
        if not self.done.wait(timeout):
            raise TimeoutError
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        result, self.result = self.result, None
        return result


class Workers:
    """`n` threads that run jobs in the order in which they were submitted.

    `init(worker_id)` is called first in each; if it raises, so does the constructor. The threads end with `close`, when
    this object is dropped, and with the program.
    """

    def __init__(self, n: int, dataset: Any, seed: int, init: Callable[[int], Any] | None = None) -> None:
        self.pid = os.getpid()
        self.jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        starts, self.threads = [], []
        for i in range(n):
            start = Job(lambda info=WorkerInfo(i, n, seed + i, dataset): _start(info, init))  # type: ignore[misc]
            # Daemons: a worker that hangs in somebody's code does not keep the program from ending.
            thread = threading.Thread(target=_work, args=(start, self.jobs), name=f"minidl-loader-{i}", daemon=True)
            starts.append(start)
            self.threads.append(thread)
            thread.start()
        try:
            for start in starts:
                start.get()
        except BaseException:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Whether jobs are run: not after `close`, nor in a process that was forked off, which has no such threads."""
        return bool(self.threads) and self.pid == os.getpid()

    def submit(self, call: Callable[[], Any]) -> Job:
        """Have a call made."""
        job = Job(call)
        self.jobs.put(job)
        return job

    def close(self, wait: bool = True) -> None:
        """End the threads after the jobs they are at; jobs not yet begun should be cancelled before."""
        if self.pid != os.getpid():
            return
        threads, self.threads = self.threads, []
        for _ in threads:
            self.jobs.put(None)
        if wait and not sys.is_finalizing():
            for thread in threads:
                if thread is not threading.current_thread():
                    thread.join()

    def __del__(self) -> None:
        if getattr(self, "threads", None):
            self.close()


def _start(info: WorkerInfo, init: Callable[[int], Any] | None) -> None:
    _here.info = info
    if init is not None:
        with random.using(random.Generator(info.seed)):
            init(info.id)


def _work(start: Job, jobs: queue.SimpleQueue[Job | None]) -> None:
    start.run()
    del start
    while True:
        job = jobs.get()
        if job is None:
            return
        job.run()
        del job  # its result belongs to the consumer
