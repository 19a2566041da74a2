"""One thread that works, and a line of people who wait for it in turn."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

Event = tuple[str, dict[str, Any]]  # its name, and what goes with it
Say = Callable[[str, dict[str, Any]], None]
Work = Callable[[Say], None]
logger = logging.getLogger(__name__)


class Busy(Exception):
    """So many wait already that no more may."""


class Stopped(Exception):
    """Whom the work is for has left."""


class Job:
    """Work for one of those in the line, and what is to be told to them."""

    def __init__(self, work: Work):
        self.work = work
        self.events: asyncio.Queue[Event | None] = asyncio.Queue()  # None: that was all
        self.stopped = threading.Event()
        self.ahead = -1  # how many are before it, as last told
        self.future: Future[None]


class Line:
    """Jobs in the order in which they came, all but the first waiting, at most `room` of them.

    Its methods are called in the event loop; the work is done in a thread of its own, and is given
    `say(event, data)`, which raises Stopped once the job has left.
    """

    def __init__(self, room: int):
        self.room = room
        self.jobs: list[Job] = []
        self.thread = ThreadPoolExecutor(1, "worker")

    def join(self, work: Work) -> Job:
        """Raises Busy when the line is full."""
        if len(self.jobs) > self.room:
            raise Busy
        job = Job(work)
        self.jobs.append(job)
        self._tell_places()
        job.future = self.thread.submit(self._run, job, asyncio.get_running_loop())
        return job

    def leave(self, job: Job) -> None:
        """Its work is not begun, or ends at its next word."""
        job.stopped.set()
        job.future.cancel()
        if job in self.jobs:
            self.jobs.remove(job)
            self._tell_places()

    async def events(self, job: Job) -> AsyncIterator[Event]:
        """What is said to a job, its place in the line ("place", {"ahead": n}) included."""
        while (event := await job.events.get()) is not None:
            yield event

    def _tell_places(self) -> None:
        for ahead, job in enumerate(self.jobs):
            if job.ahead != ahead:
                job.ahead = ahead
                job.events.put_nowait(("place", {"ahead": ahead}))

    def _run(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        """In the thread.  A fault ends the job, not the worker."""

        def say(name: str, data: dict[str, Any]) -> None:
            if job.stopped.is_set():
                raise Stopped
            loop.call_soon_threadsafe(job.events.put_nowait, (name, data))

        last: Event | None = None
        try:
            job.work(say)
        except Stopped:
            pass
        except ValueError as error:  # what does not fit, in one line
            last = ("fault", {"line": " ".join(str(error).split())})
        except Exception:
            logger.exception("a completion failed")
            last = ("fault", {"line": "the server failed: its log says why"})
        loop.call_soon_threadsafe(self._end, job, last)

    def _end(self, job: Job, last: Event | None) -> None:
        if last:
            job.events.put_nowait(last)
        job.events.put_nowait(None)
        if job in self.jobs:
            self.jobs.remove(job)
            self._tell_places()
