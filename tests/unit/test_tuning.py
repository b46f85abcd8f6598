"""Fair tuning: what is searched, what is refused, and that the same answers give the same questions."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig
from rich.console import Console

from rft import __version__
from rft.budget import RESOURCES
from rft.config import choice, compose, integers, loguniform
from rft.config.plugins import allowed_packages
from rft.config.schemas import Replicate
from rft.config.search import Search
from rft.errors import TrainingDiverged, UserError
from rft.report.tuning import is_tuning_trial, read_tuning
from rft.store import Store
from rft.study.asks import Asks
from rft.study.diverged import SUFFIX, diverges_once, lost
from rft.study.jobs import Job
from rft.study.launch import Launcher
from rft.study.replicate import DRAWN, is_pipeline, with_own_draws
from rft.study.standing import standing
from rft.study.study import StudySpec, plan
from rft.study.tuned import kept
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
    sweep: str = "fair_tuning",
    seeds: tuple[int, ...] = (0, 1),
    more: tuple[str, ...] = (),
    replicate: str = "policy",
    **arms: Any,
) -> StudySpec:
    arms = arms or {"dpo": ["algorithm=dpo"], "ppo": ["algorithm=ppo"], "sft": ["algorithm=sft"]}
    common, repeated = ["model=tiny", *more], Replicate(replicate)
    return StudySpec(overrides=common, arms=arms, seeds=list(seeds), sweep=sweep, replicate=repeated)


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
        "policy": {"key": f"p{max(number, 1)}", "seconds": 2.5, "used": {"seconds": 2.0, "labels": 5.0}},
        "evaluation": {"key": f"e{number}", "seconds": 1.0},
    }


def test_the_best_so_far_never_falls_and_failures_count() -> None:
    arm = told(None, 0.2, 0.1, None, 0.5, 0.5)
    assert arm.best_so_far == [None, 0.2, 0.2, 0.2, 0.5, 0.5]
    assert arm.winner is not None
    assert arm.winner["number"] == 4
    assert told(None, None).winner is None


def test_the_report_reads_what_tuning_wrote_if_the_arms_run_with_it(tmp_path: Path) -> None:
    one = tuning(tmp_path, more=("sweep.trials=3",))
    one._write(told(0.1, 0.3, 0.2))
    found = read_tuning(tmp_path / "s", {"dpo": {"algorithm": {"lr": 1, "beta": 3}}, "sft": {}})
    assert found is not None
    assert (found["budget"], found["objective"], found["split"]) == (3, "gold", "validation")
    assert found["arms"]["dpo"]["best_so_far"] == [0.1, 0.3, 0.3]
    assert found["arms"]["dpo"]["winner"] == {"lr": 1}
    assert [t["value"] for t in found["arms"]["dpo"]["trials"]] == [0.1, 0.3, 0.2]
    assert found["cost"] == {"dpo": dict.fromkeys(RESOURCES, 0.0) | {"seconds": 2 * 2.0, "labels": 2 * 5.0}}
    assert read_tuning(tmp_path / "s", {"dpo": {"algorithm": {"lr": 0}}}) is None
    assert read_tuning(tmp_path / "s", {"dpo": {"algorithm": {"lr": 1}}}, tuned=["ppo"]) is None
    assert read_tuning(tmp_path / "elsewhere", {}) is None


def test_tuning_that_did_not_end_is_not_reported(tmp_path: Path) -> None:
    one = tuning(tmp_path, more=("sweep.trials=3",))
    one._write(told(0.1, 0.3))
    assert read_tuning(tmp_path / "s", {"dpo": {"algorithm": {"lr": 1}}}) is None


class Quick(Launcher):
    """Leaves in the store and in the folders what trials leave there, without training any.

    Trials of one arm and seed have one policy, whatever their settings.
    """

    def __init__(self, store: Store, diverging: Sequence[str] = ()) -> None:
        super().__init__(Console(file=io.StringIO()))
        self.store, self.diverging = store, diverging

    def run(
        self, jobs: Sequence[Job], at_once: int, title: str, *, before: int = 0, total: int | None = None
    ) -> dict[str, str]:
        return {job.name: "the loss is nan" for job in jobs if not self.finish(job, compose(job.overrides))}

    def finish(self, job: Job, cfg: DictConfig) -> bool:
        fails = str(cfg.algorithm.name) in self.diverging
        usage = {"prompts": 8, "trained_tokens": 100, "flops": 1e6, "labels": 4, "human_labels": 3, "judge_tokens": 1e6}
        cost = {"seconds_training": 7.0, "device_seconds": 1800.0}
        stages = {"sft": self.stage("sft", {}), "questions": self.stage("questions", {})}
        if fails:
            marker = job.folder / "checkpoints" / f"abc{SUFFIX}"
            marker.parent.mkdir(parents=True, exist_ok=True)
            marker.write_text(
                json.dumps({"error": "the loss is nan", "seconds": 3.5, "version": __version__}), encoding="utf-8"
            )
        else:
            policy = {"algorithm": str(cfg.algorithm.name), "seed": int(cfg.seed)}
            stages["policy"] = self.stage("policy", {"usage": usage, "cost": cost}, **policy)
            gold = {"eval/validation/gold": 1 / (1 + float(cfg.algorithm.lr))}
            stages["evaluation"] = self.stage("evaluation", gold, job=job.name)
        record = {"config": {"budget": {"prices": dict(cfg.budget.prices)}}, "stages": stages}
        record |= {} if fails else {"evaluation": stages["evaluation"]["key"]}
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / "trial.json").write_text(json.dumps(record), encoding="utf-8")
        return not fails

    def stage(self, name: str, metrics: dict[str, Any], **config: Any) -> dict[str, Any]:
        def build(folder: Path) -> dict[str, Any]:
            (folder / "result.txt").write_text(name)
            return dict(metrics)

        entry = self.store.get_or_compute(name, version=1, config=config, inputs={}, build=build)
        return {"key": entry.key, "digest": entry.digest, "seconds": 9.0, "computed": True}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("RFT_STORE", str(tmp_path / "store"))
    return Store.default()


def test_tuning_trials_test_no_points_of_training(tmp_path: Path) -> None:
    one = tuning(tmp_path, more=("evaluation.checkpoints=5",))
    (job,) = one.jobs(one.arms["dpo"], 0, {})
    assert compose(job.overrides).evaluation.checkpoints == 0
    assert compose(plan("s", one.spec, tmp_path).trials[0].overrides).evaluation.checkpoints == 5


@pytest.mark.parametrize(
    "how",
    [
        {"replicate": "pipeline"},
        {"more": ("replicate=pipeline",)},
        {"dpo": ["algorithm=dpo", "replicate=pipeline"]},
    ],
)
def test_what_a_seed_repeats_it_repeats_in_tuning_and_in_the_winners_trials(
    tmp_path: Path, store: Store, how: dict[str, Any]
) -> None:
    one = tuning(tmp_path, **({"dpo": ["algorithm=dpo"]} | how | {"more": (*how.get("more", ()), "sweep.trials=1")}))
    (job,) = one.jobs(one.arms["dpo"], 0, {})
    cfg = compose(job.overrides)
    drawn = with_own_draws(cfg)
    seeded = [name for name in DRAWN if "seed" in cfg[name]]
    assert {"candidates", "feedback", "reward"} <= set(seeded)
    assert all(drawn[name].seed == cfg[name].seed + 1000 for name in seeded)
    trials, _ = one.run(Quick(store), 1)
    assert [is_pipeline(compose(trial.overrides)) for trial in trials] == [True, True]


def test_what_tuning_found_for_arms_that_are_not_tuned_now_stays_there_and_is_not_told(
    tmp_path: Path, store: Store
) -> None:
    both = tuning(tmp_path, more=("sweep.trials=2",), dpo=["algorithm=dpo"], ppo=["algorithm=ppo"])
    both.run(Quick(store), 1)
    files = {arm: tmp_path / "s" / "tuning" / f"{arm}.json" for arm in ("dpo", "ppo")}
    before = {arm: file.read_bytes() for arm, file in files.items()}
    part = tuning(tmp_path, more=("sweep.trials=3",), dpo=["algorithm=dpo"])
    part.run(Quick(store), 1)
    assert files["ppo"].read_bytes() == before["ppo"]
    assert len(json.loads(files["dpo"].read_text(encoding="utf-8"))["trials"]) == 3
    winners = {
        arm: {"algorithm": json.loads(file.read_text(encoding="utf-8"))["winner"]} for arm, file in files.items()
    }
    assert set((read_tuning(tmp_path / "s", winners) or {})["arms"]) == {"dpo", "ppo"}
    assert set((read_tuning(tmp_path / "s", winners, tuned=part.arms) or {})["arms"]) == {"dpo"}


def test_tuning_costs_every_resource_of_every_policy_that_it_trained_once(tmp_path: Path, store: Store) -> None:
    prices = ("budget.prices.core_hour=2", "budget.prices.human_label=0.5", "budget.prices.judge_mtoken=0.25")
    one = tuning(tmp_path, more=("sweep.seeds=[7,8]", "sweep.trials=3", *prices), dpo=["algorithm=dpo"])
    one.run(Quick(store), 1)
    winner = one.arms["dpo"].winner
    assert winner is not None
    found = read_tuning(tmp_path / "s", {"dpo": {"algorithm": winner["settings"]}})
    assert found is not None
    once = {"prompts": 8, "generated_tokens": 0, "trained_tokens": 100, "flops": 1e6, "seconds": 7.0, "labels": 4}
    once["money"] = 0.5 * 2 + 3 * 0.5 + 0.25
    assert found["cost"]["dpo"] == pytest.approx({resource: 2 * amount for resource, amount in once.items()})


def test_an_arm_without_a_winner_is_told_with_the_reason(tmp_path: Path, store: Store) -> None:
    one = tuning(tmp_path, more=("sweep.trials=2", "budget.prices.core_hour=36"))
    planned = plan("s", one.spec, tmp_path)
    records = [job.folder / "trial.json" for job in planned.trials if job.arm == "ppo"]
    old = records[0]
    old.parent.mkdir(parents=True)
    old.write_text(json.dumps({"status": "done"}), encoding="utf-8")
    trials, failed = one.run(Quick(store, diverging=["ppo"]), 1)
    why = "all 2 tuning trials failed, so it has no winner; the first: the loss is nan"
    assert failed == {"ppo (tuning)": why}
    assert {trial.arm for trial in trials} == {"dpo", "sft"}
    found = read_tuning(tmp_path / "s", {"sft": {}})
    assert found is not None
    assert (found["arms"]["ppo"]["failure"], found["arms"]["ppo"]["winner"]) == (why, None)
    assert found["cost"]["ppo"] == dict.fromkeys(RESOURCES, 0.0) | {"seconds": 3.5, "money": pytest.approx(0.035)}
    assert read_tuning(tmp_path / "s", {"ppo": {"algorithm": {}}}) is None  # it was run since, with other settings
    for seed, file in enumerate(records):
        record = json.loads(file.read_text(encoding="utf-8"))
        assert (record["arm"], record["seed"], record["status"], record["error"]) == ("ppo", seed, "failed", why)
    state = standing(planned)
    assert state is not None
    assert "ppo" not in {trial["arm"] for trial in state["missing"]}


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


def stopped(stopping: str, values: Sequence[float]) -> list[bool]:
    """Which of some trials with these values are stopped at the first look, told one after the other."""
    of = asks(stopping=stopping, sampler="random")
    found = []
    for number, value in enumerate(values):
        of.ask()
        found.append(not of.look(number, 0, value))
        of.tell(number, None if found[-1] else value)
    return found


def test_median_stops_what_is_below_the_median_of_those_before() -> None:
    # startup=3: three go on whatever they are; 0.45 < median(0.2, 0.5, 0.9), 0.6 > median(0.2, 0.45, 0.5, 0.9).
    assert stopped("median", [0.5, 0.2, 0.9, 0.45, 0.6]) == [False, False, False, True, False]


def test_halving_lets_the_better_half_go_on() -> None:
    # Of those so far, the best one of two or three, the best two of four or five.
    assert stopped("halving", [0.5, 0.2, 0.6, 0.55, 0.1]) == [False, True, False, False, True]


def test_without_a_rule_none_is_stopped() -> None:
    assert not any(stopped("none", [0.5, 0.2, 0.1, 0.05, 0.01]))


@pytest.mark.parametrize("looks", ["[]", "[0,0.5]", "[0.5,0.5]", "[0.5,1]", "[0.5,0.25]"])
def test_looks_that_are_no_rising_shares_are_refused(looks: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"sweep\.looks="):
        tuning(tmp_path, more=(f"sweep.looks={looks}",))


def test_a_trial_is_tested_at_each_share_in_one_folder(tmp_path: Path) -> None:
    one = tuning(tmp_path, more=("sweep.stopping=halving", "sweep.looks=[0.5]"))
    assert one.shares == (0.5, 1.0)
    arm = one.arms["dpo"]
    early, late = (one.jobs(arm, 0, {"lr": 1e-3}, share)[0] for share in one.shares)
    assert early.folder == late.folder
    assert set(early.overrides) - set(late.overrides) == {"budget.share=0.5"}


def test_an_arm_whose_trials_were_stopped_or_failed_says_how_many(tmp_path: Path) -> None:
    arm = tuning(tmp_path).arms["dpo"]
    seeds = [{"seed": 1000, "error": None}], [{"seed": 1000, "error": "the loss is nan"}]
    arm.trials.append(kept(0, {}, {"value": 0.4, "share": 0.25, "seeds": seeds[0]}))
    arm.trials.append(kept(1, {}, {"value": None, "share": 0.5, "seeds": seeds[1]}))
    assert [(trial["value"], trial["stopped"]) for trial in arm.trials] == [
        (None, {"share": 0.25, "value": 0.4}),
        (None, None),
    ]
    assert arm.failure == (
        "of 2 tuning trials 1 were stopped early and the others failed, so it has no winner; the first: the loss is nan"
    )
