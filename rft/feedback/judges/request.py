"""What passes between a judge's form (how it asks) and its backend (who answers)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypedDict


class Message(TypedDict):
    """One turn of a conversation."""

    role: str  # system, user or assistant
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model.

    With ``options`` the model is asked for the log-probability of each as the next thing it says; without, it writes.
    """

    messages: tuple[Message, ...]
    options: tuple[str, ...] = ()
    max_tokens: int = 0  # that it may write
    attempt: int = 0  # 1: again, since the first answer could not be read; from 2 on: to see if it says the same


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model answered."""

    text: str  # what it wrote; asked for log-probabilities, only what it said in the place of one that can be read
    logprobs: tuple[float, ...] | None  # of the options, nats; None if the backend could give none
    read: int  # tokens
    written: int  # tokens
    seconds: float
    money: float | None = None  # None: nobody said
    cut: bool = False  # it came to no end within `max_tokens`: what its last line says is not read
    flops: float = 0.0  # of a model in this process (`rft.feedback.judges.operations`)
    refused: str = ""  # why the backend takes no such question, without secrets; it is kept to be read, never found
    declined: str = ""  # what the model said where it refused to answer or was filtered; no verdict is read from it


class Backend(Protocol):
    """A model that answers, here or behind an endpoint."""

    def identity(self, request: Request) -> dict[str, Any]:
        """What the answer depends on besides the request: the model's name, sampling. JSON, without secrets.

        It holds what is of account for such a request only, and of the request no more than whether it has options.
        """
        ...

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """Each request's place and reply, as they come: what has come is kept even if the rest does not.

        Raises:
            UserError: if it cannot go on: a wrong key, nobody there, an exhausted cost cap.
        """
        ...
