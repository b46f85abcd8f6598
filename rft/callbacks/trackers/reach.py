"""Whether a server answers in time."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable


def within(seconds: float, ask: Callable[[], str | None], late: str) -> str | None:
    """What a question comes to; `late` if it takes longer: looking up a name, for one, keeps no timeout."""
    found: list[str | None] = [late]

    def answer() -> None:
        found[:] = [ask()]

    asking = threading.Thread(target=answer, daemon=True)
    asking.start()
    asking.join(seconds)
    return found[0]


def unreachable(url: str, seconds: float) -> str | None:
    """Why a server at an address is of no use; None if it answers within some seconds, and not with a fault of its own.

    Args:
        url: of the server.
        seconds: that it has.
    """

    def ask() -> str | None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                return None
        except urllib.error.HTTPError as error:
            return f"{url} answers {error.code}" if error.code >= 500 else None
        except TimeoutError:
            return late
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                return None  # it is there, and who uploads may know its certificate: not all look in the same place
            return late if isinstance(reason, TimeoutError) else f"{url} cannot be reached ({reason})"

    late = f"{url} gives no answer within {seconds:g} s"
    return within(seconds, ask, late)
