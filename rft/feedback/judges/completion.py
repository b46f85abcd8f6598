"""What a chat completion says, read from its JSON without trust in its form."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rft.feedback.judges.fitting import beginning

BELOW = math.log(2.0)
UNLISTED = 1e-9
"""Probability that the tokens which a server does not list have together at least: it rounds."""
"""How much less than the least likely token that is listed an option gets that is not, nats."""
ROUNDING = 1e-3
"""How far above 0, nats, a log-probability may be for a server's rounding; what is higher is none."""


class NoCompletion(Exception):
    """What came is no chat completion."""


class NoLogprobs(Exception):
    """What came has no log-probabilities, though it is a chat completion and nothing was filtered."""


@dataclass(frozen=True, slots=True)
class Completion:
    """An answer and what it took."""

    text: str  # empty if it was refused or filtered; beside log-probabilities empty if they can be read
    logprobs: tuple[float, ...] | None  # of the options, nats
    read: int | None  # tokens; None: not said
    written: int | None
    cut: bool = False  # by the limit of what may be written
    declined: str = ""  # what was said in place of an answer, or that it was filtered; empty if it was neither


def read_completion(body: str, options: Sequence[str]) -> Completion:
    """The first choice of a chat completion.

    Args:
        body: of the response.
        options: whose log-probabilities were asked for; if empty, text was.

    Raises:
        NoCompletion: if it is no JSON, or has no choice with a message.
        NoLogprobs: if log-probabilities were asked for and none are there.
    """
    try:
        whole = json.loads(body)
    except ValueError:
        raise NoCompletion("it is no JSON") from None
    choices = whole.get("choices") if isinstance(whole, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        raise NoCompletion("it has no choices with a message")
    usage = whole.get("usage")
    read, written = (_count(usage, name) for name in ("prompt_tokens", "completion_tokens"))
    filtered = choice.get("finish_reason") == "content_filter"
    refused = bool(message.get("refusal")) or filtered
    declined = (_refusal(message) or ("filtered" if filtered else "refused")) if refused else ""
    if options:
        listed = None if refused else _listed(choice)
        logprobs = None if listed is None else option_logprobs(listed, options)
        # Nobody reads a verdict from it: it is kept for the user to see what was said instead.
        return Completion(_said(message) if logprobs is None else "", logprobs, read, written, declined=declined)
    content = message.get("content")
    text = content if isinstance(content, str) and not refused else ""
    return Completion(text, None, read, written, choice.get("finish_reason") == "length", declined)


def option_logprobs(listed: Mapping[str, float], options: Sequence[str]) -> tuple[float, ...] | None:
    """Log-probability of each option from the tokens that are listed, or None if none of them is an option.

    Equation: log Σ p(token) over the tokens that are the option but for blanks around them, or begin it and no other
    option. An option without any is at most as likely as the least likely token of the list, and as all together that
    are not listed; it gets half of that.

    Args:
        listed: token → its log-probability, nats.
        options: different strings, none of them blank.

    Raises:
        ValueError: if one of them begins another: its token may be the first of either, "1" of "10".
    """
    if beginning(options) is not None:
        raise ValueError(f"options {list(options)}: one begins another; give others, or read the verdict from text")
    found: list[list[float]] = [[] for _ in options]
    for token, logprob in listed.items():
        said = token.strip(" \t\r\n▁Ġ")
        begun = [i for i, option in enumerate(options) if said and option.strip().startswith(said)]
        if len(begun) == 1:
            found[begun[0]].append(logprob)
    if not any(found):
        return None
    rest = max(1 - math.fsum(map(math.exp, listed.values())), UNLISTED)
    floor = min(*listed.values(), math.log(rest)) - BELOW
    return tuple(_logsumexp(each) if each else floor for each in found)


def _listed(choice: Mapping[str, Any]) -> dict[str, float] | None:
    """The tokens listed for the first place; none at all if the model ended there."""
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(content, list):
        raise NoLogprobs
    first = content[0] if content and isinstance(content[0], dict) else {}
    top = first.get("top_logprobs")
    listed: dict[str, float] = {}
    for entry in top if isinstance(top, list) else []:
        token, logprob = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
        if isinstance(token, str) and isinstance(logprob, int | float) and -math.inf < logprob <= ROUNDING:
            # Two tokens may have one text, as half letters do.
            listed[token] = _logsumexp([listed[token], logprob]) if token in listed else float(logprob)
    return listed or None


def _said(message: Mapping[str, Any]) -> str:
    """The content of a message, or the refusal that it has instead."""
    texts = (message.get(name) for name in ("content", "refusal"))
    return next((text for text in texts if isinstance(text, str) and text), "")


def _refusal(message: Mapping[str, Any]) -> str:
    """What a message that refuses says: the refusal, or the content if that says it."""
    texts = (message.get(name) for name in ("refusal", "content"))
    return next((text for text in texts if isinstance(text, str) and text.strip()), "")


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    return top + math.log(math.fsum(math.exp(value - top) for value in values))


def _count(usage: object, name: str) -> int | None:
    found = usage.get(name) if isinstance(usage, dict) else None
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else None
