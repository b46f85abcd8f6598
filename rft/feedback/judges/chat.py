"""Turns a conversation into tokens of which only the chat template's own may be control tokens."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from rft.errors import UserError
from rft.feedback.judges.request import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_PLACE = re.compile(r"CONTENT-OF-TURN-([0-9]+)-ENDS")


class PlainText:
    """Tokens of a text none of which is an added token, whatever the text holds.

    Args:
        tokenizer: whose added tokens, as those of a chat template, no text may make.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        # One added token within another is cut as well: at every place where any of them begins.
        added = sorted((one for one in tokenizer.get_added_vocab() if len(one) > 1), key=len, reverse=True)
        self._added = re.compile(f"(?=({'|'.join(map(re.escape, added))}))") if added else None

    def __call__(self, text: str) -> list[int]:
        """The tokens."""
        starts = [found.start() for found in self._added.finditer(text)] if self._added else []
        cuts = [0, *(start + 1 for start in starts), len(text)]
        pieces = [text[a:b] for a, b in pairwise(cuts) if a < b]
        encoded = [self.tokenizer.encode(one, add_special_tokens=False, split_special_tokens=True) for one in pieces]
        return [token for ids in encoded for token in ids]


class Chat:
    """A tokenizer's way to write a conversation down.

    The template is filled with marks in place of what is said; its own text is encoded with its control tokens, and
    what is said by itself, as plain text that makes no added token, whatever it holds.

    Args:
        tokenizer: with a chat template or without.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer, self.plain = tokenizer, PlainText(tokenizer)

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """The conversation, up to where the model speaks.

        Raises:
            UserError: if the template leaves out what is said.
        """
        if not self.tokenizer.chat_template:
            return self._without_template(messages)
        parts = _PLACE.split(self._template(messages))  # text, number, text, …
        if {int(number) for number in parts[1::2]} != set(range(len(messages))):
            raise UserError("judge: the chat template of its model leaves out a turn; choose another model")
        found: list[int] = []
        for place, part in enumerate(parts):
            if place % 2:
                found += self.plain(messages[int(part)]["content"])
            elif part:
                found += self.tokenizer.encode(part, add_special_tokens=False)
        return found

    def spoken(self, text: str) -> list[int]:
        """A text as the next thing that the model says."""
        return self.plain(text if self.tokenizer.chat_template else f" {text}")

    def _template(self, messages: Sequence[Message]) -> str:
        from jinja2 import TemplateError

        turns = [{"role": one["role"], "content": _mark(place)} for place, one in enumerate(messages)]
        try:
            return self._filled(turns)
        except TemplateError:  # some templates know no system's turn
            if len(turns) < 2 or turns[0]["role"] != "system":
                raise
        merged = {"role": turns[1]["role"], "content": f"{turns[0]['content']}\n\n{turns[1]['content']}"}
        return self._filled([merged, *turns[2:]])

    def _filled(self, turns: list[dict[str, str]]) -> str:
        # Models that reason by themselves are asked for the answer: a thought has its own turn.
        return str(
            self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)
        )

    def _without_template(self, messages: Sequence[Message]) -> list[int]:
        found = [] if self.tokenizer.bos_token_id is None or not self._begins() else [int(self.tokenizer.bos_token_id)]
        for message in messages:
            said = message["role"] == "assistant"
            found += self.plain("Answer:") + self.spoken(message["content"]) if said else self.plain(message["content"])
            found += self.plain("\n\n")
        return found + self.plain("Answer:")

    def _begins(self) -> bool:
        """Whether the tokenizer puts its first token before every text."""
        return self.tokenizer.bos_token_id in self.tokenizer.encode("")


def _mark(place: int) -> str:
    return f"CONTENT-OF-TURN-{place}-ENDS"
