"""What the summary concludes and how it says so, on results made in memory.

Dimensions: `S` seeds, `N` prompts.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from rft.evaluation.statistics import Resampling
from rft.report import figures, summarise
from rft.report.html import render
from rft.report.load import Rows, StageUse, StudyResults, Trial
from rft.report.overoptimisation import overoptimisation
from rft.report.pairs import find_pair
from rft.report.rows import Questions
from rft.report.samples import samples
from rft.report.splits import FULL_PAIRS
from rft.report.wording import counted, p_figure, p_value

FloatArray = npt.NDArray[np.float64]
QUICK = Resampling(resamples=2000)


def trial(
    arm: str,
    seed: int,
    gold: FloatArray,
    kl: float = 0.0,
    *,
    proxy: FloatArray | None = None,
    algorithm: str = "",
    stages: Mapping[str, StageUse] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Trial:
    """A trial whose rows have these golds [N], one sample a prompt."""
    count = len(gold)
    names = tuple(f"test-{n:04d}" for n in range(count))
    rows = Rows(
        questions=Questions(names, (0,) * count, names, np.arange(count)),
        responses=("a good film",) * count,
        gold=gold,
        proxy=3 * gold if proxy is None else proxy,
        kl=np.full(count, kl),
        length=np.full(count, 20.0),
        truncated=np.zeros(count, dtype=np.bool_),
        gold_logit=np.full(count, np.nan),
        judge=np.full(count, np.nan),
    )
    return Trial(arm, algorithm or arm, seed, stages or {}, {"test": rows}, (), config or {})


def results(arms: Mapping[str, Sequence[float]], prompts: int = 30, noise: float = 0.01) -> StudyResults:
    """Trials with these mean golds, by arm and seed."""
    hard = np.random.default_rng(0).normal(0, 0.05, prompts)
    hard -= hard.mean()
    trials = []
    for arm, means in arms.items():
        rng = np.random.default_rng([1, *arm.encode()])
        for seed, mean in enumerate(means):
            kl = 0.0 if arm == "sft" else 4.0 + seed
            trials.append(trial(arm, seed, mean + hard + rng.normal(0, noise, prompts), kl))
    return StudyResults("s", tuple(trials), ())


def headline(arms: Mapping[str, Sequence[float]], **more: Any) -> str:
    return str(summarise(results(arms, **more), settings=QUICK)["verdict"]["headline"])


SFT = (0.5, 0.5, 0.5)


def test_a_winner_is_named_with_margin_interval_p_value_and_seeds() -> None:
    text = headline({"sft": SFT, "ppo": (0.8, 0.81, 0.79), "dpo": (0.6, 0.61, 0.59)})
    assert text.startswith("ppo is better than the control sft: mean gold reward 0.80 against 0.50 on unseen questions")
    assert "+0.30 (95 % interval +0.2" in text
    assert "p <0.001 after correction" in text
    assert "for 2 comparisons, 3 seeds)" in text
    assert "It is also ahead of the runner-up dpo (+0.20" in text


def test_what_the_winner_cost_is_in_the_headline_of_the_cost() -> None:
    summary = summarise(results({"sft": SFT, "ppo": (0.8, 0.81, 0.79)}), settings=QUICK)
    assert "; it cost 0.0 s of its own computing a seed and a KL of 5.0 nats." in summary["cost"]["headline"]
    assert summary["cost"]["headline"].startswith(summary["verdict"]["headline"].removesuffix("."))


def test_one_comparison_is_not_corrected() -> None:
    arms = {"sft": SFT, "ppo": (0.8, 0.81, 0.79)}
    assert "after correction" not in headline(arms)
    difference = summarise(results(arms), settings=QUICK)["arms"]["ppo"]["splits"]["test"]["difference"]
    assert difference["holm_p"] == difference["p_value"]


def test_an_open_question_says_how_many_seeds_would_settle_it() -> None:
    arms = {"sft": SFT, "ppo": (0.50, 0.58, 0.54), "dpo": (0.4, 0.5, 0.6)}
    summary = summarise(results(arms), settings=QUICK)
    text, difference = summary["verdict"]["headline"], summary["arms"]["ppo"]["splits"]["test"]["difference"]
    assert text.startswith("Cannot tell whether any algorithm is better than the control sft on unseen questions; ppo ")
    assert difference["verdict"] == "cannot tell"
    more = difference["seeds_needed"] - 3
    assert more > 1
    assert f"about {more} more seeds an arm would settle it." in text
    assert not summary["verdict"]["settled"]


def test_a_difference_that_the_correction_leaves_open_says_so() -> None:
    arms = {"sft": SFT, **{f"a{k}": (0.50, 0.52, 0.51) for k in range(4)}, "ppo": (0.535, 0.58, 0.555)}
    summary = summarise(results(arms), settings=QUICK)
    difference = summary["arms"]["ppo"]["splits"]["test"]["difference"]
    assert difference["excludes_zero"]
    assert difference["p_value"] < 0.05 < difference["holm_p"]
    assert difference["verdict"] == "cannot tell"
    sentence = next(s for s in summary["verdict"]["sentences"] if s.startswith("ppo "))
    assert "the interval leaves out 0, but not after correction for 5 comparisons" in sentence


def test_arms_that_are_all_worse_are_called_so() -> None:
    text = headline({"sft": SFT, "ppo": (0.2, 0.21, 0.19)})
    assert text == "No algorithm is better than the control sft on unseen questions: each is shown to be worse."


def test_a_study_of_the_control_alone_has_no_verdict() -> None:
    summary = summarise(results({"sft": SFT}), settings=QUICK)
    assert summary["verdict"]["headline"] == "No verdict: the study has nothing but the control sft."
    assert summary["ranking"] == {"test": []}
    json.dumps(summary, allow_nan=False)


def test_one_seed_has_no_verdict_whatever_its_lead() -> None:
    summary = summarise(results({"sft": (0.5,), "ppo": (0.9,)}), settings=QUICK)
    difference = summary["arms"]["ppo"]["splits"]["test"]["difference"]
    assert difference["excludes_zero"]
    assert (difference["verdict"], difference["p_value"], difference["holm_p"]) == ("no verdict", None, None)
    assert difference["seeds_needed"] is None
    assert summary["pairs"]["test"][0]["probability_of_improvement"] is None
    assert summary["verdict"]["headline"].startswith(
        "No verdict yet: ppo and sft have one seed only, and one run cannot"
    )
    assert "cover the choice of prompts only" in summary["statistics"]["covers_text"]


def test_one_arm_with_a_single_seed_takes_no_verdict_from_the_others() -> None:
    summary = summarise(results({"sft": SFT, "ppo": (0.8, 0.81, 0.79), "dpo": (0.9,)}), settings=QUICK)
    verdict = summary["verdict"]
    assert verdict["headline"].startswith("ppo is better than the control sft: mean gold reward 0.80 against 0.50")
    assert verdict["headline"].endswith(
        " No verdict yet on the others: dpo has one seed only; "
        "the mean gold reward of dpo, 0.90, is the highest so far."
    )
    assert (verdict["settled"], verdict["best"]) == (True, "ppo")
    # Holm counts the comparisons that have a p-value.
    assert "after correction" not in verdict["headline"]
    text = summary["statistics"]["covers_text"]
    assert text.startswith("A seed repeats the policy's training only")
    assert text.endswith(
        "Where an arm has one seed its intervals cover the choice of prompts only: nothing was repeated."
    )


@pytest.mark.parametrize(
    ("ppo", "start"),
    [
        ((0.2, 0.21, 0.19), "No algorithm with several seeds is better than the control sft on unseen questions"),
        ((0.50, 0.58, 0.54), "Cannot tell whether any algorithm with several seeds is better than the control sft on"),
    ],
)
def test_no_winner_among_the_arms_with_several_seeds_says_of_which(ppo: tuple[float, ...], start: str) -> None:
    text = headline({"sft": SFT, "ppo": ppo, "dpo": (0.1,), "kto": (0.15,)})
    assert text.startswith(start)
    assert text.endswith(" No verdict yet on the others: kto and dpo have one seed only.")


def test_a_control_with_one_seed_leaves_the_arms_their_own_verdict() -> None:
    text = headline({"sft": (0.5,), "ppo": (0.8, 0.81, 0.79), "dpo": (0.6, 0.61, 0.59)})
    assert text.startswith("No verdict against the control sft yet: sft has one seed only, and one run cannot tell")
    assert "Of the arms with several seeds, ppo is better than dpo (+0.2" in text
    assert headline({"sft": SFT, "ppo": (0.8,)}).startswith("No verdict yet: ppo has one seed only")


def test_without_a_control_the_best_two_arms_answer() -> None:
    summary = summarise(
        results({"ppo": (0.6, 0.61, 0.59), "dpo": (0.8, 0.81, 0.79), "kto": (0.3, 0.31)}), settings=QUICK
    )
    text = summary["verdict"]["headline"]
    assert text.startswith(
        "dpo is better than ppo: mean gold reward 0.80 against 0.60 on unseen questions, +0.20 (95 %"
    )
    assert "after correction for 3 comparisons, 3 seeds)." in text
    assert text.endswith(" The study has no control arm.")
    assert (summary["verdict"]["settled"], summary["verdict"]["best"]) == (True, "dpo")
    ppo, kto = summary["verdict"]["sentences"]
    assert ppo.startswith("ppo is worse than dpo: −0.20 (")
    assert kto.startswith("kto is worse than dpo: −0.49 (")
    assert "; it cost 0.0 s of its own computing a seed" in summary["cost"]["headline"]


def test_without_a_control_two_arms_that_are_alike_are_left_open() -> None:
    summary = summarise(results({"ppo": (0.50, 0.58, 0.54), "dpo": (0.52, 0.6, 0.59)}), settings=QUICK)
    text, (pair,) = summary["verdict"]["headline"], summary["pairs"]["test"]
    assert text.startswith("Cannot tell dpo from ppo: mean gold reward 0.57 against 0.54 on unseen questions, +0.03 (")
    assert f"; about {pair['seeds_needed'] - 3} more seeds an arm would settle it. The study has no control" in text
    assert not summary["verdict"]["settled"]


def test_without_a_control_one_seed_has_no_verdict() -> None:
    text = headline({"ppo": (0.6,), "dpo": (0.8,)})
    assert text.startswith("No verdict yet: dpo and ppo have one seed only")
    assert headline({"ppo": (0.6, 0.7)}).startswith("No verdict: the study has one arm only, ppo")
    three = headline({"ppo": (0.6, 0.61, 0.59), "dpo": (0.8, 0.81, 0.79), "kto": (0.9,)})
    assert three.startswith("dpo is better than ppo: ")
    assert "No verdict yet on the others: kto has one seed only; the mean gold reward of kto, 0.90, is the" in three


def test_the_seeds_of_both_sides_are_told_where_they_differ() -> None:
    ppo = (0.8, 0.81, 0.79)
    assert ", 3 seeds, the control 2)" in headline({"sft": (0.5, 0.51), "ppo": ppo})
    assert ", 3 seeds)" in headline({"sft": SFT, "ppo": ppo})
    assert ", 3 seeds, dpo 2)" in headline({"dpo": (0.5, 0.51), "ppo": ppo})
    assert ", 3 seeds, the control 2)" in headline({"sft": (0.5, 0.6), "ppo": (0.55, 0.5, 0.6)})


def test_tables_say_how_many_more_seeds_in_the_words_of_the_verdict() -> None:
    study = results({"sft": SFT, "ppo": (0.50, 0.58, 0.54), "dpo": (0.4, 0.5, 0.6)})
    summary = summarise(study, settings=QUICK)
    page = render(study, summary)
    numbers, pairs = (page.split(f'<section id="{name}">')[1].split("</section>")[0] for name in ("numbers", "pairs"))
    difference = summary["arms"]["ppo"]["splits"]["test"]["difference"]
    assert f"about {difference['seeds_needed'] - 3} more seeds an arm would settle it" in numbers
    duel = find_pair(summary, "test", "ppo", "dpo")
    assert duel is not None
    assert f"about {duel['seeds_needed'] - 3} more seeds an arm would settle it" in pairs
    assert "seeds would tell" not in page


def test_the_forest_explains_the_bars_of_both_kinds_of_arms() -> None:
    def caption(*dpo: float) -> str:
        study = results({"sft": SFT, "ppo": (0.8, 0.81, 0.79)[: len(dpo) + 1], "dpo": dpo})
        return figures.forest(summarise(study, settings=QUICK)).caption

    assert "A bar across the line at 0 cannot tell" in caption(0.6)
    assert "Arms with one seed have bars over prompts only" in caption(0.6)
    assert "Arms with one seed" not in caption(0.6, 0.61)


def test_pairs_are_corrected_for_all_pairs() -> None:
    summary = summarise(results({"sft": SFT, "a": (0.6, 0.62, 0.61), "b": (0.7, 0.71, 0.75)}), settings=QUICK)
    pairs = summary["pairs"]["test"]
    smallest = min(pairs, key=lambda entry: entry["p_value"])
    assert smallest["holm_p"] == pytest.approx(3 * smallest["p_value"])
    control = summary["arms"][smallest["arm"]]["splits"]["test"]["difference"]
    assert control["p_value"] == smallest["p_value"]


def test_a_pair_can_be_read_either_way() -> None:
    summary = summarise(results({"sft": SFT, "ppo": (0.8, 0.81, 0.79)}), settings=QUICK)
    there, back = find_pair(summary, "test", "ppo", "sft"), find_pair(summary, "test", "sft", "ppo")
    assert there is not None
    assert back is not None
    assert (there["verdict"], back["verdict"]) == ("better", "worse")
    assert (back["low"], back["high"]) == (-there["high"], -there["low"])
    assert back["win_rate"]["mean"] == pytest.approx(1 - there["win_rate"]["mean"])
    assert back["probability_of_improvement"]["high"] == 1 - there["probability_of_improvement"]["low"]
    assert find_pair(summary, "test", "ppo", "nobody") is None


def test_many_arms_meet_the_control_and_the_best_meet_each_other() -> None:
    arms = {"sft": SFT, **{f"a{k:02d}": (0.5 + k / 100, 0.51 + k / 100, 0.49 + k / 100) for k in range(30)}}
    summary = summarise(results(arms), settings=QUICK)
    pairs = {(entry["arm"], entry["against"]) for entry in summary["pairs"]["test"]}
    best = {f"a{k:02d}" for k in range(30 - FULL_PAIRS, 30)}
    assert len(pairs) == FULL_PAIRS * (FULL_PAIRS - 1) // 2 + 30
    assert {a for a, b in pairs if b == "sft"} == set(arms) - {"sft"}
    assert {name for pair in pairs if "sft" not in pair for name in pair} == best
    smallest = min(summary["pairs"]["test"], key=lambda entry: entry["p_value"])
    assert smallest["holm_p"] == pytest.approx(min(1.0, 31 * 30 / 2 * smallest["p_value"]))
    assert {entry["arm"] for entry in summary["ranking"]["test"]} == best | {"sft"}
    assert summary["arms"]["a00"]["splits"]["test"]["win_rate"] is not None


def test_gap_is_in_the_controls_standard_deviations() -> None:
    """Gold up by 0.1, proxy by 0.8, in spreads of 0.1 and 0.2: 0.8/0.2 − 0.1/0.1 = 3."""
    gold, proxy = np.array([0.4, 0.6]), np.array([-0.2, 0.2])
    trials = [trial("sft", seed, gold, proxy=proxy) for seed in range(2)]
    trials += [trial("ppo", seed, gold + 0.1, 3.0, proxy=proxy + 0.8) for seed in range(2)]
    arms = summarise(StudyResults("s", tuple(trials), ()), settings=QUICK)["arms"]
    assert arms["ppo"]["splits"]["test"]["gap"]["mean"] == pytest.approx(3.0)
    assert arms["sft"]["splits"]["test"]["gap"] is None


def test_proxies_of_two_reward_models_are_not_compared() -> None:
    def use(key: str) -> dict[str, StageUse]:
        return {"reward_model": StageUse(key, key, 0.0, None, None, False)}

    gold, proxy = np.array([0.4, 0.6]), np.array([-0.2, 0.2])
    trials = [trial("sft", seed, gold, proxy=proxy, stages=use("human")) for seed in range(2)]
    for arm, key in (("ppo", "human"), ("rlaif", "ai")):
        trials += [trial(arm, seed, gold - 0.1, 3.0, proxy=proxy + 8, stages=use(key)) for seed in range(2)]
    study = StudyResults("s", tuple(trials), ())
    summary = summarise(study, settings=QUICK)
    gaps = {arm: record["splits"]["test"]["gap"] for arm, record in summary["arms"].items()}
    assert gaps["ppo"]["mean"] > 0
    assert gaps["rlaif"] is None
    shown = samples(study, summary)
    assert {a.arm for prompt in shown.prompts for a in prompt.answers if a.hacked} == {"ppo"}
    page = render(study, summary)
    told = "rlaif has another reward model than the control sft, which makes another scale: no proxy of theirs is"
    assert page.count(told) == 2
    alone = StudyResults("s", tuple(t for t in trials if t.arm != "ppo"), ())
    assert samples(alone, summarise(alone, settings=QUICK)).views["hacked"] == 0


def test_feedback_and_optimiser_are_told_apart() -> None:
    def settings(feedback: str, algorithm: str, needed: str | None = None) -> dict[str, Any]:
        target = {
            "ppo": "rft.algorithms.ppo.PPO",
            "rlaif": "rft.algorithms.rlaif.RLAIF",
            "dpo": "rft.algorithms.dpo.DPO",
            "rlaif_dpo": "rft.algorithms.rlaif_dpo.RLAIFDPO",
            "rlaif_direct": "rft.algorithms.rlaif_direct.RLAIFDirect",
            "rlaif_online": "rft.algorithms.rlaif_online.RLAIFOnline",
        }
        return {
            "feedback": {"_target_": f"rft.feedback.{feedback}.Source"},
            "algorithm": {
                "_target_": target[algorithm],
                "requires_feedback": needed,
                "requires_reward": "judge" if algorithm == "rlaif_direct" else None,
            },
        }

    gold = np.linspace(0.3, 0.7, 12)
    own = {
        "ppo": settings("simulated", "ppo"), "rlaif": settings("ai", "rlaif", "ai"),
        "dpo": settings("simulated", "dpo"), "dpo-2": settings("simulated", "dpo"),
        "rlaif_direct": settings("ai", "rlaif_direct", "ai"), "rlaif_dpo": settings("ai", "rlaif_dpo", "ai"),
        "rlaif_online": settings("ai", "rlaif_online", "ai"),
    }  # fmt: skip
    trials = [
        trial(arm, seed, gold + 0.1 * k + 0.01 * seed, algorithm=arm.removesuffix("-2"), config=config)
        for k, (arm, config) in enumerate(own.items())
        for seed in range(2)
    ]
    summary = summarise(StudyResults("s", tuple(trials), ()), settings=QUICK)
    assert {arm: (r["feedback"], r["optimiser"]) for arm, r in summary["arms"].items()} == {
        "dpo": ("simulated", "dpo"), "dpo-2": ("simulated", "dpo"), "ppo": ("simulated", "ppo"), "rlaif": ("ai", "ppo"),
        "rlaif_direct": ("ai (direct)", "ppo"), "rlaif_dpo": ("ai", "dpo"), "rlaif_online": ("ai", "online_dpo"),
    }  # fmt: skip
    table = summary["two_way"]["test"]
    assert (table["feedbacks"], table["optimisers"]) == (
        ["ai", "ai (direct)", "simulated"],
        ["dpo", "online_dpo", "ppo"],
    )
    found = [(cell["feedback"], cell["optimiser"]) for cell in table["cells"]]
    assert ("ai (direct)", "ppo") in found
    cell = next(cell for cell in table["cells"] if (cell["feedback"], cell["optimiser"]) == ("simulated", "dpo"))
    assert cell["arms"] == ["dpo", "dpo-2"]
    assert cell["mean"] == pytest.approx(0.5 + 0.25 + 0.005)


def test_one_feedback_makes_no_table_of_feedbacks() -> None:
    """It would repeat the arms' table."""
    config = {"feedback": {"_target_": "rft.feedback.simulated.Source"}}
    gold = np.linspace(0.3, 0.7, 12)
    trials = [trial(arm, seed, gold + 0.01 * seed, config=config) for arm in ("dpo", "ppo") for seed in range(2)]
    summary = summarise(StudyResults("s", tuple(trials), ()), settings=QUICK)
    assert {record["feedback"] for record in summary["arms"].values()} == {"simulated"}
    assert summary["two_way"]["test"] is None


