"""What may be a key or a password, by its name, its form, or because the environment holds it; and its removal."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

LEAST_SECRET = 8
"""Characters of a secret; what is shorter is in every text."""
HIDDEN = "…"
"""Stands where a secret was."""
_NAMED = re.compile(
    r"(?:^|.*_)(?:api_?key|access_?key|private_?key|secret_?key|secret|password|passwd|passphrase|credentials?|"
    r"authorization)|key|token|(?:.*_)?(?:api|auth|access|hf|bearer|refresh|write|wandb)_token",
    re.IGNORECASE,
)
"""Names of settings that hold one. Those that name where it is, such as key_env, and pad_token are none."""
_VARIABLE = re.compile(r"(?:^|_)(?:API_?KEY|KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASS|CREDENTIALS?)(?:$|_)", re.IGNORECASE)
_FORMS = re.compile(
    r"\b(?:sk-[\w-]{16,}|hf_\w{20,}|gh[pousr]_\w{20,}|glpat-[\w-]{16,}|xox[a-z]-[\w-]{10,}|AKIA[0-9A-Z]{16}|"
    r"wandb_v\d_\w{16,})|(?<=Bearer )[\w.~+/-]{8,}=*"
)
"""Keys of services that mark theirs."""
_LOGIN = re.compile(r"(?<=://)[^/\s@]*:[^/\s@]+(?=@)")
"""User and password in an address."""


def held() -> list[str]:
    """Secrets in this process's environment, the longest first: values of variables that are named as such."""
    found = {
        value.strip()
        for name, value in os.environ.items()
        if _VARIABLE.search(name) and len(value.strip()) >= LEAST_SECRET and not value.strip().startswith("/")
    }
    return sorted(found, key=len, reverse=True)


def scrubbed(text: str) -> str:
    """A text without the secrets of the environment, and without what has the form of one."""
    for secret in held():
        text = text.replace(secret, HIDDEN)
    return _LOGIN.sub(HIDDEN, _FORMS.sub(HIDDEN, text))


def _named(name: str, value: Any) -> bool:
    """Whether a setting holds a secret by its name."""
    return (
        isinstance(value, str) and value not in ("", HIDDEN) and _NAMED.fullmatch(name.rpartition(".")[2]) is not None
    )


def without_secrets(data: Any, name: str = "") -> Any:
    """Plain data, such as a configuration, with ``…`` in place of what may be a secret."""
    if isinstance(data, Mapping):
        return {key: without_secrets(value, str(key)) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [without_secrets(value, name) for value in data]
    if _named(name, data):
        return HIDDEN
    return scrubbed(data) if isinstance(data, str) else data


def secret_settings(data: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the settings of a plain configuration that may hold a secret."""
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield from secret_settings(value, f"{name}.{key}" if name else str(key))
    elif isinstance(data, list | tuple):
        for place, value in enumerate(data):
            yield from secret_settings(value, f"{name}[{place}]")
    elif isinstance(data, str) and (_named(name, data) or scrubbed(data) != data):
        yield name
