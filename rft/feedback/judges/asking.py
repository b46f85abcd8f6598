"""Judges that ask a language model: a form (how it is asked) and a backend (who answers)."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from string import ascii_uppercase
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rft.config import number
from rft.errors import UserError
from rft.feedback.base import Answer, Work, check_pairs
from rft.feedback.judges.asked import Asked, readable, to_lists, work_of
from rft.feedback.judges.base import Comparisons, Judge, Verdicts, compare_scores
from rft.feedback.judges.cache import KeptVerdicts
from rft.feedback.judges.fitting import misfit
from rft.feedback.judges.prompts import Prompts, Question, defused
from rft.feedback.judges.reading import stated_before_cut
from rft.feedback.judges.request import Backend, Reply, Request
from rft.progress import bar
from rft.store.names import ORDERS

if TYPE_CHECKING:
    from numpy.typing import NDArray


class FormEnum(str, Enum):
    """How many responses a question is about."""

    pointwise = "pointwise"
    pairwise = "pairwise"
    listwise = "listwise"


class AnswersEnum(str, Enum):
    """How a verdict is read."""

    logprobs = "logprobs"
    generated = "generated"


class PrincipleEnum(str, Enum):
    """Which principles of the constitution a question holds."""

    drawn = "drawn"
    all = "all"


@dataclass
class AskingConfig:
    """Settings of `AskedJudge`, whoever answers."""

    form: FormEnum = FormEnum.pairwise
    """pointwise: a score for each response. pairwise: which of two, always in both orders. listwise: all responses to
    a prompt that are compared, ranked at once, in two orders."""
    answers: AnswersEnum = AnswersEnum.logprobs
    """logprobs: log-probabilities of the options as the next thing said. generated: a verdict read from the text."""
    setting: str = "Each response continues the opening of a film review."
    """What prompts and responses are, a sentence; may be empty."""
    criterion: str = "positive about the film"
    """What is asked: how, which is more, which is most … ."""
    options: list[str] = field(default_factory=lambda: ["1", "2", "3", "4", "5"])
    """The scale of form=pointwise, from worst to best, at least 2: numbers in rising order, or with answers=logprobs
    any words, which then count 1, 2, …. Two options and logprobs: the score is the log-odds of the last."""
    principles: list[str] = field(default_factory=list)
    """A constitution: sentences that the judge is to go by (Bai et al. 2022, arXiv 2212.08073); none if empty."""
    principle: PrincipleEnum = PrincipleEnum.drawn
    """drawn: one for each comparison (pointwise: each response), by its content and `seed`. all: all of them."""
    chain_of_thought: bool = False
    """Think in writing before the verdict (Lee et al. 2023, arXiv 2309.00267)."""
    shots: list[dict[str, Any]] = field(default_factory=list)
    """Examples, each with `verdict`, if wanted `prompt` and `thought`, and by form: pointwise `response`; pairwise
    `first` and `second`, verdict A or B; listwise `responses`, a list, verdict such as B > A > C."""
    list_size: int = number(8, at_least=2, at_most=26)
    """Responses ranked at once with form=listwise, 2 to 26; more to one prompt are ranked in several lists."""
    max_tokens: int = number(256, at_least=1)
    """Tokens that may be written for a thought or a generated verdict, at least 1."""
    max_characters: int = number(2000, at_least=1)
    """Characters of a prompt, and of a response, that the judge reads, at least 1; what follows is cut."""
    temperature: float = number(0.0, at_least=0)
    """Of what is written, at least 0; 0 takes the most likely token. Log-probabilities are taken at 1."""
    seed: int = number(0, at_least=0)
    """Of the principles drawn and of the text sampled, at least 0."""

    def conflict(self) -> str | None:
        """What does not fit and how to mend it, from the key on; None if all fits."""
        from rft.feedback.judges import fitting  # here: settings are read without the imports above

        return fitting.misfit(self)


class AskedJudge(Judge):
    """A judge in one of three forms that puts its questions to a backend.

    An option extends it: its ``Config`` extends `AskingConfig`, and its constructor makes the backend and gives it on.
    Pointwise, with log-probabilities renormalised over the options: score = Σ s·p(s) (Lee et al. 2023, arXiv
    2309.00267, direct scoring), or of two options log p(last) − log p(first). Pairwise: P(first is better) = p(A) where
    it is shown as A, p(B) where it is shown as B; generated, 1, 0, or ½ for a tie. Listwise: 1, 0 or ½ by the ranks in
    the order given and in the reversed one. An answer that cannot be read is asked for once more, then excluded. What
    an earlier stage could not read is asked for anew: server or model may be mended.

    Args:
        config: how it is asked.
        backend: who answers.
        verdicts: where answers are looked for first and kept as they come.

    Raises:
        UserError: for settings that do not fit together.
    """

    needs = frozenset({"verdicts"})

    def __init__(self, config: AskingConfig, backend: Backend, verdicts: KeptVerdicts) -> None:
        if told := misfit(config):
            raise UserError(f"judge.{told}")
        self.config, self.backend, self.verdicts = config, backend, verdicts
        self.prompts = Prompts(config)
        self._again = 0
        self._list_size = config.list_size

    def asked_again(self, times: int = 1) -> Self:
        """This judge asked anew: it finds none of what it answered before, but what it did at the same `times`."""
        other = copy.copy(self)
        other._again = self._again + times
        return other

    def pair_by_pair(self) -> Self:
        """This judge; listwise, with a list of its own for each pair."""
        other = copy.copy(self)
        other._list_size = 2
        return other

    @classmethod
    def scores_alone(cls, config: Any) -> bool:
        """Whether its form is pointwise."""
        return bool(config.form == FormEnum.pointwise)

    def score(self, answers: Sequence[Answer]) -> Verdicts:
        """See the base class. Raw answers: ``{"logprobs": {…}}`` or ``{"text": …}``, with what else was said."""
        if not self.one_by_one:
            return super().score(answers)
        questions = [self.prompts.pointwise(answer) for answer in answers]
        found, work = self._answers(questions)
        scores = np.array([one.score() for one in found], dtype=np.float64)
        return Verdicts(scores, [one.raw() for one in found], work)

    def compare(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        """See the base class. Raw answers: as of single ones, for both orders: ``{"shown_first": …, …}``."""
        if self.one_by_one:
            return compare_scores(self.score, answers, pairs)
        check_pairs(answers, pairs)
        return self._ranked(answers, pairs) if self.config.form == FormEnum.listwise else self._paired(answers, pairs)

    def reads_whole(self, answers: Sequence[Answer]) -> list[bool]:
        """See the base class."""
        return [len(answer.text) <= self.config.max_characters for answer in answers]

    def write(self, requests: Sequence[str], max_tokens: int, *, anew: bool = False) -> tuple[list[str], Work]:
        """See the base class. An empty text is an answer too."""
        asked = {
            text: Request(({"role": "user", "content": defused(text)},), (), max_tokens, 2 * self._again)
            for text in requests
        }
        replies = self._replies(list(asked.values()), "Writing", anew=anew)
        texts = {text: reply.text for text, (reply, _) in zip(asked, replies, strict=True)}
        return [texts[text] for text in requests], work_of([[one] for one in replies])

    def _paired(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        shown = [(answers[a], answers[b]) for a, b in pairs.tolist()]
        questions = [self.prompts.pairwise(*pair) for pair in shown]
        questions += [self.prompts.pairwise(*pair[::-1]) for pair in shown]
        found, work = self._answers(questions)
        first, second = found[: len(pairs)], found[len(pairs) :]
        orders = np.array([[a.first(), 1 - b.first()] for a, b in zip(first, second, strict=True)], dtype=np.float64)
        raw: list[Mapping[str, Any]] = [
            {ORDERS[0]: a.raw(), ORDERS[1]: b.raw()} for a, b in zip(first, second, strict=True)
        ]
        return Comparisons(orders.reshape(-1, 2), raw, work)

    def _ranked(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        lists = to_lists(answers, pairs, self._list_size)
        questions = [self.prompts.listwise([answers[i] for i in one.rows]) for one in lists]
        questions += [self.prompts.listwise([answers[i] for i in one.rows[::-1]]) for one in lists]
        found, work = self._answers(questions)
        orders = np.full((len(pairs), 2), 0.5)  # of a text with itself, which is in no list
        raw: list[Mapping[str, Any]] = [{"same": True}] * len(pairs)
        for one, given, turned in zip(lists, found[: len(lists)], found[len(lists) :], strict=True):
            for m, (a, b) in one.places.items():
                mirrored = (len(one.rows) - 1 - a, len(one.rows) - 1 - b)
                two = [(given, (a, b)), (turned, mirrored)] if a < b else [(turned, mirrored), (given, (a, b))]
                orders[m] = [answer.ranked(*places) for answer, places in two]
                raw[m] = {
                    order: answer.raw() | {"first": ascii_uppercase[x], "second": ascii_uppercase[y]}
                    for order, (answer, (x, y)) in zip(ORDERS, two, strict=True)
                }
        return Comparisons(orders, raw, work)

    def _answers(self, questions: Sequence[Question]) -> tuple[list[Asked], Work]:
        """Each question's answer, with what it took; the same question is put once."""
        asked = {question.key: Asked(question) for question in questions}
        self._decide(list(asked.values()))
        stale = [key for key, one in asked.items() if one.value is None and all(kept for _, kept in one.replies)]
        anew = {key: Asked(asked[key].question) for key in stale}
        self._decide(list(anew.values()), anew=True)
        asked |= anew
        everything = list(asked.values())
        work = work_of([one.replies for one in everything])
        retried = sum(one.asked > 1 for one in everything)
        excluded = sum(one.value is None for one in everything)
        return [asked[question.key] for question in questions], replace(work, retried=retried, excluded=excluded)

    def _decide(self, asked: Sequence[Asked], *, anew: bool = False) -> None:
        """Ask for the verdicts, and once more for those that cannot be read; `anew` as of `_replies`."""
        attempt = 2 * self._again
        if self.config.chain_of_thought and self.config.answers == AnswersEnum.logprobs:
            requests = [self.prompts.thinking(one.question, attempt) for one in asked]
            for one, said in zip(asked, self._replies(requests, "Thinking", anew=anew), strict=True):
                one.thought = said[0].text
                one.replies.append(said)
        self._ask(asked, attempt, anew=anew)
        self._ask([one for one in asked if one.value is None and not one.refused], attempt + 1, anew=anew)

    def _ask(self, asked: Sequence[Asked], attempt: int, *, anew: bool) -> None:
        requests = [self.prompts.verdict(one.question, one.thought, attempt) for one in asked]
        replies = self._replies(requests, "Judging again" if attempt % 2 else "Judging", anew=anew)
        marked = self.config.chain_of_thought
        for one, said in zip(asked, replies, strict=True):
            one.asked += 1
            one.replies.append(said)
            if self.config.answers == AnswersEnum.generated:
                whole = stated_before_cut(said[0].text, marked) if said[0].cut else said[0].text
                one.value = self.prompts.read(one.question, whole)
            else:
                options = len(one.question.labels)
                one.value = readable(said[0].logprobs, options, finite=self.one_by_one and options == 2)

    def _replies(self, requests: Sequence[Request], doing: str, *, anew: bool = False) -> list[tuple[Reply, bool]]:
        """Each request's reply and whether it was kept from before; new ones are kept as they come.

        With `anew` what an earlier stage kept is asked for again, and the new reply takes its place.
        """
        asked = [(self.backend.identity(request), request) for request in requests]
        found = self.verdicts.find_many(asked, own=anew)
        older = self.verdicts.find_many(asked) if anew else found
        missing = [i for i, reply in enumerate(found) if reply is None]
        fresh: dict[int, Reply] = {}
        if missing:
            with self.place.told(), bar(doing, total=len(missing)) as progress:
                for place, reply in self.backend.answer([requests[i] for i in missing]):
                    identity, request = asked[missing[place]]
                    stale = older[missing[place]]
                    if stale is None:
                        self.verdicts.keep(identity, request, reply)
                    elif not reply.refused:
                        self.verdicts.replace(identity, request, stale, reply)
                    fresh[missing[place]] = reply
                    progress.advance()
        return [(fresh[i], False) if reply is None else (reply, True) for i, reply in enumerate(found)]
