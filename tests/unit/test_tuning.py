"""Fair tuning: what is searched, what is refused, and that the same answers give the same questions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rft.config import choice, integers, loguniform
from rft.config.plugins import allowed_packages
from rft.config.search import Search
from rft.errors import TrainingDiverged, UserError
from rft.report.tuning import is_tuning_trial, read_tuning
from rft.study.asks import Asks
from rft.study.diverged import diverges_once, lost
from rft.study.study import StudySpec, plan
from rft.study.tuning import Arm, FairTuning, fair_tuning, with_overrides

SPACE: dict[str, Search] = {"lr": loguniform(1e-5, 1e-2), "steps": integers(1, 8), "kind": choice("a", "b")}


def asks(**more: Any) -> Asks:
    settings: dict[str, Any] = {"defaults": {}, "sampler": "tpe", "startup": 3, "seed": 0}
    return Asks(SPACE, **(settings | more))


def search(of: Asks, answer: Callable[[dict[str, Any]], float | None], rounds: int = 6) -> list[dict[str, Any]]:
    """What is asked in rounds of two, told in order."""
    asked: list[dict[str, Any]] = []
    for _ in range(rounds):
        pair = [of.ask(), of.ask()]
        for settings in pair:
            of.tell(len(asked), answer(settings))
            asked.append(settings)
    return asked


def near(settings: dict[str, Any]) -> float:
    return -abs(float(settings["lr"]) - 1e-3)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_answers_give_the_same_questions(sampler: str) -> None:
    assert search(asks(sampler=sampler), near) == search(asks(sampler=sampler), near)
    assert search(asks(sampler=sampler), near) != search(asks(sampler=sampler, seed=1), near)


def test_tpe_learns_from_answers_and_from_failures_and_random_does_not() -> None:
    def fails_high(settings: dict[str, Any]) -> float | None:
        return None if settings["lr"] > 1e-4 else 1.0

    assert search(asks(), near) != search(asks(), fails_high)
    assert search(asks(sampler="random"), near) == search(asks(sampler="random"), fails_high)
    late = search(asks(), fails_high, rounds=15)[-10:]
    assert sum(settings["lr"] > 1e-4 for settings in late) < 4  # two thirds of the range fail


def test_more_trials_begin_as_fewer_do() -> None:
    assert search(asks(), near, rounds=6)[:4] == search(asks(), near, rounds=2)


def test_what_is_drawn_lies_in_the_ranges_and_can_be_typed_in() -> None:
    for settings in search(asks(), near, rounds=10):
        assert all(SPACE[key].holds(value) for key, value in settings.items())
        assert float(f"{settings['lr']:.3g}") == settings["lr"]


def test_the_first_trial_takes_defaults_that_lie_in_the_ranges() -> None:
    asked = asks(defaults={"lr": 1.23456e-4, "steps": 99, "kind": "b"})
    first, second = asked.ask(), asked.ask()
    assert (first["lr"], first["kind"]) == (1.23456e-4, "b")
    assert 1 <= first["steps"] <= 8
    assert second["lr"] != first["lr"]


def spec(
    sweep: str = "fair_tuning", seeds: tuple[int, ...] = (0, 1), more: tuple[str, ...] = (), **arms: Any
) -> StudySpec:
    arms = arms or {"dpo": ["algorithm=dpo"], "ppo": ["algorithm=ppo"], "sft": ["algorithm=sft"]}
    return StudySpec(overrides=["model=tiny", *more], arms=arms, seeds=list(seeds), sweep=sweep)


def tuning(runs: Path, **how: Any) -> FairTuning:
    found = fair_tuning("s", spec(**how), runs)[1]
    assert found is not None
    return found


def test_all_arms_search_what_they_declare_and_do_not_fix(tmp_path: Path) -> None:
    one = tuning(tmp_path, a=["algorithm=ppo", "algorithm.kl_coef=0.2"], b=["algorithm=dpo"], c=["algorithm=best_of_n"])
    assert {name: set(arm.space) for name, arm in one.arms.items()} == {"a": {"lr", "critic_lr"}, "b": {"lr", "beta"}}
    assert one.untuned == {"c": "algorithm best_of_n declares no search range, so it runs as it is"}
    common = tuning(tmp_path, more=("algorithm.lr=1e-3",))
    assert {name: set(arm.space) for name, arm in common.arms.items()} == {
        "dpo": {"beta"},
        "ppo": {"critic_lr", "kl_coef"},
    }


def test_an_arm_with_nothing_left_to_search_is_warned_of(tmp_path: Path) -> None:
    one = tuning(tmp_path, a=["algorithm=raft", "algorithm.lr=1e-3"], b=["algorithm=dpo"])
    assert one.untuned == {"a": "warning: its overrides fix lr, so nothing is left to search"}
    with pytest.raises(UserError, match="there is nothing to tune: a: "):
        tuning(tmp_path, a=["algorithm=sft"])


def test_a_plugin_without_ranges_is_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bare_one").mkdir()
    (tmp_path / "bare_one" / "__init__.py").write_text(
        "from dataclasses import dataclass\nfrom rft.config.schemas import AlgorithmConfig\n"
        "@dataclass\nclass Config(AlgorithmConfig): ...\nclass It: ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RFT_ALLOWED_PACKAGES", "bare_one")
    allowed_packages.cache_clear()
    mine = ["algorithm=sft", "algorithm._target_=bare_one.It", "algorithm.name=mine"]
    one = tuning(tmp_path, mine=mine, dpo=["algorithm=dpo"])
    allowed_packages.cache_clear()
    assert one.untuned == {"mine": "warning: algorithm mine declares no search range, so it runs as it is"}


def test_tuning_trials_see_validation_alone_and_seeds_of_their_own(tmp_path: Path) -> None:
    one = tuning(tmp_path, more=("sweep.seeds=[7,8]",))
    final = plan("s", one.spec, tmp_path).trials
    for arm in one.arms.values():
        jobs = one.jobs(arm, 3, arm.asks.ask())
        assert [job.overrides[-1] for job in jobs] == ["seed=7", "seed=8"]
        for job in jobs:
            assert [o for o in job.overrides if "splits" in o] == ["evaluation.splits=[validation]"]
            assert is_tuning_trial((job.folder / "trial.json").relative_to(tmp_path / "s"))
    assert not any(is_tuning_trial((job.folder / "trial.json").relative_to(tmp_path / "s")) for job in final)
    assert not any("sweep" in override for job in final for override in job.overrides)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"more": ("sweep.seeds=[1,5]",)}, r"sweep\.seeds=\[1, 5\]: the study itself has seed 1"),
        ({"seeds": (1000,)}, "the study itself has seed 1000"),
        ({"more": ("sweep.seeds=[]",)}, "must be a list of different numbers"),
        ({"more": ("sweep.seeds=[5,5]",)}, "must be a list of different numbers"),
        ({"more": ("evaluation.splits=[test,validation]",)}, "validation is what tuning picks the winners by"),
        ({"more": ("sweep.ranges={lr:[1,0]}",)}, r"sweep\.ranges\.lr=\[1, 0\]: .* is empty"),
        ({"more": ("sweep.ranges={beta:[-1,1]}",)}, "begins above 0"),
        ({"more": ("sweep.ranges={clip:[0,1]}",)}, "no arm searches clip"),
        ({"more": ("sweep.trails=3",)}, "did you mean 'trials'"),
        ({"sweep": "none", "more": ("sweep.trials=3",)}, "there is no sweep to set; add sweep=fair_tuning"),
        ({"sweep": "fair"}, "sweep=fair: no such option"),
        ({"a": ["algorithm=dpo", "sweep.trials=99"]}, "tuning is the same for every arm"),
    ],
)
def test_what_would_not_be_fair_is_refused_in_one_line(tmp_path: Path, how: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        tuning(tmp_path, **how)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_study_without_a_sweep_is_as_it_was(tmp_path: Path) -> None:
    plain = spec(sweep="none")
    assert fair_tuning("s", plain, tmp_path) == (plain, None)
    assert fair_tuning("s", spec(more=("sweep.trials=0",)), tmp_path)[1] is None


def test_overrides_of_the_command_line_stand_in_for_the_studys(tmp_path: Path) -> None:
    more = with_overrides(spec(more=("sweep.trials=3",)), ["sweep.trials=5", "sweep.ranges={lr:[1e-6,1e-5]}"])
    assert more.overrides == ["model=tiny", "sweep.trials=5", "sweep.ranges={lr:[1e-6,1e-5]}"]
    kept, one = fair_tuning("s", more, tmp_path)
    assert one is not None
    assert (one.config.trials, kept.overrides) == (5, ["model=tiny"])
    assert {arm.space["lr"] for arm in one.arms.values()} == {loguniform(1e-6, 1e-5)}
    assert fair_tuning("s", with_overrides(more, ["sweep=none"]), tmp_path)[1] is None


def told(*values: float | None) -> Arm:
    arm = Arm("dpo", "dpo", (), SPACE, asks(), forks=False)
    for number, value in enumerate(values):
        seeds = [{"seed": 7, "value": value, "error": None if value else "diverged", "stages": paid(number)}]
        arm.trials.append({"number": number, "settings": {"lr": number}, "value": value, "seed": 7, "seeds": seeds})
    return arm


def paid(number: int) -> dict[str, Any]:
    """Results of a trial: the first two have the same."""
    return {
        "policy": {"key": f"p{max(number, 1)}", "seconds": 2.0},
        "evaluation": {"key": f"e{number}", "seconds": 1.0},
    }


def test_the_best_so_far_never_falls_and_failures_count() -> None:
    arm = told(None, 0.2, 0.1, None, 0.5, 0.5)
    assert arm.best_so_far == [None, 0.2, 0.2, 0.2, 0.5, 0.5]
    assert arm.winner is not None
    assert arm.winner["number"] == 4
    assert told(None, None).winner is None


def test_the_report_reads_what_tuning_wrote_if_the_arms_run_with_it(tmp_path: Path) -> None:
    one = tuning(tmp_path)
    one._write(told(0.1, 0.3, 0.2))
    found = read_tuning(tmp_path / "s", {"dpo": {"algorithm": {"lr": 1, "beta": 3}}, "sft": {}})
    assert found is not None
    assert (found["budget"], found["objective"], found["split"]) == (16, "gold", "validation")
    assert found["arms"]["dpo"]["best_so_far"] == [0.1, 0.3, 0.3]
    assert found["arms"]["dpo"]["winner"] == {"lr": 1}
    assert [t["value"] for t in found["arms"]["dpo"]["trials"]] == [0.1, 0.3, 0.2]
    assert found["cost"] == {"dpo": {"seconds": 2 * 2.0 + 3 * 1.0}}
    assert read_tuning(tmp_path / "s", {"dpo": {"algorithm": {"lr": 0}}}) is None
    assert read_tuning(tmp_path / "elsewhere", {}) is None


def test_an_arm_called_tuning_is_an_arm() -> None:
    assert not is_tuning_trial(Path("tuning/seed-0/trial.json"))
    assert is_tuning_trial(Path("tuning/tuning/trial-000/seed-0/trial.json"))


def test_what_diverged_is_not_trained_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    @diverges_once(tmp_path / "checkpoints" / "abc")
    def make(out: Path | None) -> dict[str, Any]:
        calls.append(out)
        raise TrainingDiverged("the loss is nan")

    for _ in range(2):
        with pytest.raises(TrainingDiverged, match=r"^the loss is nan$"):
            make(tmp_path)
    assert len(calls) == 1
    assert "diverged before" in capsys.readouterr().err
    assert list(lost(tmp_path)) == ["abc"]

    @diverges_once(tmp_path / "checkpoints" / "other")
    def well(out: Path | None) -> dict[str, Any]:
        return {"out": out}

    assert well(None) == well(None) == {"out": None}
    assert json.loads((tmp_path / "checkpoints" / "abc.diverged").read_text())["seconds"] >= 0
