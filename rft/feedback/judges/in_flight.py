"""Many questions at once, each answer handed on as it comes."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from rft.errors import UserError
from rft.feedback.judges.endpoint import Gone, Unfit
from rft.feedback.judges.request import Reply, Request

if TYPE_CHECKING:
    from rft.feedback.judges.endpoint import Endpoint

UNFIT_BEFORE_ANY = 2
"""Questions that are not taken before any was, besides those in flight, until it is thought that none will be."""

logger = logging.getLogger(__name__)

Came = tuple[int, Reply | Exception] | None  # of a question, by place; None: a thread has ended


class Asking:
    """Asks an endpoint from several threads.

    The threads are daemons: Ctrl-C ends the process without a wait for them.

    Args:
        endpoint: who is asked.
        concurrency: questions in flight at once, at most.
        answered: whether such a question, with options or without, was ever answered: then the endpoint takes them,
            and one that it refuses is at fault by itself.
    """

    def __init__(self, endpoint: Endpoint, concurrency: int, answered: Callable[[Request], bool]) -> None:
        self.endpoint, self.concurrency, self.answered = endpoint, concurrency, answered
        self._kept = 0
        self._taken: set[bool] = set()  # kinds of questions that the endpoint takes: with options, without
        self._warned = False

    def answers(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Each request's place and reply, as they come.

        After a fault nothing new is asked, and what is in flight is waited for and handed on before it is raised. A
        question that the endpoint refuses gets a reply that says so, once it is known to take others of its kind.

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
            yield from self._handed_on(requests, self._until_all_end(came, len(threads), room, gone), gone)
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
        self, requests: Sequence[Request], came: Iterator[tuple[int, Reply | Exception]], gone: threading.Event
    ) -> Iterator[tuple[int, Reply]]:
        """The replies; once all is over what could not be had of them."""
        fault: Exception | None = None
        waiting: list[tuple[int, Unfit]] = []  # refused, before it is known whether any is taken
        for place, result in came:
            if isinstance(result, Reply):
                self._kept += 1
                self._taken.add(bool(requests[place].options))
                yield place, result
            elif isinstance(result, Unfit):
                waiting.append((place, result))
            else:
                fault = fault or result
                gone.set()
                continue
            refused = [(at, unfit) for at, unfit in waiting if self._takes(requests[at])]
            waiting = [one for one in waiting if one not in refused]
            yield from ((at, self._refusal(unfit)) for at, unfit in refused)
            if len(waiting) >= UNFIT_BEFORE_ANY + self.concurrency:
                gone.set()
        if waiting or fault is not None:
            raise self._told(fault or waiting[0][1])

    def _takes(self, request: Request) -> bool:
        """Whether the endpoint takes questions of this kind."""
        kind = bool(request.options)
        if kind not in self._taken and self.answered(request):
            self._taken.add(kind)
        return kind in self._taken

    def _refusal(self, unfit: Unfit) -> Reply:
        """The reply to a question that is not taken: no verdict can be read from it."""
        if not self._warned:
            self._warned = True
            logger.warning("%s; such questions have no verdict", unfit)
        return Reply("", None, 0, 0, 0.0, refused=unfit.reason)

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
