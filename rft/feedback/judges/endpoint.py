"""One question to an OpenAI-compatible endpoint: sent, tried again, paid for; its faults in words without the key."""

from __future__ import annotations

import logging
import re
import threading
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import openai
import tenacity

from rft.errors import UserError
from rft.feedback.judges.completion import Completion, NoCompletion, NoLogprobs, read_completion
from rft.feedback.judges.cost_cap import CostCap
from rft.feedback.judges.rate_limiter import RateLimiter
from rft.feedback.judges.request import Reply, Request

if TYPE_CHECKING:
    from rft.feedback.judges.openai import Config

logger = logging.getLogger(__name__)

CUT_BY_GATEWAY = frozenset({502, 504})
"""Status codes of what stands between: the model behind it may have answered, and what it did may be charged."""
UNFIT = frozenset({400, 413, 422})
"""What servers answer to a question that they do not take, such as one that is too long for the model."""
ASKED_AT = "/chat/completions"
PASSING = frozenset({408, 409, 425, 429})
"""Faults below 500 that may pass by themselves."""
MALFORMED_TRIES = 3
LEAST_SECRET = 8
"""Characters of a key that is looked for in answers; shorter ones are words, such as the "none" of local servers."""
PER_MESSAGE, PER_REQUEST = 32, 256
"""Tokens that a chat format adds, at most: marks around each message, and a system message of the server's own."""


class Unfit(Exception):
    """This question is not taken; others may be.

    Args:
        told: to the user, if none is taken.
        reason: the server's, without the key.
    """

    def __init__(self, told: str, reason: str) -> None:
        super().__init__(told)
        self.reason = reason


class Gone(Exception):
    """Nobody waits for the answer any more."""


