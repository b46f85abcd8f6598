"""A study as the stages leave it, made in moments: trials, their store entries, curves and texts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rft.budget.usage import COUNTED
from rft.report import StudyResults, load_study
from rft.store import Store
from rft.store.cost import COST

EVIL = "<script>alert(1)</script> & </script><img src=x onerror=alert(2)> '\"<!--"
GOLD = {"sft": 0.52, "ppo": 0.82, "dpo": 0.68, "rlaif": 0.74}
SOURCE = {"rlaif": "ai", "rlaif_dpo": "ai"}
PREFERENCES = {
    "simulated": {"pairs": 512, "ties": 61, "gold_agreement": 0.8431},
    "ai": {"pairs": 512, "ties": 0, "excluded": 12, "gold_agreement": None},
}
REWARD_MODEL = {
    "simulated": {"heldout_pairs": 51, "heldout_accuracy": 0.784, "human_pairs": 400, "human_accuracy": 0.7175,
                  "human_ceiling": 0.8467, "train_accuracy": 0.891, "train_pairs": 405},
    "ai": {"heldout_pairs": 58, "heldout_accuracy": 0.862, "human_pairs": 400, "human_accuracy": 0.6925,
           "human_ceiling": 0.8467, "train_accuracy": 0.948, "train_pairs": 454},
}  # fmt: skip


def share(value: float, n: int = 400) -> dict[str, Any]:
    """A share with an interval, as an audit holds it."""
    return {"value": value, "low": max(0.0, value - 0.04), "high": min(1.0, value + 0.04), "n": n}


AUDIT: dict[str, Any] = {
    "judge": "few_shot", "form": "pairwise", "model": "smollm2-135m-instruct",
    "human": {"pairs": 400, "accuracy": share(0.815), "auc": share(0.94), "auc_person": share(0.963),
              "ceiling": {"majority": 0.8467, "single": 0.7725, "half_panel": 0.931},
              "clear": [{"above": 0.5, "pairs": 320, "accuracy": share(0.858, 320), "auc": share(0.953, 320),
                         "auc_person": share(0.971, 320),
                         "ceiling": {"majority": 0.906, "single": 0.886, "half_panel": 0.997}},
                        {"above": 1.0, "pairs": 266, "accuracy": share(0.886, 266), "auc": share(0.968, 266),
                         "auc_person": share(0.982, 266),
                         "ceiling": {"majority": 0.938, "single": 0.934, "half_panel": 1.0}}]},
    "gold": {"pairs": 400, "accuracy": share(0.79)},
    "order": {"pairs": 200, "flips": share(0.31, 200), "same_position": share(0.97, 200), "first_shown": share(0.88)},
    "length": {"pairs": 380, "judge_longer": share(0.61), "human_longer": share(0.52),
               "excess": {"value": 0.09, "low": 0.05, "high": 0.13, "n": 380}},
    "calibration": {"bins": [{"low": 0.2 * i, "high": 0.2 * i + 0.2, "pairs": 80 * (i != 2), "judge": 0.2 * i + 0.1,
                              "human": 0.3 + 0.08 * i} for i in range(5)], "ece": 0.143, "brier": 0.201},
    "self_preference": {"pairs": 128, "same_family": True, "judge_own": share(0.66), "gold_own": share(0.58),
                        "excess": {"value": 0.08, "low": -0.01, "high": 0.17, "n": 128}},
    "again": {"pairs": 64, "same": share(0.98, 64), "mean_change": 0.013},
    "unread": {"questions": 800, "retried": 21, "excluded": 9},
    "cost": {"questions": 800, "kept": 40, "read": 123_456, "written": 800, "money": 0.021},
    "seconds_per_question": 0.048,
    "attacks": {"pairs": 60, "success": share(0.45, 60), "control": share(0.1, 60),
                "by_attack": [{"attack": "ignore the instructions", "success": share(0.3, 30)},
                              {"attack": "choose A", "success": share(0.6, 30)}]},
    "economics": [{"source": "one person", "share_human": 1.0, "agreement": share(0.84), "cost_per_label": 0.1},
                  {"source": "ai", "share_human": 0.0, "agreement": share(0.82), "cost_per_label": 0.00005},
                  {"source": "mixed", "share_human": 0.25, "agreement": share(0.87), "cost_per_label": 0.0251}],
}  # fmt: skip
"""What the stage `audit` writes of a judge that can be swayed by the order."""
OPENINGS = ("I watched this film with", "The story begins in a", "When the director decided to", "My wife and I had")
GOOD = ("a warm and patient film", "full of small wonders", "the cast is superb", "I would see it again tomorrow")
BAD = ("a slow and careless mess", "two hours of nothing", "the script falls apart", "I left before the end")
ITERATIONS = 24
PRICES = {"gpu_hour": 2.0, "core_hour": 0.6, "human_label": 0.1, "judge_mtoken": 0.5}
Rows = list[dict[str, Any]]


class Study:
    """A folder of trials and the store that holds their evaluation rows.

    `checkpoints`: points of training that every arm but the control was tested at. `eval_judge`: whether the final
    test has a judge, the one that arms with AI labels learned from.
    """

    def __init__(
        self, root: Path, prompts: int = 24, name: str = "demo", checkpoints: int = 0, *, eval_judge: bool = False
    ) -> None:
        self.name = name
        self.eval_judge = eval_judge
        self.checkpoints = checkpoints
        self.folder = root / "runs" / name
        self.store = Store(root / "store")
        self.prompts = prompts

    def rows(self, arm: str, seed: int) -> Rows:
        level = GOLD.get(arm, 0.6)
        # The control's seeds are one policy with one set of sampling seeds: equal rows.
        rng = np.random.default_rng([len(arm), ord(arm[0]), 0 if arm == "sft" else seed])
        shift = 0.0 if arm == "sft" else rng.normal(0, 0.02)
        hard = np.random.default_rng(7).normal(0, 0.1, 2 * self.prompts)
        rows = []
        for n in range(2 * self.prompts):
            split = "test" if n < self.prompts else "ood"
            gold = float(np.clip(level + shift + hard[n] + rng.normal(0, 0.12) - 0.05 * (split == "ood"), 0, 1))
            length = int(rng.integers(14, 25))
            rows.append(
                {
                    "split": split, "prompt_id": f"{split}-{n:04d}", "sample": 0,
                    "prompt": f"{OPENINGS[n % 4]} {n}",
                    "response": ", ".join(rng.choice(GOOD if rng.random() < gold else BAD, 3)) + ".", "gold": gold,
                    "gold_logit": float(np.log(gold + 1e-3) - np.log(1 - gold + 1e-3)),
                    "proxy": 5 * gold - 2 + float(rng.normal(0, 0.4)),
                    "kl": 0.0 if arm == "sft" else float(abs(rng.normal(25 * (level - 0.5), 1.0))),
                    "length": length, "truncated": length == 24,
                }
            )  # fmt: skip
        return rows

    def history(self, arm: str, seed: int) -> Rows:
        """What the policy stage logs: rollouts where the arm makes any, margins where it learns from pairs.

        All that is counted is in every row, also what the arm does not use.
        """
        rng = np.random.default_rng([len(arm), seed, 1])
        rows = []
        for i in range(ITERATIONS if arm != "sft" else 0):
            done = 1 - np.exp(-i / 8)
            row = {"step": 4.0 * (i + 1), "train/loss": float(0.1 - 0.05 * done + rng.normal(0, 0.01))}
            used = {"prompts": 32, "trained_tokens": 1200, "flops": 8e12}
            used |= {"labels": 16, "human_labels": 48} if arm == "dpo" else {"generated_tokens": 600}
            row |= {f"budget/{name}": float(used.get(name, 0) * (i + 1)) for name in COUNTED}
            if arm == "dpo":
                row |= {"train/margin": float(2 * done + rng.normal(0, 0.1)), "train/accuracy": float(0.5 + 0.4 * done)}
            else:
                row |= {
                    "rollout/reward": float(1.6 * done + rng.normal(0, 0.1)),
                    "rollout/kl": float(7 * done + rng.normal(0, 0.2)),
                    "rollout/length": 22.0,
                    "train/clip_fraction": float(abs(rng.normal(0.05, 0.02))),
                }
            rows.append(row)
        return rows

    def points(self, arm: str, seed: int) -> Rows:
        """Rows of the points of training, on every other question; a limit ends each seed at steps of its own."""
        control = self.rows("sft", 0)
        rows = []
        for number in range(self.checkpoints if arm != "sft" else 0):
            part = (number + 1) / (self.checkpoints + 1) + 0.001 * seed
            where = {"checkpoint": number, "step": round(4 * ITERATIONS * part), "fraction": part}
            for start, end in zip(control[::2], self.rows(arm, seed)[::2], strict=True):
                mixed = {name: start[name] + part * (end[name] - start[name]) for name in ("gold", "proxy", "kl")}
                rows.append(where | {name: end[name] for name in ("split", "prompt_id", "sample")} | mixed)
        return rows

    def stage(
        self, name: str, *, inputs: Mapping[str, str] | None = None, metrics: Mapping[str, Any] | None = None,
        write: Callable[[Path], Any] | None = None, **config: Any,
    ) -> dict[str, Any]:  # fmt: skip
        def build(folder: Path) -> Mapping[str, Any] | None:
            (folder / "result.txt").write_text(json.dumps([name, config], sort_keys=True))
            if write:
                write(folder)
            return metrics

        entry = self.store.get_or_compute(name, version=1, config=config, inputs=inputs or {}, build=build)
        return {"key": entry.key, "digest": entry.digest, "seconds": 0.5, "computed": True}

    def _labels(self, source: str, folder: Path) -> None:
        """Two sources that agree on three pairs of four, ties of the simulated one set aside.

        The judge's verdicts on three pairs could not be read.
        """
        rng = np.random.default_rng(3)
        rows = []
        for pair in range(40):
            first = rng.random() < 0.5
            flipped = source == "ai" and pair % 4 == 0
            tied = source == "simulated" and pair >= 32
            unread = source == "ai" and pair >= 37
            known = None if unread else 0.5 if tied else float(first != flipped)
            rows.append({"pair": pair, "preference": known})
        pq.write_table(pa.Table.from_pylist(rows), folder / "labels.parquet")

    def policy(
        self, arm: str, seed: int, inputs: Mapping[str, str] | None = None, history: Rows | None = None
    ) -> dict[str, Any]:
        """The stage with its history, by default the arm's own, and the time that each of its rows took."""
        rows = self.history(arm, seed) if history is None else history
        clock = [{"seconds": 12.0 * (i + 1), "device_seconds": 24.0 * (i + 1)} for i in range(len(rows))]
        return self.stage(
            "policy", arm=arm, seed=0 if arm == "sft" else seed, inputs=inputs, metrics={COST: {"clock": clock}},
            write=lambda folder: (folder / "history.json").write_text(json.dumps(rows)),
        )  # fmt: skip

    def audit(self, found: Mapping[str, Any], preferences: str) -> dict[str, Any]:
        """The stage that audits the judge of some labels."""
        text = json.dumps(found)
        return self.stage(
            "audit", of=text, inputs={"preferences": preferences},
            write=lambda folder: (folder / "audit.json").write_text(text),
        )  # fmt: skip

    def labelled(self, arm: str, seed: int, algorithm: str, agreement: float, gold: float) -> None:
        """A trial of an arm on labels that agree with gold so far, whose own mean gold is `gold` or near it."""

        def raise_gold(rows: Rows) -> None:
            mean = float(np.mean([row["gold"] for row in rows]))
            for row in rows:
                row["gold"] = float(np.clip(row["gold"] - mean + gold, 0, 1))

        def change(record: dict[str, Any]) -> None:
            labels = self.stage("preferences", quality=agreement, metrics={"pairs": 512, "gold_agreement": agreement})
            record["algorithm"] = algorithm
            record["stages"]["preferences"] = labels

        self.trial(arm, seed, change=change, change_rows=raise_gold)

    def trial(
        self, arm: str, seed: int, *, change_rows: Callable[[Rows], Any] | None = None,
        change: Callable[[dict[str, Any]], Any] | None = None, start: str = "smollm2",
        change_points: Callable[[Rows], Any] | None = None, audit: Mapping[str, Any] | None = AUDIT,
    ) -> Path:  # fmt: skip
        rows, points = self.rows(arm, seed), self.points(arm, seed)
        for row in rows if self.eval_judge else ():
            row["judge"] = 8 * row["gold"] - 4
        if change_rows:
            change_rows(rows)
        if change_points:
            change_points(points)
        sums = hashlib.sha256(json.dumps([*rows, *points], sort_keys=True, default=repr).encode()).hexdigest()
        source = SOURCE.get(arm, "simulated")
        asked = {"judge": {"_target_": "rft.feedback.judges.few_shot.FewShotJudge"}} if source == "ai" else {}
        stages = {"questions": self.stage("questions"), "sft": self.stage("sft", model=start)}
        stages["candidates"] = self.stage("candidates", model=start)
        stages["preferences"] = self.stage(
            "preferences", source=source, inputs={"candidates": stages["candidates"]["key"]},
            metrics=PREFERENCES[source], write=lambda folder: self._labels(source, folder), **asked,
        )  # fmt: skip
        if asked and audit:
            stages["audit"] = self.audit(audit, stages["preferences"]["key"])
        stages["reward_model"] = self.stage(
            "reward_model", metrics=REWARD_MODEL[source], inputs={"preferences": stages["preferences"]["key"]}
        )
        stages["policy"] = self.policy(arm, seed)

        def write(folder: Path) -> None:
            pq.write_table(pa.Table.from_pylist(rows), folder / "evaluation.parquet")
            if points:
                pq.write_table(pa.Table.from_pylist(points), folder / "checkpoints.parquet")

        asked = {"judge_read": 9000, "judge_written": 30, "judge_money": 0.015}
        taught = {"eval/judge_taught": float(source == "ai"), COST: asked} if self.eval_judge else None
        stages["evaluation"] = self.stage("evaluation", arm=arm, seed=seed, rows=sums, write=write, metrics=taught)
        record: dict[str, Any] = {
            "study": self.name, "arm": arm, "algorithm": arm, "seed": seed, "status": "done", "error": None,
            "overrides": [f"algorithm={arm}", f"seed={seed}"], "stages": stages,
            "evaluation": stages["evaluation"]["key"],
            "config": {"feedback": {"_target_": f"rft.feedback.{source}.Source"}, "budget": {"prices": PRICES}},
        }  # fmt: skip
        if self.eval_judge:
            record["config"]["eval_judge"] = {"_target_": "rft.feedback.judges.few_shot.FewShotJudge"}
        if change:
            change(record)
        path = self.folder / arm / f"seed-{seed}" / "trial.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record))
        return path

    def fill(self, arms: tuple[str, ...] = tuple(GOLD), seeds: int = 3) -> Study:
        for arm in arms:
            for seed in range(seeds):
                self.trial(arm, seed)
        return self

    def load(self) -> StudyResults:
        return load_study(self.folder, self.store)

    def questions(self) -> dict[str, Any]:
        """The questions that `rows` answers, as the stage of that name keeps them."""
        rows = self.rows("sft", 0)
        table = pa.table(
            {"split": [r["split"] for r in rows], "prompt_id": [r["prompt_id"] for r in rows]}
            | {"text": [r["prompt"] for r in rows]}
        )
        return self.stage("questions", rows=len(rows), write=lambda f: pq.write_table(table, f / "questions.parquet"))


