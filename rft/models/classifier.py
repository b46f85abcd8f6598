"""A sequence classifier that exists already, as a scorer of texts. Dimensions: ``B`` texts, ``C`` labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rft.errors import UserError, nearest
from rft.models.pretrained import Pretrained

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class PretrainedClassifier(Pretrained):
    """A folder or hub id of a sequence classifier in safetensors, kept in the store as it is; no code comes with it."""

    def _identity(self) -> dict[str, Any]:
        return {**super()._identity(), "head": "sequence classification"}

    def _from_path(self, out: Path) -> dict[str, Any]:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()  # what it would warn of, a head that is not there, is refused below
        where: dict[str, Any] = {"revision": self.config.revision, "trust_remote_code": False}
        path = str(self.config.path)
        try:
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                path, dtype="auto", use_safetensors=True, output_loading_info=True, **where
            )
            tokenizer = AutoTokenizer.from_pretrained(path, **where)
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self.key}.path={path}: {str(error).splitlines()[0]}; give a folder or hub id of a sequence "
                "classifier with safetensors"
            ) from error
        finally:
            logging.set_verbosity(verbosity)
        if missing := sorted(loaded["missing_keys"]):
            raise UserError(
                f"{self.key}.path={path}: has no weights for {', '.join(missing[:3])}: it is no sequence classifier "
                "that was trained; give one"
            )
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return {"parameters": sum(p.numel() for p in model.parameters())}


@dataclass(frozen=True, slots=True)
class Label:
    """Which logits make the score: `index`, and minus `other` if there are two labels."""

    index: int
    other: int | None = None

    @classmethod
    def of(cls, labels: Mapping[str, int], positive: str | None) -> Label:
        """The label that counts.

        Args:
            labels: place of each label's logit, by name.
            positive: the label whose log-odds are the score, of two; None if there is one.

        Raises:
            UserError: if there are more than two, or `positive` is wanted, not wanted or not among them.
        """
        names = ", ".join(labels)
        if len(labels) == 1:
            if positive is not None:
                raise UserError(f"judge.positive={positive}: the model has one score, not labels; leave it out")
            return cls(next(iter(labels.values())))
        if len(labels) != 2:
            raise UserError(f"judge.path: the model has {len(labels)} labels ({names}); give one with one or two")
        if positive is None:
            raise UserError(f"judge.positive: the model has two labels, {names}; name the one that is good")
        if positive not in labels:
            raise UserError(
                f"judge.positive={positive}: the model has no such label; {nearest(positive, list(labels))}"
            )
        return cls(labels[positive], next(place for name, place in labels.items() if name != positive))


class Classifier:
    """Scores of prompts with their responses, in evaluation mode.

    One label: its logit. Two: log p(positive) − log p(other), the difference of their logits. The text is the
    conversation (user: prompt, assistant: response) by the tokenizer's chat template; without one prompt and response
    as one text, with the tokenizer's own special tokens.
    """

    def __init__(self, folder: Path, positive: str | None, max_tokens: int, dtype: torch.dtype) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        where: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
        self.model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(folder, dtype=dtype, **where)
        self.model.eval()
        self.tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, **where)
        labels = self.model.config.id2label or {}
        self.label = Label.of({str(name): int(place) for place, name in labels.items()}, positive)
        longest = (self.tokenizer.model_max_length, getattr(self.model.config, "max_position_embeddings", None))
        self.max_tokens = int(min(max_tokens, *(n for n in longest if n)))

    def encode(self, prompt: str, response: str) -> list[int]:
        """The tokens that are read, cut after `max_tokens`; of an empty text one special token, if need be."""
        cut: dict[str, Any] = {"truncation": True, "max_length": self.max_tokens}
        if self.tokenizer.chat_template:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            ids = list(self.tokenizer.apply_chat_template(turns, tokenize=True, return_dict=False, **cut))
        else:
            ids = list(self.tokenizer(prompt + response, **cut)["input_ids"])
        special = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id, self.tokenizer.pad_token_id, 0)
        return ids or [next(token for token in special if token is not None)]

    def length(self, row: list[int]) -> int:
        """Tokens of a row."""
        return len(row)

    def score(self, rows: Sequence[list[int]]) -> Tensor:
        """Shape [B], float32 on the CPU; without gradient."""
        import torch

        lengths, pad = torch.tensor([len(row) for row in rows]), self._pad(rows)
        ids = torch.full((len(rows), int(lengths.max())), pad)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        device = next(self.model.parameters()).device
        own = self.model.config.pad_token_id
        self.model.config.pad_token_id = pad
        try:
            with torch.inference_mode():
                logits = self.model(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits
        finally:
            self.model.config.pad_token_id = own
        logits_BC = logits.float().cpu()
        score: Tensor = logits_BC[:, self.label.index]
        return score if self.label.other is None else score - logits_BC[:, self.label.other]

    def _pad(self, rows: Sequence[list[int]]) -> int:
        """The model's own, or a token that stands in no row.

        A decoder reads its score at the last token that is not this one: were it a token of a text, that text's score
        would be read too early.
        """
        own = self.model.config.pad_token_id
        if own is not None:
            return int(own)
        used = {token for row in rows for token in row}
        return next(token for token in range(len(used) + 1) if token not in used)