def test_one_cell_makes_no_table() -> None:
    assert summarise(results({"sft": SFT, "ppo": SFT}), settings=QUICK)["two_way"]["test"] is None


def test_seeds_of_a_pipeline_are_paired_and_the_summary_says_what_they_cover() -> None:
    """What the seeds have in common, here most of their spread, cancels from the difference."""

    def study(keys: Sequence[str]) -> StudyResults:
        trials = []
        for arm, means in {"sft": (0.3, 0.5, 0.7), "ppo": (0.4, 0.601, 0.802)}.items():
            for seed, mean in enumerate(means):
                use = StageUse(keys[seed], "d" + keys[seed], 1.0, None, None, True)
                trials.append(trial(arm, seed, np.full(10, mean), stages={"reward_model": use}))
        return StudyResults("s", tuple(trials), ())

    anew, fixed = (summarise(study(keys), settings=QUICK) for keys in ("abc", "aaa"))
    assert (anew["statistics"]["replicate"], fixed["statistics"]["replicate"]) == ("pipeline", "policy")
    difference = anew["arms"]["ppo"]["splits"]["test"]["difference"]
    wanted = stats.ttest_rel([0.4, 0.601, 0.802], [0.3, 0.5, 0.7])
    assert difference["p_value"] == pytest.approx(wanted.pvalue, rel=1e-6)
    assert difference["verdict"] == "better"
    assert fixed["arms"]["ppo"]["splits"]["test"]["difference"]["verdict"] == "cannot tell"
    assert "candidates, labels, reward model and policy" in anew["statistics"]["covers_text"]
    assert "are fixed" in fixed["statistics"]["covers_text"]


