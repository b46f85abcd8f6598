"""Many questions at once, each answer handed on as it comes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rft.errors import UserError
from rft.feedback.judges.endpoint import Gone, Unfit
from rft.feedback.judges.request import Reply, Request

if TYPE_CHECKING:
    from rft.feedback.judges.endpoint import Endpoint

UNFIT_IN_A_ROW = 3
"""Questions that are not taken before any was, until it is thought that none will be."""
UNREAD = Reply("", None, 0, 0, 0.0)
"""The reply to a question that the endpoint does not take: no verdict can be read from it."""

Came = tuple[int, Reply | Exception] | None  # of a question, by place; None: a thread has ended


class Asking:
    """Asks an endpoint from several threads.

    The threads are daemons: Ctrl-C ends the process without a wait for them.

    Args:
        endpoint: who is asked.
        concurrency: questions in flight at once, at most.
    """

    def __init__(self, endpoint: Endpoint, concurrency: int) -> None:
        self.endpoint, self.concurrency = endpoint, concurrency
        self._kept = 0

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Each request's place and reply, as they come.

        After a fault nothing new is asked, and what is in flight is waited for and handed on before it is raised.

        Raises:
            UserError: if it cannot go on.
        """
        gone, came, todo = threading.Event(), queue.SimpleQueue[Came](), queue.SimpleQueue[int]()
        for place in range(len(requests)):
            todo.put(place)
        # Answers that wait to be kept are lost if the process is killed: few may.
        room = threading.Semaphore(2 * self.concurrency)
        threads = [
            threading.Thread(target=self._work, args=(requests, todo, came, room, gone), daemon=True)
            for _ in range(min(self.concurrency, len(requests)))
        ]
        for thread in threads:
            thread.start()
        try:
            yield from self._handed_on(came, len(threads), room, gone)
        finally:
            gone.set()

    def _work(
        self,
        requests: Sequence[Request],
        todo: queue.SimpleQueue[int],
        came: queue.SimpleQueue[Came],
        room: threading.Semaphore,
        gone: threading.Event,
    ) -> None:
        """Ask what is left to ask."""
        try:
            while not gone.is_set():
                if not room.acquire(timeout=0.2):
                    continue
                place = todo.get_nowait()
                try:
                    came.put((place, self.endpoint.ask(requests[place], gone)))
                except Gone:
                    return
                except Unfit as error:
                    came.put((place, error))
                except Exception as error:  # the thread that waits raises it
                    gone.set()
                    came.put((place, error))
        except queue.Empty:
            return
        finally:
            came.put(None)

    def _handed_on(
        self, came: queue.SimpleQueue[Came], threads: int, room: threading.Semaphore, gone: threading.Event
    ) -> Iterator[tuple[int, Reply]]:
        """The replies; once all is over what could not be had of them."""
        fault: Exception | None = None
        unfit: list[tuple[int, Unfit]] = []
        for place, result in self._until_all_end(came, threads, room, gone):
            if isinstance(result, Reply):
                self._kept += 1
                yield place, result
                continue
            if isinstance(result, Unfit):
                unfit.append((place, result))
                if self._kept or len(unfit) < UNFIT_IN_A_ROW:
                    continue
            fault = fault or result
            gone.set()
        if unfit and not self._kept:
            fault = fault or unfit[0][1]
        if self._kept:
            yield from ((place, UNREAD) for place, _ in unfit)
        if fault is not None:
            raise self._told(fault)

    def _until_all_end(
        self, came: queue.SimpleQueue[Came], threads: int, room: threading.Semaphore, gone: threading.Event
    ) -> Iterator[tuple[int, Reply | Exception]]:
        """What comes from the threads; after a fault no longer than an answer may take."""
        while threads:
            try:
                one = came.get(timeout=self.endpoint.config.timeout if gone.is_set() else None)
            except queue.Empty:
                return
            if one is None:
                threads -= 1
            else:
                yield one
                room.release()

    def _told(self, fault: Exception) -> Exception:
        """The fault with what has come of the asking; one of ours as it is."""
        if not isinstance(fault, UserError | Unfit):
            return fault
        answers = "answer is" if self._kept == 1 else "answers are"
        return UserError(f"{fault}; {self._kept} {answers} kept, and the same command goes on from there")
