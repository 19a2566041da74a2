"""Job queue with one worker thread, which reports progress and queue positions as events."""

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

Emit = Callable[[str, dict[str, Any]], None]  # called with the name and the data of an event
Work = Callable[[Emit], None]
logger = logging.getLogger(__name__)


class QueueFull(Exception):
    """Raised when a job is submitted to a full queue."""


class JobCancelled(BaseException):
    """Raised in the worker thread when its job has been cancelled.

    It does not derive from Exception, so that error handlers do not catch it.
    """


class Job:
    """Work of one client, with the events to send to it.

    Attributes:
        events: Name and data of each event; None marks the end.
        cancelled: Set when the job has been removed from the queue.
        ahead: Number of jobs ahead of this one, as last reported.
    """

    def __init__(self, work: Work):
        self.work = work
        self.events: asyncio.Queue[tuple[str, dict[str, Any]] | None] = asyncio.Queue()
        self.cancelled = threading.Event()
        self.ahead = -1


class JobQueue:
    """First-in, first-out queue of jobs.

    Its methods run in the event loop, and jobs run in one worker thread. A job calls
    `emit(name, data)` to send an event, which raises JobCancelled once the job is cancelled.

    Args:
        max_waiting: Maximum number of jobs that wait while another one runs.
    """

    def __init__(self, max_waiting: int):
        self.max_waiting = max_waiting
        self.jobs: list[Job] = []  # the first one is running
        self.thread = ThreadPoolExecutor(1, "worker")

    def submit(self, work: Work) -> Job:
        """Append a job. Raises QueueFull if too many jobs are waiting."""
        if len(self.jobs) > self.max_waiting:
            raise QueueFull
        job = Job(work)
        self.jobs.append(job)
        self._report_positions()
        self.thread.submit(self._run, job, asyncio.get_running_loop())
        return job

    def remove(self, job: Job) -> None:
        """Remove a job. If it is still running, it is cancelled at its next event."""
        job.cancelled.set()
        if job in self.jobs:
            self.jobs.remove(job)
            self._report_positions()

    def _report_positions(self) -> None:
        for ahead, job in enumerate(self.jobs):
            if job.ahead != ahead:
                job.ahead = ahead
                job.events.put_nowait(("position", {"ahead": ahead}))

    def _run(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        """Run a job in the worker thread. Exceptions end the job, not the worker."""

        def emit(name: str, data: dict[str, Any]) -> None:
            if job.cancelled.is_set():
                raise JobCancelled
            loop.call_soon_threadsafe(job.events.put_nowait, (name, data))

        if job.cancelled.is_set():
            return
        with suppress(JobCancelled):
            try:
                job.work(emit)
            except ValueError as error:  # invalid input of the client
                emit("error", {"message": " ".join(str(error).split())})
            except Exception:
                logger.exception("a completion failed")
                emit("error", {"message": "internal server error. See the server's log"})
            loop.call_soon_threadsafe(job.events.put_nowait, None)
            loop.call_soon_threadsafe(self.remove, job)
