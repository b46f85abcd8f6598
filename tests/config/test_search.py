"""Search ranges: declared beside defaults, kept by subclasses, checked against the field that they are of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from rft.config import choice, compose, integers, loguniform, number, searched, uniform
from rft.config.build import split_target
from rft.config.extract import config_class
from rft.config.options import options, read_option
from rft.config.overrides import keys_of, overridden, written
from rft.config.plugins import allowed_packages
from rft.config.ranges import out_of_range
from rft.config.search import Range, narrowed, search_space
from rft.errors import UserError

OURS = {
    option.name: config_class(split_target(str(read_option(option.path)["_target_"]))[0])
    for option in options()
    if option.group == "algorithm" and option.plugin is None
}
UNTRAINED = {"sft", "best_of_n"}


@dataclass
class Base:
    rate: float = number(0.5, above=0, at_most=1, search=loguniform(0.1, 1.0))
    count: int = number(2, at_least=1, search=integers(1, 8))
    kind: bool = searched(False, choice(True, False))
    free: float = 0.0


@dataclass
class OtherDefault(Base):
    rate: float = 0.2


@dataclass
class OtherRange(Base):
    rate: float = number(0.2, search=uniform(0.2, 0.4))


def test_a_space_is_what_the_fields_declare() -> None:
    assert search_space(Base) == {
        "rate": loguniform(0.1, 1.0),
        "count": integers(1, 8),
        "kind": choice(True, False),
    }


def test_a_default_declared_anew_keeps_the_range_and_a_range_declared_anew_the_limits() -> None:
    assert search_space(OtherDefault) == search_space(Base)
    assert search_space(OtherRange)["rate"] == uniform(0.2, 0.4)
    assert out_of_range(OtherRange, "rate", 2.0) == "above 0 and at most 1"


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_algorithm_that_trains_searches_its_learning_rate_around_its_default(name: str) -> None:
    space = search_space(OURS[name])
    assert ("lr" in space) == (name not in UNTRAINED)
    defaults = OmegaConf.structured(OURS[name])
    outside = [key for key, search in space.items() if not search.holds(defaults[key])]
    assert outside == []
    assert len(space) <= 3


def test_learning_rates_are_searched_equally_wide_for_all() -> None:
    widths = set()
    for name in set(OURS) - UNTRAINED:
        search = search_space(OURS[name])["lr"]
        assert isinstance(search, Range)
        assert search.log
        widths.add(math.log10(search.high / search.low))
    assert widths == {2.0}


def bad(default: Any, annotation: type, **how: Any) -> type[Any]:
    """A dataclass with one field."""
    made: type[Any] = type("Config", (), {"__annotations__": {"x": annotation}, "x": number(default, **how)})
    return dataclass(made)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        (bad(1.0, float, above=0, search=uniform(0.0, 1.0)), "Config.x: search range 0 to 1: 0.0 must be above 0"),
        (bad(1.0, float, at_most=1, search=uniform(0.5, 2.0)), "2.0 must be at most 1; narrow it"),
        (bad(1, int, search=uniform(0.5, 2.5)), "give values of the field's type"),
        (bad(1, int, search=choice("a", "b")), "give values of the field's type"),
        (bad(1.0, float, search=(0, 1)), "is no search range; write uniform"),
    ],
)
def test_a_range_that_its_field_does_not_take_is_refused(config: type[Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        search_space(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: uniform(1, 1), "is empty"),
        (lambda: loguniform(0, 1), "begins above 0"),
        (lambda: loguniform(2, 1), "is empty"),
        (lambda: choice(1), "two different values"),
        (lambda: choice(1, 1, 2), "two different values"),
        (lambda: narrowed(uniform(0, 1), [1]), "two ends"),
        (lambda: narrowed(uniform(0, 1), ["a", 1]), "two ends"),
    ],
)
def test_a_range_that_is_none_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_ranges_can_be_given_anew() -> None:
    assert narrowed(loguniform(1, 10), [2, 3]) == loguniform(2, 3)
    assert narrowed(choice("a", "b"), ["a", "c"]) == choice("a", "c")


def test_a_bad_range_in_a_plugins_source_is_refused_when_composing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "odd_range"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "it.py").write_text(
        "import torch_that_is_not_there\n"
        "from dataclasses import dataclass\n"
        "from rft.config import loguniform, number\n"
        "from rft.config.schemas import AlgorithmConfig\n"
        "@dataclass\nclass Config(AlgorithmConfig):\n"
        "    weight: float = number(0.5, at_most=1, search=loguniform(0.1, 10))\n"
        "class It: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RFT_ALLOWED_PACKAGES", "odd_range")
    allowed_packages.cache_clear()
    with pytest.raises(UserError, match=r"odd_range\.it: Config\.weight: search range 0\.1 to 10, logarithmic: 10\.0"):
        compose(["algorithm=sft", "algorithm._target_=odd_range.it.It"])
    allowed_packages.cache_clear()


def test_overrides_are_read_and_written_as_hydra_does() -> None:
    values = {"a": 1e-05, "b": True, "c": None, "d": "it's", "e": 3}
    cfg = OmegaConf.create(dict.fromkeys(values))
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for key, value in values.items():
        parsed = OverridesParser.create().parse_override(f"{key}={written(value)}")
        cfg[parsed.key_or_group] = parsed.value()
    assert OmegaConf.to_container(cfg) == values
    assert keys_of(["+a.b=1", "~c", "model=tiny"]) == [("+a.b=1", "a.b"), ("~c", "c"), ("model=tiny", "model")]
    assert overridden(["a=1", "model=tiny", "b=2"], ["model=hf", "c=3"]) == ["a=1", "b=2", "model=hf", "c=3"]
    with pytest.raises(UserError, match="bogus: is no override"):
        keys_of(["bogus"])
