"""A model behind any OpenAI-compatible endpoint as judge: vLLM, llama.cpp, a hosted service.

It is asked by chat completions, many at once. With ``answers=logprobs`` one token is asked for, with the most likely
ones beside it: a token that is an option but for blanks around it counts for that option, as does one that begins this
option and no other; an option that is not listed gets less than the least likely token that is. If none is listed the
verdict cannot be read, and so if the model refuses, its answer is filtered or it is cut by the limit of tokens before
the end of the line with the verdict: nothing is guessed. A question that the endpoint does not take, such as one too
long for the model, has no verdict either; what the endpoint said of it stands in the raw answer.

Every answer is kept as it comes. What passes by itself (nobody there, a restart, a rate limit, a server's fault) is
tried again for `Config.patience` seconds; what does not (a wrong key, an unknown model, an exhausted cost cap) ends the
run in one line, and the same command goes on from there.

The key is read from the environment variable that `Config.key_env` names and stands nowhere else: in no file, no log,
no message. What a server says is repeated only without it, and without what looks like it.

Requests are JSON that the client library builds, so no response can break out of its message. The usual control tokens
of chat formats inside a response (``<|im_start|>``) are defused where the question is written
(`rft.feedback.judges.prompts`); others that a model of its own kind knows are left to the server.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from omegaconf import MISSING

from rft.config import number
from rft.errors import UserError
from rft.feedback.judges.asking import AskedJudge, AskingConfig
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.request import Reply, Request
from rft.store.names import SPENDING_FILE

LEAST_KEY = 12
"""Characters of what looks like a key."""
_CAPITALS = re.compile("[A-Z_][A-Z0-9_]*")
_OF_KEY = re.compile("(?:^|_)(API_?)?(KEY|TOKEN|SECRET)S?(?=_|$)")


class TokenLimitEnum(str, Enum):
    """The field of a request that limits what is written."""

    max_tokens = "max_tokens"
    max_completion_tokens = "max_completion_tokens"


@dataclass
class Config(AskingConfig):
    """Settings of `OpenAIJudge`."""

    model: str = MISSING
    """The model's name at the endpoint. Verdicts are kept under it: let a server that takes any name (llama.cpp) have
    one that says which weights it runs."""
    base_url: str = "https://api.openai.com/v1"
    """Where the endpoint is, up to what comes before ``/chat/completions``; without a key in it."""
    key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; null for a server that wants none. The key goes to
    `base_url`, whoever that is."""
    top_logprobs: int = number(20, at_least=1, at_most=20)
    """Tokens whose log-probabilities are asked for, 1 to 20: what OpenAI and vLLM give at most by default."""
    token_limit: TokenLimitEnum = TokenLimitEnum.max_tokens
    """The field of a request that limits what is written; OpenAI's reasoning models want max_completion_tokens."""
    concurrency: int = number(8, at_least=1, at_most=256)
    """Questions that are in flight at once, 1 to 256."""
    requests_per_minute: float | None = number(None, above=0)
    """Questions that one process sends in a minute at most, evenly spread; null: no limit of ours. Trials that run at
    once share none: give each its part."""
    tokens_per_minute: float | None = number(None, above=0)
    """Tokens read and written for one process in a minute at most, evenly spread; null: no limit of ours."""
    timeout: float = number(60.0, above=0)
    """Seconds to wait for a connection, and without a byte of the answer."""
    patience: float = number(300.0, at_least=0)
    """Seconds for which a question is tried again if nobody answers, the server fails or limits the rate."""
    price_read: float | None = number(None, at_least=0)
    """Money for a million tokens read; null, with price_written: by the budget's price list."""
    price_written: float | None = number(None, at_least=0)
    """Money for a million tokens written."""
    max_money: float | None = number(None, above=0)
    """Money that may be spent on this model from this store, over all runs of it and whatever runs at once; null: no
    cap. It is never passed: before a question is sent, the most that it can cost is set aside."""

    def conflict(self) -> str | None:
        """What is wrong and how to mend it, from the key on; None if all is well. It repeats no value with a key."""
        return self._misplaced() or super().conflict() or self._does_not_fit()

    @property
    def where(self) -> str:
        """The endpoint's address without what may be asked for with it."""
        address = urlsplit(self.base_url)
        return f"{address.scheme}://{address.netloc}{address.path}"

    def _misplaced(self) -> str | None:
        """A key where none may be, or an address that is none."""
        if "model" in vars(self) and not str(self.model).strip():
            return "model: is empty; give the model's name at the endpoint"
        if self.key_env is not None and not re.fullmatch("[A-Z_][A-Z0-9_]*", self.key_env):
            return "key_env: is no name of an environment variable in capitals; put the key into one and give its name"
        key = os.environ.get(self.key_env or "", "").strip()
        if len(key) >= 8 and (found := [name for name, value in vars(self).items() if key in str(value)]):
            return f"{found[0]}: holds the key that is in {self.key_env}; leave it out: it is sent as a header"
        try:
            address = urlsplit(self.base_url)
            known = address.scheme in ("http", "https") and address.hostname and address.port != 0
        except ValueError:  # brackets that do not close, a port that is no number
            known = False
        if not known:
            return "base_url: is no http or https address; give one as http://localhost:8000/v1"
        secret = re.compile("key|token|secret|password|passwd|auth|sig|credential", re.IGNORECASE)
        named = [name for name, _ in parse_qsl(address.query, keep_blank_values=True) if secret.search(name)]
        if "@" in address.netloc or named or secret.search(address.fragment):
            return "base_url: holds a key or a password; put it into an environment variable and name it in key_env"
        return None

    def _does_not_fit(self) -> str | None:
        from rft.feedback.judges import fitting  # here: settings are read without the imports above

        if told := fitting.ambiguous(self):
            return told
        if (self.price_read is None) != (self.price_written is None):
            return "price_read and price_written: give both or none"
        if self.max_money is not None and self.price_read is None:
            return "max_money: a cost cap needs price_read and price_written; give both, per million tokens"
        return None


