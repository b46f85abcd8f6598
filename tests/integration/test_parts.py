"""Reward sources, judges, feedback sources and tasks of an installed package, and the rule that comes along."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from rft.study.versions import VERSIONS
from tests.integration.harness import ON_POLICY, REPOSITORY, TINY, Result, Warm, trial_folder

pytestmark = [pytest.mark.assets, pytest.mark.xdist_group("parts"), pytest.mark.timeout(900)]

HEAD = "from dataclasses import dataclass\nimport numpy as np\nimport torch\n"
FILES = {
    "ownparts/__init__.py": "",
    "ownparts/reward.py": HEAD
    + '''
from rft.rewards.base import Reward
@dataclass
class Config:
    """Settings."""
    letter: str = "e"
    """Counted."""
class Letters(Reward):
    """Share of a letter."""
    def score(self, sequences):
        texts = self.responses(sequences)
        return torch.tensor([t.count(self.config.letter) / (1 + len(t)) for t in texts])
''',
    "ownparts/leaky.py": HEAD
    + '''
from rft.rewards.base import Reward
@dataclass
class Config:
    """None."""
class Leaky(Reward):
    """Reads what follows the end."""
    def score(self, sequences):
        return sequences.response_ids.float().mean(-1)
''',
    "ownparts/greedy.py": HEAD
    + '''
from rft.rewards.base import Reward
@dataclass
class Config:
    """None."""
class Greedy(Reward):
    """Asks for labels that it did not declare."""
    def fit(self, fitting):
        fitting.comparisons(8, 1, 0)
    def score(self, sequences):
        return sequences.lengths.float()
''',
    "ownparts/endless.py": HEAD
    + '''
from rft.rewards.base import Reward
@dataclass
class Config:
    """Settings."""
    longest: float = float("inf")
    """No number that an address can hold."""
class Endless(Reward):
    """First letters."""
    def score(self, sequences):
        firsts = [(t.strip() + "x")[0] for t in self.responses(sequences)]
        return torch.tensor([float(ord(letter)) for letter in firsts])
''',
    "ownparts/judge.py": HEAD
    + '''
from rft.feedback.judges.base import PointwiseJudge, Verdicts
@dataclass
class Config:
    """Settings."""
    letter: str = "e"
    """Counted."""
class Counter(PointwiseJudge):
    """Share of a letter."""
    def __init__(self, config):
        self.config = config
    def score(self, answers):
        texts = [answer.text for answer in answers]
        shares = np.array([t.count(self.config.letter) / (1 + len(t)) for t in texts], dtype=np.float64)
        return Verdicts(shares, [{"share": float(x)} for x in shares])
''',
    "ownparts/feedback.py": HEAD
    + '''
import json
from rft.feedback.base import Feedback, Labels, check_pairs
@dataclass
class Config:
    """Settings."""
    sharpness: float = 50.0
    """Of a difference."""
class Sharp(Feedback):
    """A judge's order, sharpened."""
    needs = frozenset({"judge"})
    symmetric = True
    def __init__(self, config, judge):
        self.config, self.judge = config, judge
    def label(self, answers, pairs):
        check_pairs(answers, pairs)
        scores = self.judge.score(answers).scores
        difference = self.config.sharpness * (scores[pairs[:, 0]] - scores[pairs[:, 1]])
        return Labels(scores, 1 / (1 + np.exp(-difference)), [json.dumps(d) for d in difference.tolist()])
''',
    "ownparts/task.py": '''
from dataclasses import dataclass
from rft.tasks.imdb_sentiment import Config as ImdbConfig
from rft.tasks.imdb_sentiment import ImdbSentiment
@dataclass
class Config(ImdbConfig):
    """As the default task."""
    prompt_tokens: int = 5
    """Shorter."""
class Shorter(ImdbSentiment):
    """Shorter questions."""