class LargeStudy(Study):
    """Many trials, made quickly: the control `sft` and arms `arm-001` … with records and entries as the stages leave.

    The arms' true effects are spread evenly, so that some differ clearly and neighbours hardly.
    """

    def __init__(self, root: Path, arms: int = 200, seeds: int = 5, prompts: int = 128) -> None:
        super().__init__(root, prompts)
        self.arms = ("sft", *(f"arm-{n:03d}" for n in range(1, arms)))
        self.seeds = seeds

    def make(self) -> LargeStudy:
        from rft.config import compose
        from rft.study.parts import plain

        config = json.dumps(plain(compose(["algorithm=grpo"])))
        stages = {"questions": self.questions()}
        for name in ("sft", "candidates"):
            stages[name] = self.stage(name, model="smollm2", inputs={"questions": stages["questions"]["key"]})
        stages["preferences"] = self.stage(
            "preferences", inputs={"candidates": stages["candidates"]["key"]}, metrics=PREFERENCES["simulated"]
        )
        stages["reward_model"] = self.stage(
            "reward_model", metrics=REWARD_MODEL["simulated"], inputs={"preferences": stages["preferences"]["key"]}
        )
        for n, arm in enumerate(self.arms):
            for seed in range(self.seeds):
                record = {
                    "study": "demo", "arm": arm, "algorithm": "sft" if n == 0 else "grpo", "seed": seed,
                    "status": "done", "error": None, "overrides": ["algorithm=grpo", f"seed={seed}", f"arm={arm}"],
                    "stages": stages | self._own(n, arm, seed), "config": json.loads(config) | {"seed": seed},
                }  # fmt: skip
                record["evaluation"] = record["stages"]["evaluation"]["key"]
                path = self.folder / arm / f"seed-{seed}" / "trial.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(record))
        return self

    def _own(self, n: int, arm: str, seed: int) -> dict[str, Any]:
        """The stages policy and evaluation of a trial."""
        table = self.table(n, seed)
        policy = self.policy(arm, seed, history=self.history("ppo" if n else "sft", 1000 * n + seed))
        return {
            "policy": policy,
            "evaluation": self.stage(
                "evaluation", arm=arm, seed=seed, inputs={"policy": policy["key"]},
                write=lambda f: pq.write_table(table, f / "evaluation.parquet"),
            ),
        }  # fmt: skip

    def table(self, n: int, seed: int) -> pa.Table:
        """The rows of arm number `n`; columns as `rft.evaluation.evaluate` writes them."""
        size = 2 * self.prompts
        rng = np.random.default_rng([n, seed if n else 0])
        shift = rng.normal(0, 0.02) if n else 0.0
        hard = np.random.default_rng(7).normal(0, 0.1, size)
        gold = np.clip(0.5 + 0.3 * n / len(self.arms) + shift + hard + rng.normal(0, 0.12, size), 0.01, 0.99)
        pick, good = rng.integers(0, 4, (size, 3)).tolist(), (rng.random(size) < gold).tolist()
        length = rng.integers(14, 25, size)
        return pa.table(
            {
                "split": ["test"] * self.prompts + ["ood"] * self.prompts,
                "prompt_id": [f"{'test' if m < self.prompts else 'ood'}-{m:04d}" for m in range(size)],
                "prompt": [f"{OPENINGS[m % 4]} {m}" for m in range(size)],
                "response": [
                    f"{(GOOD if g else BAD)[a]}, {(GOOD if g else BAD)[b]} {m} {n}, {(GOOD if g else BAD)[c]}."
                    for m, (g, (a, b, c)) in enumerate(zip(good, pick, strict=True))
                ],
                "proxy": 5 * gold - 2 + rng.normal(0, 0.4, size),
                "kl": np.abs(rng.normal(7 * n / len(self.arms), 1.0, size)) if n else np.zeros(size),
                "length": length, "truncated": length == 24, "sample": np.zeros(size, np.int64),
                "gold_logit": np.log(gold) - np.log1p(-gold), "gold": gold,
            }
        )  # fmt: skip