class Endpoint:
    """Where questions are sent, one at a time for each thread that calls.

    Args:
        config: what to ask and how.
        key: sent as a header; None: no key.
        ledger: where the money spent is counted, if there are prices.
    """

    def __init__(self, config: Config, key: str | None, ledger: Path) -> None:
        self.config, self._secret, self._where = config, key, config.where
        # The client wants a key, or takes what it finds in the environment. No retries but those counted here.
        # No redirect is followed: questions and key go where the user said, and a redirected question is often lost.
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=config.base_url,
            timeout=config.timeout,
            max_retries=0,
            http_client=openai.DefaultHttpxClient(follow_redirects=False, timeout=config.timeout),
        )
        self._rate = RateLimiter(config.requests_per_minute, config.tokens_per_minute)
        priced = config.price_read is not None
        self._cap = CostCap(ledger, config.model, config.max_money) if priced else None
        self._backoff = tenacity.wait_exponential_jitter(multiplier=0.5, max=10.0, jitter=0.5)
        self._well = True
        logging.getLogger("httpx").setLevel(logging.WARNING)  # it tells of every request

    def ask(self, request: Request, gone: threading.Event) -> Reply:
        """The reply to a question, tried again for as long as there is patience.

        Args:
            request: the question.
            gone: nobody waits for the answer any more.

        Raises:
            Unfit: if the endpoint does not take this question.
            UserError: if it cannot be asked at all.
            Gone: if nobody waits.
        """
        out_of_patience = tenacity.stop_before_delay(self.config.patience)
        trying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_passes),
            wait=self._wait,
            stop=lambda state: out_of_patience(state) or gone.is_set() or _often_malformed(state),
            sleep=tenacity.sleep_using_event(gone),
            before_sleep=self._before_retry,
            reraise=True,
        )
        at_most = self._tokens_at_most(request)
        self._rate.take(sum(at_most), gone)  # outside of the tries: to wait for its turn costs no patience
        unused, began = sum(at_most), time.monotonic()
        try:
            reply: Reply = trying(self._try, request, at_most, gone)
            unused -= reply.read + reply.written
        except openai.APIStatusError as error:
            if error.status_code in UNFIT:
                raise self._unfit(error, request) from None
            raise UserError(f"judge: {self._status_fault(error, self._tried(trying, began))}") from None
        except (openai.APIConnectionError, NoCompletion, NoLogprobs) as error:
            raise UserError(f"judge: {self._fault(error, self._tried(trying, began))}") from None
        except openai.OpenAIError as error:
            raise UserError(f"judge: {self.without_key(str(error))}") from None
        finally:
            self._rate.give_back(unused)
        self._well = True
        return reply

    def _try(self, request: Request, at_most: tuple[int, int], gone: threading.Event) -> Reply:
        """Send the question once."""
        if gone.is_set():
            raise Gone
        self._rate.pause(gone)  # while the endpoint wants to be left alone
        reserved = charged = self._price(*at_most) or 0.0
        if self._cap is not None:
            self._cap.reserve(reserved, gone)
        started = time.monotonic()
        try:
            raw = self._client.chat.completions.with_raw_response.create(**self._body(request))
            found = read_completion(raw.http_response.text, request.options)
            reply = self._reply(found, at_most, time.monotonic() - started)
            charged = reply.money or 0.0
        except openai.APIStatusError as error:
            if error.status_code not in CUT_BY_GATEWAY:
                charged = 0.0
            raise
        except openai.APIConnectionError as error:
            # What was cut may have been answered and be asked for; what never began may not.
            if type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "PoolTimeout"):
                charged = 0.0
            raise
        finally:
            if self._cap is not None:
                self._cap.settle(reserved, charged)
        return reply

    def _body(self, request: Request) -> dict[str, Any]:
        chosen = self.config
        # A lone surrogate is no text that JSON can carry.
        messages = [{**m, "content": m["content"].encode("utf-8", "replace").decode()} for m in request.messages]
        body: dict[str, Any] = {"model": chosen.model, "messages": messages}
        body[chosen.token_limit.value] = 1 if request.options else request.max_tokens
        if request.options:
            return body | {"temperature": 1.0, "logprobs": True, "top_logprobs": chosen.top_logprobs}
        sampled = {"seed": chosen.seed + request.attempt} if chosen.temperature else {}
        return body | {"temperature": chosen.temperature} | sampled

    def _reply(self, found: Completion, at_most: tuple[int, int], seconds: float) -> Reply:
        """A server that does not say what it read and wrote is thought to have done as much as it can have."""
        read = at_most[0] if found.read is None else found.read
        written = at_most[1] if found.written is None else found.written
        text = found.text
        if self._secret and len(self._secret) >= LEAST_SECRET:
            text = text.replace(self._secret, "…")  # a proxy may repeat what it was sent, and answers are kept
        return Reply(text, found.logprobs, read, written, seconds, self._price(read, written), found.cut)

    def _price(self, read: int, written: int) -> float | None:
        per_read, per_written = self.config.price_read, self.config.price_written
        if per_read is None or per_written is None:
            return None
        return (read * per_read + written * per_written) / 1e6

    @staticmethod
    def _tokens_at_most(request: Request) -> tuple[int, int]:
        """Bounds for what is read and written: no tokeniser makes more tokens of a text than it has bytes."""
        length = sum(len(message["content"].encode("utf-8", "replace")) + PER_MESSAGE for message in request.messages)
        return length + PER_REQUEST, 1 if request.options else request.max_tokens

    def _wait(self, state: tenacity.RetryCallState) -> float:
        """Seconds to the next try: longer each time, and as long as the endpoint says."""
        error = state.outcome.exception() if state.outcome is not None else None
        wanted = _retry_after(error) if isinstance(error, openai.APIStatusError) else 0.0
        if wanted:
            self._rate.hold(wanted)
        return max(float(self._backoff(state)), wanted)

    def _before_retry(self, state: tenacity.RetryCallState) -> None:
        """Count the next try, and log the first of several failed ones."""
        self._rate.again()
        error = state.outcome.exception() if state.outcome is not None else None
        if self._well:
            self._well = False
            logger.warning("judge: %s at %s; trying again for %g s", _trouble(error), self._where, self.config.patience)

    def _tried(self, trying: tenacity.Retrying, began: float) -> str:
        """What was tried, how often and for how long: the last try may end long after there is patience for another."""
        times = int(trying.statistics.get("attempt_number", 1))
        often = "once" if times == 1 else f"{times} times"
        return f"a chat completion was asked for {often}, in {time.monotonic() - began:.3g} s"

    @property
    def _patience(self) -> str:
        """Why nothing more was tried."""
        return f"and another try would pass judge.patience={self.config.patience:g} s"

    def _fault(self, error: Exception, tried: str) -> str:
        """What is wrong with an answer that did not come, or not as one."""
        more = f"{tried}, {self._patience}"
        if isinstance(error, openai.APITimeoutError):
            return f"{self._where} gave no answer within {self.config.timeout:g} s (judge.timeout); {more}"
        if isinstance(error, openai.APIConnectionError):
            return f"{self._where} cannot be reached; {more}; start the server, or correct judge.base_url"
        if isinstance(error, NoLogprobs):
            return f"{self._where} gives no log-probabilities; set judge.answers=generated"
        return f"what {self._where} answers is no chat completion: {error}; {tried}; correct judge.base_url"

    def _status_fault(self, error: openai.APIStatusError, tried: str) -> str:
        status, variable = error.status_code, self.config.key_env
        if location := error.response.headers.get("location", "").strip() if 300 <= status < 400 else "":
            return self._redirect(status, urljoin(str(error.response.url), location))
        if status in (401, 403):
            if variable is None:
                return (
                    f"{self._where} wants a key ({status}); put it into an environment variable, named in judge.key_env"
                )
            return f"{self._where} does not accept the key in {variable} for {self.config.model} ({status}); correct it"
        if status == 404:
            return (
                f"{self._where} has no model {self.config.model!r}, or no chat completions (404); correct judge.model "
                "or judge.base_url"
            )
        if status == 402 or error.code == "insufficient_quota":
            return f"the account at {self._where} has no credit left ({status}); top it up"
        if status == 429:
            return (
                f"{self._where} limits the rate (429); {tried}, {self._patience}; set "
                "judge.requests_per_minute or judge.tokens_per_minute, or raise judge.patience"
            )
        told = f"; {tried}, {self._patience}" if _passes(error) else ""
        return f"{self._where} answers with an error ({status}): {self.without_key(error.message)}{told}"

    def _redirect(self, status: int, target: str) -> str:
        """Where else the endpoint is, or that there is none; what the address asks for may hold secrets."""
        address = urlsplit(target)
        whole = f"{address.scheme}://{address.netloc.rpartition('@')[2]}{address.path}"
        base = whole.rstrip("/").removesuffix(ASKED_AT)
        told = f"{self._where} redirects ({status}) to {self.without_key(whole)}, which is not followed"
        if base != whole.rstrip("/") and base != self._where.rstrip("/"):
            return f"{told}; if you trust that address, set judge.base_url={self.without_key(base)}"
        return f"{told}: that is no address of chat completions; correct judge.base_url"

    def _unfit(self, error: openai.APIStatusError, request: Request) -> Unfit:
        mend = "; a server without log-probabilities wants judge.answers=generated" if request.options else ""
        reason = f"({error.status_code}): {self.without_key(error.message)}"
        return Unfit(f"judge: {self._where} takes no such question {reason}{mend}", reason)

    def without_key(self, said: str) -> str:
        """The first 200 characters of what a server said, on one line, without the key and what looks like it.

        A word goes if it shares six characters in a row with the key, or has two asterisks or an ellipsis in it, as
        servers print parts of a key.
        """
        line = " ".join(said.split())
        if self._secret:
            line = line.replace(self._secret, "…")
            line = " ".join("…" if _shares(word, self._secret) else word for word in line.split())
        return line[:200]