def drawn(arm: str, keys: str, means: Sequence[float]) -> list[Trial]:
    """Trials by seed, each with the reward model of its letter."""
    return [
        trial(arm, seed, np.full(10, mean), stages={"reward_model": StageUse(key, "d" + key, 1.0, None, None, True)})
        for seed, (key, mean) in enumerate(zip(keys, means, strict=True))
    ]


LOW, HIGH = (0.3, 0.5, 0.7), (0.4, 0.601, 0.802)  # seed by seed they differ clearly, as arms they do not


def test_a_missing_seed_of_a_pipeline_is_said_to_undo_the_pairing() -> None:
    whole = [*drawn("sft", "abc", LOW), *drawn("ppo", "abc", HIGH), *drawn("dpo", "abc", HIGH)]
    paired, torn = (summarise(StudyResults("s", tuple(t), ()), settings=QUICK) for t in (whole, whole[:-1]))
    said = [found["arms"]["ppo"]["splits"]["test"]["difference"]["verdict"] for found in (paired, torn)]
    assert said == ["better", "cannot tell"]
    assert "seed by seed" not in paired["statistics"]["covers_text"]
    assert "(dpo lacks seed 2): no difference is taken seed by seed" in torn["statistics"]["covers_text"]


def test_arms_whose_seeds_repeat_other_things_are_not_paired() -> None:
    """The control cannot tell, and takes no side: it uses nothing that a seed could draw anew."""
    trials = [
        *drawn("dpo", "abc", LOW), *drawn("ppo", "aaa", HIGH),
        *(trial("sft", seed, np.linspace(0.4, 0.5, 10)) for seed in range(3)),
    ]  # fmt: skip
    study = StudyResults("s", tuple(trials), ())
    summary = summarise(study, settings=QUICK)
    kinds = {arm: record["replicate"] for arm, record in summary["arms"].items()}
    assert kinds == {"sft": None, "dpo": "pipeline", "ppo": "policy"}
    assert summary["statistics"]["replicate"] == "mixed"
    text = summary["statistics"]["covers_text"]
    assert text.startswith("A seed of dpo repeats the candidates, labels, reward model and policy, one of ppo the ")
    pair = find_pair(summary, "test", "ppo", "dpo")
    assert pair is not None
    assert pair["verdict"] == "cannot tell"
    assert "Of some arms a seed repeated the whole pipeline" in render(study, summary)


