"""How fast an endpoint is asked."""

from __future__ import annotations

import threading
import time


class Pace:
    """Spreads questions and tokens evenly, so that no minute has more than its share, and pauses when told to.

    Args:
        requests_per_minute: None: no limit.
        tokens_per_minute: None: no limit.
    """

    def __init__(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._per_request = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._per_token = 60.0 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_token = self._held = 0.0
        self._lock = threading.Lock()

    def wait(self, tokens: int, gone: threading.Event) -> None:
        """Wait for the turn of a question; return at once when `gone` is set.

        Args:
            tokens: that it takes at most.
            gone: nobody waits for the answer any more.
        """
        with self._lock:
            turn = max(time.monotonic(), self._next_request, self._next_token)
            self._next_request = turn + self._per_request
            self._next_token = turn + tokens * self._per_token
        while (left := max(turn, self._held) - time.monotonic()) > 0 and not gone.wait(left):
            pass

    def took(self, tokens: int, at_most: int) -> None:
        """Tell how many tokens a question took that was thought to take `at_most`."""
        with self._lock:
            self._next_token -= (at_most - tokens) * self._per_token

    def hold(self, seconds: float) -> None:
        """Ask nothing for some seconds."""
        with self._lock:
            self._held = max(self._held, time.monotonic() + seconds)