def _shares(word: str, secret: str) -> bool:
    if "**" in word or "..." in word or "…" in word:
        return True
    size = min(6, len(secret))
    return any(secret[i : i + size] in word for i in range(len(secret) - size + 1))


def _passes(error: BaseException) -> bool:
    """Whether it may go away by itself."""
    if isinstance(error, openai.APIStatusError):
        if error.code == "insufficient_quota":
            return False
        return error.status_code in PASSING or error.status_code >= 500
    return isinstance(error, openai.APIConnectionError | NoCompletion)


def _trouble(error: BaseException | None) -> str:
    """What went wrong for the time being, in a few words."""
    if isinstance(error, openai.APIStatusError):
        return f"an error ({error.status_code})"
    if isinstance(error, openai.APITimeoutError):
        return "no answer in time"
    return "what is no chat completion" if isinstance(error, NoCompletion) else "nobody answers"


def _often_malformed(state: tenacity.RetryCallState) -> bool:
    """What is no completion is most often no endpoint: patience would be lost on it."""
    error = state.outcome.exception() if state.outcome is not None else None
    return isinstance(error, NoCompletion) and state.attempt_number >= MALFORMED_TRIES


def _retry_after(error: openai.APIStatusError) -> float:
    """Seconds that the endpoint wants to be left alone, 0 if it does not say."""
    said = error.response.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d+(\.\d+)?", said):
        return float(said)
    try:
        return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    except (TypeError, ValueError):  # a form that no standard has
        return 0.0
