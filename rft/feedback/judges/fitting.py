"""Whether the settings of a judge that asks fit together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rft.errors import UserError
from rft.feedback.judges.prompts import Prompts, is_scale

if TYPE_CHECKING:
    from rft.feedback.judges.asking import AskingConfig


def misfit(config: AskingConfig) -> str | None:
    """What does not fit and how to mend it, from the key on; None if all fits."""
    options, generated = list(config.options), config.answers == "generated"
    if not all(isinstance(option, str) for option in options):  # a list of lists passes OmegaConf's check
        return f"options is {options}: holds what is no text: give numbers or words, as in judge.options=[1,2,3]"
    if config.form == "listwise" and not generated:
        return "form=listwise is read from text: set judge.answers=generated"
    if len(set(options)) < max(2, len(options)) or not all(option.strip() for option in options):
        return f"options is {options}: give at least 2 different ones, none of them blank"
    if config.form == "pointwise" and generated and not is_scale(options):
        return (
            f"options is {options}: with judge.answers=generated give numbers in rising order, or set "
            "judge.answers=logprobs"
        )
    if not config.criterion.strip():
        return "criterion is empty: say what is asked for, such as 'positive about the film'"
    principles: list[Any] = list(config.principles)  # OmegaConf lets a mapping pass for text
    for place, principle in enumerate(principles):
        if not isinstance(principle, str):
            return f"principles[{place}] is no text: YAML reads `word: …` as a key with a value; put it in quotes"
        if not principle.strip():
            return f"principles[{place}] is empty: write it, or take it out"
    try:
        Prompts(config)
    except UserError as error:  # an example that is none
        return str(error).removeprefix("judge.")
    return None


def ambiguous(config: AskingConfig) -> str | None:
    """As `misfit`, where one token is read and nobody knows the tokeniser: an option may be told by its first token."""
    if config.form != "pointwise" or config.answers != "logprobs":
        return None
    if (two := beginning(list(config.options))) is None:
        return None
    return (
        f"options is {list(config.options)}: {two[0]!r} is the beginning of {two[1]!r}, and of a model that writes "
        "digit by digit the same token; set judge.answers=generated, or give a scale to 9"
    )


def beginning(options: Sequence[str]) -> tuple[str, str] | None:
    """The first option that another one begins with but for blanks around them, and that one; None if there is none."""
    bare = [option.strip() for option in options]
    for i, short in enumerate(bare):
        for j, long in enumerate(bare):
            if i != j and long.startswith(short):
                return short, long
    return None
