"""How fast an endpoint is asked."""

from __future__ import annotations

import threading
import time


class RateLimiter:
    """Spreads questions and tokens evenly, so that no minute has more than its share, and pauses when told to.

    It knows the questions of its own process only: processes that run at once share no limit.

    Args:
        requests_per_minute: None: no limit.
        tokens_per_minute: None: no limit.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._per_request = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_token = self._held = 0.0
        self._line = threading.Lock()  # whoever has it is next
        self._changed = threading.Condition()

    def take(self, tokens: int, gone: threading.Event) -> None:
        """Wait for the turn of a question and take it; return at once when `gone` is set.

        Args:
            tokens: that it takes at most; `give_back` what it does not.
            gone: nobody waits for the answer any more.
        """
        while not self._line.acquire(timeout=0.2):
            if gone.is_set():
                return
        try:
            with self._changed:
                self._wait(gone, own=True)
                now = time.monotonic()
                self._next_request = max(now, self._next_request) + self._per_request
                self._next_token = max(now, self._next_token) + tokens * self._per_token
        finally:
            self._line.release()

    def again(self) -> None:
        """Count a question that is sent once more, without a wait for its turn."""
        with self._changed:
            self._next_request += self._per_request

    def pause(self, gone: threading.Event) -> None:
        """Wait for as long as the endpoint wants to be left alone; return at once when `gone` is set."""
        with self._changed:
            self._wait(gone, own=False)

    def give_back(self, tokens: int) -> None:
        """Return tokens that were taken and not used."""
        with self._changed:
            self._next_token -= tokens * self._per_token
            self._changed.notify_all()

    def hold(self, seconds: float) -> None:
        """Ask nothing for some seconds."""
        with self._changed:
            self._held = max(self._held, time.monotonic() + seconds)

    def _wait(self, gone: threading.Event, *, own: bool) -> None:
        """Wait for the end of a pause and, with `own`, for the own limits; the condition is held."""
        while not gone.is_set():
            until = max(self._held, self._next_request, self._next_token) if own else self._held
            if (left := until - time.monotonic()) <= 0:
                return
            self._changed.wait(min(left, 0.2))