def test_the_ranking_says_what_its_intervals_cover() -> None:
    arms = {"sft": SFT, "ppo": (0.8, 0.81, 0.79), "dpo": (0.6, 0.61, 0.59)}
    several = summarise(results(arms), settings=QUICK)
    one = summarise(results(arms | {"dpo": (0.6,)}), settings=QUICK)
    assert {entry["covers"] for entry in several["ranking"]["test"]} == {"seeds and prompts"}
    assert {entry["covers"] for entry in one["ranking"]["test"]} == {"prompts only"}
    drawn, remarked = figures.ranking(several), figures.ranking(one)
    assert drawn is not None
    assert remarked is not None
    assert "prompts only" not in drawn.caption
    assert "Bars cover prompts only: every strength depends on dpo, with one seed." in remarked.caption


def test_the_words_of_the_verdict_say_that_its_rate_is_per_table() -> None:
    study = results({"sft": SFT, "ppo": (0.8, 0.81, 0.79)})
    text = render(study, summarise(study, settings=QUICK)).split('id="reading"')[1]
    assert "hold per table: where nothing differs, a table says better or worse by mistake in at most 5 %" in text
    assert "The headline reads the table against sft on the first split" in text


def frontier(points: Sequence[tuple[int, float, float]], kl: float = 0.0) -> dict[str, Any]:
    """A summary as far as the fit reads it: (seed, KL, gold) of one arm's points, trained and picked from the start."""
    entries = [{"seed": seed, "step": 8, "kl": at, "gold": gold, "gain": gold - 0.5} for seed, at, gold in points]
    start = {"splits": {"test": {"gold": {"mean": 0.5}, "kl": kl}}}
    picked, unknown = ([entry | {"step": step} for entry in entries] for step in (0, None))
    found = {"sft": [], "ppo": entries, "picked": picked, "unknown": unknown}
    return {
        "control": "sft", "splits": ["test"], "statistics": {"level": 0.95},
        "arms": {arm: (start if arm == "sft" else {}) | {"algorithm": arm, "stages": {}} for arm in found},
        "frontier": found,
    }  # fmt: skip


