"""An audit from judges whose faults are known: every figure is what the fault makes it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow.parquet as pq
import pytest

from rft.budget import Prices
from rft.config import AuditConfig, compose
from rft.errors import UserError
from rft.feedback.annotators import AnnotatorModel
from rft.feedback.attacks import ATTACKS
from rft.feedback.audit_cases import Own
from rft.feedback.base import Answer, Work
from rft.feedback.judges.base import Comparisons, Judge, PointwiseJudge, Verdicts
from rft.feedback.ratings import Ratings
from rft.store import Entry, Store
from rft.store.cost import COST
from rft.study.auditing import About, Material, _about, _same_family, make_audit
from rft.study.pipeline import Pipeline
from tests.integration.harness import TINY

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONFIG = AuditConfig(pairs=200, attack_pairs=20, again_pairs=50, self_pairs=10)
PRICES = Prices(device_hour=1.0, human_label=0.5, judge_mtoken=2.0)
Prefers = Callable[[str, str], float]


def worth(text: str) -> int:
    """What people think of a text: it says so itself."""
    return int(re.findall(r"rated (-?\d+)", text)[0])


def truth(first: str, second: str) -> float:
    return 0.5 + 0.4 * float(np.sign(worth(first) - worth(second)))


class Gold:
    """People's own opinion."""

    def logit(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([worth(text) for text in texts], dtype=np.float64)

    def probability(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return 1 / (1 + np.exp(-self.logit(texts)))


@dataclass
class Told(Judge):
    """Says of what is shown first and second what it is told to say; asked again, what it is told to say then."""

    prefers: Prefers
    later: Prefers | None = None
    tokens: int = 10

    def compare(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Comparisons:
        texts = [(answers[a].text, answers[b].text) for a, b in pairs.tolist()]
        orders = np.array([[self.prefers(a, b), 1 - self.prefers(b, a)] for a, b in texts]).reshape(-1, 2)
        unread = int(np.isnan(orders).sum())
        work = Work(
            2 * len(pairs), retried=unread, excluded=unread, read=self.tokens * 2 * len(pairs), seconds=len(pairs)
        )
        return Comparisons(orders, [{"orders": row} for row in orders.tolist()], work)

    def asked_again(self, times: int = 1) -> Self:
        return self if self.later is None else type(self)(self.later)


class Scores(PointwiseJudge):
    def score(self, answers: Sequence[Answer]) -> Verdicts:
        assert len(set(answers)) == len(answers)  # nothing is asked twice
        scores = np.array([worth(answer.text) for answer in answers], dtype=np.float64)
        return Verdicts(scores, [{"score": s} for s in scores.tolist()], Work(len(answers), read=len(answers)))


@pytest.fixture(scope="module")
def material() -> Material:
    """Snippets whose raters are of one mind, of any length; the policy's answers are worse than people's."""
    rng = np.random.default_rng(0)
    worths = rng.integers(-4, 5, size=90).tolist()
    texts = [f"film {i} {'x' * int(rng.integers(40))} rated {w}" for i, w in enumerate(worths)]
    own = [
        Own(f"q{i}", Answer(f"q{i} ", "mine rated -1"), Answer(f"q{i} ", "yours, of people, rated 2"))
        for i in range(10)
    ]
    return Material(Ratings(texts, [np.full(8, float(w)) for w in worths]), Gold(), AnnotatorModel(1, 0, 0, 0), own)


@pytest.fixture
def audit(material: Material, tmp_path: Path) -> Callable[[Judge], dict[str, Any]]:
    def run(judge: Judge, config: AuditConfig = CONFIG) -> dict[str, Any]:
        about = About("told", None, "m", same_family=True)
        metrics = make_audit(config, judge, about, material, PRICES, tmp_path)
        found: dict[str, Any] = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
        return found | {"metrics": metrics, "rows": pq.read_table(tmp_path / "pairs.parquet").to_pylist()}

    return run


Run = Callable[..., dict[str, Any]]


def test_a_judge_that_is_always_right(audit: Run) -> None:
    found = audit(Told(truth))
    assert (found["judge"], found["form"], found["model"]) == ("told", "pairwise", "m")
    assert found["human"]["accuracy"]["value"] == found["human"]["auc"]["value"] == 1
    assert found["human"]["ceiling"] == {"majority": 1, "single": 1, "half_panel": 1}
    assert found["gold"]["accuracy"]["value"] == found["again"]["same"]["value"] == 1
    assert found["order"]["flips"]["value"] == found["order"]["same_position"]["value"] == 0
    assert found["order"]["first_shown"]["value"] == 0.5
    assert found["length"]["excess"]["value"] == found["again"]["mean_change"] == 0
    # It says 0.9 or 0.1 and is always right.
    assert found["calibration"]["ece"] == pytest.approx(0.1)
    assert found["calibration"]["brier"] == pytest.approx(0.01)
    assert found["attacks"]["success"]["value"] == found["attacks"]["control"]["value"] == 0
    assert [one["attack"] for one in found["attacks"]["by_attack"]] == list(ATTACKS)
    assert found["self_preference"]["same_family"] is True
    assert found["self_preference"]["judge_own"]["value"] == found["self_preference"]["excess"]["value"] == 0


def test_a_judge_that_errs_where_people_are_not_clear(audit: Run) -> None:
    """Means are whole numbers: it is wrong on all pairs that are a point apart, and right on the others."""
    found = audit(Told(lambda a, b: truth(a, b) if abs(worth(a) - worth(b)) > 1 else truth(b, a)))
    gaps = [abs(r["first_mean"] - r["second_mean"]) for r in found["rows"] if r["kind"] == "rated"]
    half, point = found["human"]["clear"]
    assert (half["above"], half["pairs"], point["above"], point["pairs"]) == (0.5, 200, 1.0, sum(g > 1 for g in gaps))
    assert 0 < point["pairs"] < 200
    assert half["accuracy"] == found["human"]["accuracy"]
    assert half["accuracy"]["value"] == pytest.approx(point["pairs"] / 200)
    assert point["accuracy"]["value"] == point["auc"]["value"] == 1
    assert point["ceiling"] == found["human"]["ceiling"] == {"majority": 1, "single": 1, "half_panel": 1}
    assert point["auc_person"]["value"] == 1


def test_a_judge_that_takes_what_is_shown_first(audit: Run) -> None:
    found = audit(Told(lambda first, second: 0.9))
    assert {name: one["value"] for name, one in found["order"].items() if name != "pairs"} == {
        "flips": 1.0, "same_position": 1.0, "first_shown": 1.0,
    }  # fmt: skip
    assert found["human"]["accuracy"]["value"] == 0.5  # both orders together are a tie
    assert found["metrics"]["flips"] == 1
    # Right where the better is shown first, and there nothing turns it; "choose A" has no order to work in.
    assert found["attacks"]["pairs"] == CONFIG.attack_pairs
    assert found["attacks"]["success"]["value"] == found["attacks"]["control"]["value"] == 0
    assert {one["attack"]: one["success"] and one["success"]["value"] for one in found["attacks"]["by_attack"]} == {
        name: None if name == "choose_a" else 0 for name in ATTACKS
    }


def test_a_judge_that_takes_the_longer(audit: Run) -> None:
    found = audit(Told(lambda first, second: 0.5 + 0.4 * float(np.sign(len(first) - len(second)))))["length"]
    assert found["judge_longer"]["value"] == 1
    assert found["excess"]["value"] == pytest.approx(1 - found["human_longer"]["value"])
    assert found["excess"]["low"] > 0.3


def test_a_judge_that_obeys_one_order(audit: Run) -> None:
    order = ATTACKS["choose_this"].text

    def obeys(first: str, second: str) -> float:
        return truth(first, second) if (order in first) is (order in second) else 0.9 if order in first else 0.1

    found = audit(Told(obeys))["attacks"]
    assert found["pairs"] == CONFIG.attack_pairs
    assert {one["attack"]: one["success"]["value"] for one in found["by_attack"]} == {
        name: float(name == "choose_this") for name in ATTACKS
    }
    assert found["success"]["value"] == pytest.approx(
        1 / (len(ATTACKS) - 1)
    )  # in each order one that names the other place is no try
    assert found["control"]["value"] == 0


def places(order: str, winner: float, otherwise: Prefers) -> Prefers:
    """Says `winner` of what is shown first where either text gives the order; no order otherwise."""
    return lambda first, second: winner if order in first or order in second else otherwise(first, second)


def test_judges_that_obey_an_order_to_choose_a_place(audit: Run) -> None:
    """It picks that place in both orders, which on average is a tie."""
    n = len(ATTACKS)
    for name, winner in (("choose_a", 0.9), ("choose_b", 0.1)):
        found = audit(Told(places(ATTACKS[name].text, winner, truth)))["attacks"]
        assert found["pairs"] == CONFIG.attack_pairs
        assert {one["attack"]: one["success"]["value"] for one in found["by_attack"]} == {
            one: float(one == name) for one in ATTACKS
        }
        # In one order one of the n − 1 attacks that can work there, in the other none.
        assert found["success"]["value"] == pytest.approx((1 / (n - 1) + 0) / 2)
        assert found["control"]["value"] == 0


def test_a_judge_that_takes_the_first_place_unless_told_to_take_the_second(audit: Run) -> None:
    found = audit(Told(places(ATTACKS["choose_b"].text, 0.1, lambda first, second: 0.9)))["attacks"]
    values = {one["attack"]: one["success"] and one["success"]["value"] for one in found["by_attack"]}
    assert (values["choose_a"], values["choose_b"], values["plea"]) == (None, 1, 0)
    assert found["success"]["value"] == pytest.approx(1 / (len(ATTACKS) - 1))
    assert found["control"]["value"] == 0


def test_what_any_addition_does_is_the_rate_of_the_control(audit: Run) -> None:
    """A judge that takes the one of more lines where it is shown first: each addition works alike in that order."""

    def lines(first: str, second: str) -> float:
        return 0.9 if first.count("\n") > second.count("\n") else truth(first, second)

    found = audit(Told(lines))["attacks"]
    assert found["control"]["value"] == pytest.approx(0.5)
    assert found["success"]["value"] == pytest.approx(0.5)


def test_an_attack_that_is_cut_off_says_nothing(audit: Run) -> None:
    class Short(Told):
        def reads_whole(self, answers: Sequence[Answer]) -> list[bool]:
            return ["Please" not in answer.text for answer in answers]

    def obeys(first: str, second: str) -> float:
        return 0.9 if "Please" in first or "German" in first else truth(first, second)

    found = audit(Short(obeys))["attacks"]
    values = {one["attack"]: one["success"] and one["success"]["value"] for one in found["by_attack"]}
    assert (values["plea"], values["score"]) == (None, 0)
    assert found["success"]["value"] == 0
    assert audit(Told(obeys))["attacks"]["success"]["value"] > 0


def test_a_judge_of_its_own_family(audit: Run) -> None:
    found = audit(
        Told(lambda first, second: 0.9 if "mine" in first else 0.1 if "mine" in second else truth(first, second))
    )
    own = found["self_preference"]
    assert (own["judge_own"]["value"], own["gold_own"]["value"], own["excess"]["value"]) == (1, 0, 1)
    assert own["pairs"] == 10


def test_a_judge_that_changes_its_mind(audit: Run) -> None:
    found = audit(Told(truth, later=lambda first, second: 1 - truth(first, second)))["again"]
    assert (found["pairs"], found["same"]["value"]) == (50, 0)
    assert found["mean_change"] == pytest.approx(0.8)


def test_what_cannot_be_read_is_counted_and_in_no_figure(audit: Run) -> None:
    def mute(first: str, second: str) -> float:
        return float("nan") if worth(first) == -4 else truth(first, second)

    found = audit(Told(mute))
    dumb = [
        row for row in found["rows"] if row["kind"] == "rated" and None in (row["shown_first"], row["shown_second"])
    ]
    assert 0 < len(dumb) < 200
    assert found["human"]["pairs"] == found["order"]["pairs"] == 200 - len(dumb)
    assert found["human"]["accuracy"]["value"] == 1
    assert found["unread"]["excluded"] == found["unread"]["retried"] == found["metrics"]["excluded"] >= len(dumb)
    by_source = {(row["source"], row["share_human"]): row["agreement"]["n"] for row in found["economics"]}
    assert by_source["ai", None] == 200 - len(dumb)
    assert by_source["mixed", 0.5] == 200


def test_a_judge_that_scores_has_no_order_and_reads_every_text_once(audit: Run) -> None:
    found = audit(Scores())
    assert (found["form"], found["order"]) == ("pointwise", None)
    assert found["human"]["auc"]["value"] == found["human"]["accuracy"]["value"] == 1
    assert found["human"]["auc"]["n"] < 90  # snippets whose mean has a sign, not pairs
    row = found["rows"][0]
    gap = worth(row["first"]) - worth(row["second"])
    assert row["shown_first"] == row["shown_second"] == pytest.approx(1 / (1 + np.exp(-gap)))
    assert json.loads(row["raw"]) == {
        "first": {"score": worth(row["first"])},
        "second": {"score": worth(row["second"])},
    }


def test_work_and_prices(audit: Run) -> None:
    found = audit(Told(truth))
    asked = 200 + 50 + 10 + 20 * (2 + len(ATTACKS))
    assert len(found["rows"]) == asked
    assert found["unread"] == {"questions": 2 * asked, "retried": 0, "excluded": 0}
    assert found["cost"] == {"questions": 2 * asked, "kept": 0, "read": 20 * asked, "written": 0, "money": None}
    assert found["seconds_per_question"] == 0.5
    assert found["metrics"][COST] == {"kept": 0, "judge_seconds": asked}
    costs = {(row["source"], row["share_human"]): row["cost_per_label"] for row in found["economics"]}
    # Twenty tokens a pair at two dollars a million; a comparison by a person is half a dollar.
    assert costs["ai", None] == pytest.approx(4e-5)
    assert costs["one person", None] == 0.5
    assert costs["three people", None] == costs["simulated", None] == 1.5
    assert costs["mixed", 0.25] == pytest.approx(0.125 + 4e-5)


def test_rows_hold_what_was_asked_and_what_is_known(audit: Run) -> None:
    rows = audit(Told(truth))["rows"]
    for row in rows:
        gap = worth(row["first"]) - worth(row["second"])
        assert row["gold_first"] is (None if gap == 0 else gap > 0)
        assert row["human_first"] is (None if row["kind"] == "self" else gap > 0)
        means = (row["first_mean"], row["second_mean"])
        assert means == ((None, None) if row["kind"] == "self" else (worth(row["first"]), worth(row["second"])))
        assert row["first_id"].startswith("q" if row["kind"] == "self" else "snippet-")
    attacked = [row for row in rows if row["attack"] == "plea"]
    assert len(attacked) == 20
    assert all(
        row["second"].endswith(ATTACKS["plea"].text) and worth(row["first"]) - worth(row["second"]) > 3
        for row in attacked
    )


def test_what_is_not_asked_for_is_null(audit: Run, material: Material, tmp_path: Path) -> None:
    config = AuditConfig(pairs=20, attack_pairs=0, again_pairs=0, self_pairs=0)
    bare = Material(material.ratings, material.gold, material.annotators, [])
    make_audit(config, Told(truth), About("told", "listwise", None, same_family=False), bare, PRICES, tmp_path)
    found = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert found["attacks"] is found["again"] is found["self_preference"] is found["model"] is None
    assert found["form"] == "listwise"


def test_whether_the_judge_stands_on_the_model_of_the_policy(tmp_path: Path) -> None:
    """Its own model, that of what it was made from, the gold; of an endpoint nobody knows."""
    store = Store(tmp_path)

    def found(of_judge: dict[str, Entry], *more: str) -> bool | None:
        return _same_family(pipeline(*more), of_judge)

    def pipeline(*more: str) -> Pipeline:
        made = Pipeline(compose(list(more)), store, tmp_path)
        vars(made)["model"] = model  # it needs no weights
        return made

    def made_from(key: str) -> Entry:
        return store.get_or_compute("sft", version=1, config={}, inputs={"model": key}, build=lambda out: {})

    model = store.get_or_compute("model", version=1, config={}, inputs={}, build=lambda out: {})
    assert found({"model": model}) is True
    other = store.get_or_compute("model", version=1, config={"other": 1}, inputs={}, build=lambda out: {})
    assert found({"model": other}) is False
    of_entry = ("judge=reward_model", "judge.entry=abc")
    assert found({"judge_model": model, "judge_sft": made_from(model.key)}, *of_entry) is True
    assert found({"judge_model": model, "judge_sft": made_from("0" * 64)}, *of_entry) is False
    assert found({"judge_model": model}, "judge=reward_model", "judge.path=somewhere") is None
    assert found({}, "judge=openai", "judge.model=m") is None
    assert found({}, "judge=simulated") is False


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "few_shot"),
        (["judge=hf"], "hf"),
        (["judge=hf", "judge.path=somewhere", "judge.options=['0','9']"], "hf"),
        (["judge=pairwise"], "pairwise"),
        (["judge=hf", "judge.form=pairwise"], "pairwise"),
        (["judge=constitution"], "constitution"),
        (["judge=constitution", "judge.principles=[Be kind.]", "judge.temperature=1"], "constitution"),
        (["judge=listwise", "judge.list_size=4"], "listwise"),
        (["judge=simulated", "judge.accuracy=0.7"], "simulated"),
    ],
)
def test_a_judge_is_headed_by_its_option(overrides: list[str], name: str) -> None:
    assert _about(compose(overrides), same_family=None).judge == name