''',
    "ownparts_conf/__init__.py": "",
    "ownparts-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: ownparts\nVersion: 1.0\n",
    "ownparts-1.0.dist-info/entry_points.txt": (
        "[rft.plugins]\nownparts = ownparts\n\n[rft.conf]\nownparts = ownparts_conf\n"
    ),
}
OPTIONS = {
    "reward/letters": "reward.Letters",
    "reward/leaky": "leaky.Leaky",
    "reward/greedy": "greedy.Greedy",
    "reward/endless": "endless.Endless",
    "judge/counter": "judge.Counter",
    "feedback/sharp": "feedback.Sharp",
    "task/shorter": "task.Shorter",
}
SMALL = tuple(override for override in TINY if not override.startswith("reward."))  # another source has other fields
OWN = ("reward=letters", "judge=counter", "feedback=sharp", "task=shorter")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PYTHONPATH with the package as an installer leaves it, and rft."""
    folder = tmp_path_factory.mktemp("site")
    yaml = "defaults: [/schema/{0}@_here_, _self_]\n_target_: ownparts.{1}\n"
    options = {f"ownparts_conf/{name}.yaml": yaml.format(name, target) for name, target in OPTIONS.items()}
    for name, text in (FILES | options).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return f"{REPOSITORY}:{folder}"


@pytest.fixture(scope="module")
def beside(site: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """A warm process with the package in its path."""
    process = Warm(tmp_path_factory.mktemp("beside"), PYTHONPATH=site)
    yield process
    process.close()


def test_a_trial_of_foreign_parts_alone_runs_and_its_stages_know_their_classes_and_settings(
    beside: Warm, fresh: Path, tmp_path: Path
) -> None:
    command = ["run", "algorithm=ppo", *ON_POLICY, *OWN, "reward.letter=a", "tracker=none", "arm=own", *SMALL]
    outcome = beside(command, tmp_path, fresh)
    assert outcome.code == 0, outcome.stderr
    trial = Result(trial_folder(tmp_path, "own"), fresh)
    assert {"preferences", "reward_model", "policy", "evaluation"} <= trial.computed
    # Neither the judge nor the labels need the annotators or the model.
    assert "annotators" not in trial.record["stages"]
    manifest = {
        stage: json.loads((trial.entry(stage) / "manifest.json").read_text(encoding="utf-8"))
        for stage in ("questions", "preferences", "reward_model")
    }
    assert manifest["questions"]["config"]["task"] == "ownparts.task.Shorter"
    labels = manifest["preferences"]
    code = labels["config"]["judge"]["code"]  # another package's results are addressed by its code too
    assert labels["config"] == {
        "feedback": {"_target_": "ownparts.feedback.Sharp", "sharpness": 50.0, "code": code},
        "judge": {"_target_": "ownparts.judge.Counter", "letter": "e", "code": code},
    }
    assert set(labels["inputs"]) == {"candidates", "gold"}
    assert manifest["reward_model"]["config"]["reward"] == {
        "_target_": "ownparts.reward.Letters",
        "letter": "a",
        "code": code,
    }
    rows = trial.history()
    assert len(rows) == 3
    assert all(math.isfinite(row["rollout/reward"]) for row in rows)


@pytest.mark.parametrize(("group", "name"), [o.split("=") for o in OWN])
def test_the_packages_parts_pass_their_checks(
    beside: Warm, shared: Path, tmp_path: Path, group: str, name: str
) -> None:
    outcome = beside(["check", group, name], tmp_path, shared)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert "look at" not in outcome.stdout
    assert f"{group}={name}" in outcome.stdout


@pytest.mark.parametrize(
    ("name", "failed", "words", "method"),
    [
        ("leaky", "padding counts nowhere", "with more padding", "def score"),
        ("greedy", "can be fitted", "Greedy asks for labels; declare needs", "def fit"),
        ("endless", "an address", "raised ValueError", None),
    ],
)
def test_a_broken_part_fails_its_own_check_with_file_and_line(
    beside: Warm, shared: Path, tmp_path: Path, name: str, failed: str, words: str, method: str | None
) -> None:
    outcome = beside(["check", "reward", name], tmp_path, shared)
    assert outcome.code == 1, outcome.stdout + outcome.stderr
    lines = outcome.stdout.splitlines()
    (row,) = [line for line in lines if " failed " in line]
    assert row.split("failed")[0].strip() == failed
    assert words in row
    (told,) = [line for line in lines if line.startswith(f"{failed}: look at ")]
    if method is not None:
        source = FILES[f"ownparts/{name}.py"].splitlines()
        line = next(i for i, text in enumerate(source, start=1) if method in text)
        assert told.rstrip().endswith(f"ownparts/{name}.py:{line}")


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("reward", "learned"),
        ("reward", "lexicon"),
        ("judge", "few_shot"),
        ("feedback", "simulated"),
        ("feedback", "ai"),
        pytest.param("task", "imdb_sentiment", marks=pytest.mark.slow),  # what nearly all tests have
    ],
)
def test_what_comes_along_passes_its_checks(shared: Path, warm: Warm, tmp_path: Path, group: str, name: str) -> None:
    outcome = warm(["check", group, name], tmp_path, shared)
    assert outcome.code == 0, outcome.stdout + outcome.stderr
    assert "look at" not in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rewards", "learned"), "valid are reward, judge, feedback, task"),
        (("reward", "lexikon"), "did you mean 'lexicon'"),
        (("reward", "lexicon", "reward.least_word=3"), "did you mean 'least_words'"),
    ],
)
def test_what_there_is_not_is_refused(
    fresh: Path, warm: Warm, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    outcome = warm(["check", *arguments], tmp_path, fresh)
    assert words in outcome.error


@pytest.mark.slow
def test_ppo_learns_from_a_rule_and_the_report_says_how_good_it_is(shared: Path, warm: Warm, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    from rft.rewards.lexicon import Config, LexiconReward

    command = ["run", "algorithm=ppo", "reward=lexicon", "arm=rule", *ON_POLICY, "tracker=none", "study=rules", *SMALL]
    outcome = warm(command, tmp_path, shared)
    assert outcome.code == 0, outcome.stderr
    trial = Result(trial_folder(tmp_path, "rule", study="rules"), shared)
    assert trial.computed == {"reward_model", "policy", "evaluation"}
    folder = trial.entry("reward_model")
    assert {p.name for p in folder.iterdir()} == {"lexicon.json", "standardise.json", "scores.parquet", "manifest.json"}
    measured = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["metrics"]
    assert (measured["train_pairs"], measured["train_accuracy"]) == (0, None)
    assert measured["heldout_pairs"] > 0
    assert 0 <= measured["heldout_accuracy"] <= 1
    # It knows people's words, whatever the tiny model writes; a coin gets 0.5.
    assert measured["human_accuracy"] > 0.6

    rule = LexiconReward(Config(), None)  # type: ignore[arg-type]
    rule.load(folder)
    standard = json.loads((folder / "standardise.json").read_text(encoding="utf-8"))
    rows = pq.read_table(trial.entry("evaluation") / "evaluation.parquet").to_pylist()
    for row in rows:
        wanted = (rule.sentiment(row["response"]) - standard["mean"]) / standard["std"]
        assert row["proxy"] == pytest.approx(wanted, abs=1e-5)
    first, *_ = trial.history()
    assert math.isfinite(first["rollout/reward"])
    assert first["train/value"] == pytest.approx(0.0, abs=1.0)

    compared = warm(["compare", "rules"], tmp_path, shared)
    assert compared.code == 0, compared.stderr
    assert "reward lexicon, beside simulated feedback (rule): right on" in compared.stdout
    page = (tmp_path / "runs" / "rules" / "report.html").read_text(encoding="utf-8")
    assert "the rule lexicon, which learned from no label" in page


def test_a_reward_model_is_where_it_was_before_there_were_other_sources(shared: Path) -> None:
    """Its address is made of the same parts: what was computed is found again."""
    (entry,) = [
        found
        for path in (shared / "reward_model").glob("*/manifest.json")
        if (found := json.loads(path.read_text(encoding="utf-8")))["inputs"]["preferences"]
        in labels_of(shared, "simulated")
    ]
    assert set(entry["config"]) == {"reward", "lora", "strategy"}
    assert set(entry["config"]["reward"]) == {"_target_", "lr", "epochs", "prompts_per_step", "pooling", "seed"}
    assert set(entry["inputs"]) == {"sft", "candidates", "preferences", "ratings"}
    assert entry["version"] == VERSIONS["reward_model"]
    assert set(entry["files"]) == {"reward.safetensors", "standardise.json", "scores.parquet"}


def labels_of(store: Path, source: str) -> set[str]:
    """Keys of the labels by a feedback source."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in (store / "preferences").glob("*/manifest.json")]
    return {entry["key"] for entry in found if f".{source}." in entry["config"]["feedback"]["_target_"]}