def test_the_law_of_the_optimiser_is_fitted_to_the_gain_over_the_start() -> None:
    d = np.sqrt([1.0, 4.0, 9.0, 16.0, 25.0])
    points = [(s, x * x, 0.5 + x * (0.2 - 0.1 * np.log(x))) for s in range(3) for x in d]
    found = overoptimisation(frontier(points))
    ppo, picked, unknown = found["ppo"], found["picked"], found["unknown"]
    assert ppo is not None
    assert picked is not None
    assert unknown is not None
    assert found["sft"] is None
    assert (ppo["law"], ppo["points"], ppo["alpha"]["mean"]) == ("rl", 15, pytest.approx(0.2))
    assert ppo["beta"]["mean"] == pytest.approx(0.1)
    # Highest at d = e^(α/β − 1) = e, a KL of e² = 7.4.
    assert "it is highest at a KL of 7.4 nats, while the points reach 25.0." in ppo["sentence"]
    assert ppo["falls"] is True
    # By what was done, not by a name: no step of an optimiser made these.
    assert (picked["law"], unknown["law"]) == ("best_of_n", "rl")


def test_arms_that_pick_among_answers_are_points_of_one_curve() -> None:
    """Each n is one distance, of which no law can be told; d(α − βd) holds for all n together."""
    summary = frontier([])
    ways = {"bon2": (0.4, "m"), "bon4": (0.8, "m"), "bon16": (1.35, "m"), "bon64": (1.78, "m"), "other": (1.0, "else")}
    for arm, (d, model) in ways.items():
        summary["arms"][arm] = {"algorithm": "best_of_n", "stages": {"reward_model": [{"key": model}]}}
        gain = d * (0.3 - 0.05 * d)
        summary["frontier"][arm] = [
            {"seed": seed, "step": 0, "kl": d * d, "gold": 0.5 + gain, "gain": gain} for seed in range(3)
        ]
    found = overoptimisation(summary)
    assert found["other"] is None
    for arm in ("bon2", "bon4", "bon16", "bon64"):
        law = found[arm]
        assert law is not None
        assert (law["law"], law["points"]) == ("best_of_n", 12)
        assert law["arms"] == ["bon2", "bon4", "bon16", "bon64"]
        assert (law["alpha"]["mean"], law["beta"]["mean"]) == (pytest.approx(0.3), pytest.approx(0.05))
        assert law["sentence"].startswith("bon2, bon4, bon16 and bon64 on one curve: gold rises")