class OpenAIJudge(AskedJudge):
    """A judge whose questions are answered at an OpenAI-compatible endpoint.

    What an answer cost is kept with it, as it was priced when it was asked for: other prices ask nothing again.
    """

    located = frozenset(
        {
            "base_url",
            "key_env",
            "token_limit",  # one limit by two names
            "concurrency",
            "requests_per_minute",
            "tokens_per_minute",
            "timeout",
            "patience",
            "max_money",
        }
    )
    charged = frozenset({"price_read", "price_written"})

    @classmethod
    def check_ready(cls, config: Any) -> None:
        """There must be a key, if the endpoint wants one."""
        key_of(config)

    def __init__(self, config: Config, verdicts: KeptVerdicts) -> None:
        backend = OpenAIBackend(config, verdicts.path.with_name(SPENDING_FILE), verdicts.holds)
        super().__init__(config, backend, verdicts)


class OpenAIBackend:
    """Answers by chat completions, `Config.concurrency` at once.

    Args:
        config: what to ask and how.
        ledger: an sqlite file, made if it is not there, that says what has been spent.
        answered: whether an answer with an identity is kept from before.
    """

    def __init__(
        self, config: Config, ledger: Path, answered: Callable[[Mapping[str, Any]], bool] = lambda _: False
    ) -> None:
        if told := config.conflict():
            raise UserError(f"judge.{told}")
        self.config, self.ledger, self.answered = config, ledger, answered
        self._asking: Any = None

    def identity(self, request: Request) -> dict[str, Any]:
        """See `rft.feedback.judges.request.Backend`. Where the model runs is no part of it."""
        chosen = self.config
        known: dict[str, Any] = {"backend": "openai", "model": chosen.model}
        if request.options:
            return known | {"top_logprobs": chosen.top_logprobs}
        return known | ({"temperature": chosen.temperature, "seed": chosen.seed} if chosen.temperature else {})

    def answer(self, requests: Sequence[Request]) -> Iterator[tuple[int, Reply]]:
        """See `rft.feedback.judges.request.Backend`.

        Without requests neither the key nor the client library is needed.
        """
        if not requests:
            return
        if self._asking is None:
            from rft.feedback.judges.endpoint import Endpoint
            from rft.feedback.judges.in_flight import Asking

            endpoint = Endpoint(self.config, key_of(self.config), self.ledger)
            self._asking = Asking(endpoint, self.config.concurrency, lambda one: self.answered(self.identity(one)))
        yield from self._asking.answers(requests)


def key_of(config: Config) -> str | None:
    """The key, None for a server that wants none.

    Raises:
        UserError: if the environment holds none, or what is no key.
    """
    name = config.key_env
    if name is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        near = nearest_key(name)
        instead = (
            "" if near is None else f", or judge.key_env={near}, which is set, if that is the key for {config.where}"
        )
        raise UserError(
            f"judge: the environment variable {name} holds no key; set it, as in `export {name}=…`{instead}, or "
            "judge.key_env to another one's name, or judge.key_env=null for a server that wants none"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"judge: what is in the environment variable {name} has signs that no key has; correct it")
    return key


def nearest_key(name: str) -> str | None:
    """The variable of the environment that holds what looks like a key and has the nearest name; None if none does.

    Nearest by what the names say besides that they are of keys: OPENAI_KEY is OPENAI_API_KEY rather than WANDB_API_KEY.
    """
    holds = [one for one, value in os.environ.items() if one != name and _is_key(one, value.strip())]
    rated = [(_alike(_OF_KEY.sub("", one), _OF_KEY.sub("", name)), _alike(one, name), one) for one in holds]
    return max(rated)[2] if rated else None


def _alike(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _is_key(name: str, value: str) -> bool:
    """Whether a variable may hold a key that a server would take; one with a path in it is of a file."""
    plain = value.isascii() and value.isprintable() and " " not in value and not value.startswith(("/", "~"))
    return bool(_CAPITALS.fullmatch(name) and _OF_KEY.search(name) and plain and len(value) >= LEAST_KEY)
