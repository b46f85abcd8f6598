"""Whether a server answers."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request


def unreachable(url: str, seconds: float) -> str | None:
    """Why a server at an address is of no use; None if it answers within some seconds, and not with a fault of its own.

    Args:
        url: of the server.
        seconds: that it has.
    """
    found = [f"{url} gives no answer within {seconds:g} s"]

    def ask() -> None:
        try:
            with urllib.request.urlopen(url, timeout=seconds):
                found[:] = []
        except urllib.error.HTTPError as error:
            found[:] = [f"{url} answers {error.code}"] if error.code >= 500 else []
        except (OSError, ValueError) as error:
            found[:] = [f"{url} cannot be reached ({getattr(error, 'reason', error)})"]

    # A resolver of names keeps no timeout.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(seconds)
    return found[0] if found else None