@pytest.mark.parametrize(
    ("alpha", "beta", "seeds", "words"),
    [
        (
            0.5,
            (0.1,) * 3,
            3,
            "up to a KL of 25.0 nats, do not show a fall: the curve's peak would lie beyond all points.",
        ),
        (0.1, (-0.1,) * 3, 3, "up to a KL of 25.0 nats, do not show a fall."),
        (0.2, (0.0, 0.1, 0.2), 3, "do not show a fall for certain: the interval of β does not lie above 0."),
        (0.2, (0.1,), 1, "do not show a fall for certain: no seed was repeated."),
    ],
)
def test_a_peak_that_the_points_do_not_show_is_no_fact(
    alpha: float, beta: tuple[float, ...], seeds: int, words: str
) -> None:
    d = np.sqrt([1.0, 4.0, 9.0, 16.0, 25.0])
    points = [(s, x * x, 0.5 + x * (alpha - beta[s] * np.log(x))) for s in range(seeds) for x in d]
    ppo = overoptimisation(frontier(points))["ppo"]
    assert ppo is not None
    assert ppo["falls"] is False
    assert ppo["sentence"].endswith(words)
    assert "highest" not in ppo["sentence"]


def test_points_that_do_not_settle_the_curve_say_nothing_of_a_rise() -> None:
    d = np.sqrt([1.0, 4.0, 9.0, 16.0, 25.0])
    points = [
        (s, x * x, 0.5 + x * (a - b * np.log(x))) for s, (a, b) in enumerate([(-0.3, -0.2), (0.1, 0.0), (0.3, 0.3)])
        for x in d
    ]  # fmt: skip
    ppo = overoptimisation(frontier(points))["ppo"]
    assert ppo is not None
    assert all(ppo[name]["low"] < 0 < ppo[name]["high"] for name in ("alpha", "beta"))
    assert ppo["sentence"].startswith("these points do not tell how gold goes with KL: α = 0.033 (")
    assert "rises" not in ppo["sentence"]