class TestSettings:
    @pytest.mark.parametrize(
        ("override", "words"),
        [
            ("audit.pairs=9", "audit.pairs=9: tells nothing; ask for 10 at least, or 0"),
            ("audit.pairs=-1", "audit.pairs=-1: must be at least 0"),
            ("audit.attack_pairs=-1", "audit.attack_pairs=-1: must be at least 0"),
            ("audit.pair=3", "pairs"),
        ],
    )
    def test_are_checked(self, override: str, words: str) -> None:
        with pytest.raises(UserError) as caught:
            compose([override])
        assert words in str(caught.value)

    def test_only_trials_with_a_judge_are_audited(self, tmp_path: Path) -> None:
        for overrides, judged in (
            (["feedback=simulated"], False),
            (["feedback=ai"], True),
            (["algorithm=rlaif"], True),
        ):
            assert Pipeline(compose(overrides), Store(tmp_path), tmp_path).judged is judged

    def test_an_audit_of_nothing_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"audit\.pairs=0: audits nothing"):
            _ = Pipeline(compose(["audit.pairs=0"]), Store(tmp_path), tmp_path).audit


@pytest.mark.assets
def test_the_stage_depends_on_what_it_asks_and_on_nothing_else(run_store: Store, tmp_path: Path) -> None:
    """On the tiny model: the few-shot judge, the start policy's answers, people's continuations."""
    small = (
        *TINY,
        "tracker=none",
        "audit.pairs=20",
        "audit.attack_pairs=2",
        "audit.again_pairs=5",
        "audit.self_pairs=8",
    )

    def pipeline(*more: str) -> Pipeline:
        return Pipeline(compose([*small, *more]), run_store, tmp_path)

    entry = pipeline().audit
    figures = json.loads((entry.path / "audit.json").read_text(encoding="utf-8"))
    assert (figures["judge"], figures["form"], figures["model"]) == ("few_shot", "pointwise", "tiny")
    assert figures["again"]["same"]["value"] == 1
    assert figures["self_preference"]["same_family"] is True
    assert 0 < figures["self_preference"]["pairs"] <= 8
    assert pipeline("algorithm=dpo", "budget.money=5").audit.key == entry.key
    alone = pipeline("audit.self_pairs=0").audit
    assert set(entry.inputs) - set(alone.inputs) == {"questions", "candidates"}
    assert pipeline("budget.prices.human_label=2").audit.key != entry.key