def test_without_an_untrained_control_there_is_no_gain_to_fit() -> None:
    points = [(s, float(k), 0.5 + 0.1 * k) for s in range(3) for k in range(1, 6)]
    assert overoptimisation(frontier(points, kl=3.0)) == dict.fromkeys(("sft", "ppo", "picked", "unknown"))


def test_words_for_counts_and_p_values() -> None:
    assert [counted(1, "seed"), counted(0, "seed"), counted(2, "more seed")] == ["1 seed", "0 seeds", "2 more seeds"]
    assert [p_figure(x) for x in (0.0004, 0.0123, 0.456, None)] == ["<0.001", "0.012", "0.46", "–"]
    assert [p_value(0.0004), p_value(None)] == ["p <0.001", "no p-value"]


@pytest.mark.slow
def test_a_thousand_trials_are_summarised_in_moments() -> None:
    """In processor time, so that what else the machine does counts little; texts are short here."""
    rng = np.random.default_rng(3)
    arms = {"sft": (0.5,) * 5, **{f"a{k:03d}": 0.5 + k / 1000 + rng.normal(0, 0.02, 5) for k in range(199)}}
    study = results(arms, prompts=256, noise=0.1)
    start = time.process_time()
    summary = summarise(study)
    assert time.process_time() - start < 20
    assert len(summary["arms"]) == 200


def test_intervals_of_a_mean_probability_stay_among_probabilities() -> None:
    summary = summarise(results({"sft": (0.5, 0.5), "ppo": (0.75, 0.99)}), settings=QUICK)
    for name in ("gold", "iqm"):
        interval = summary["arms"]["ppo"]["splits"]["test"][name]
        assert 0.0 <= interval["low"] < interval["mean"] < interval["high"] == 1.0
