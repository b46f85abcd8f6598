"""The curve of every algorithm that trains, on a tiny model in fp32 with adapters, for one seed.

    python -m tests.integration.curves FOLDER > curves.json    # FOLDER is empty or not there; a minute or two

``curves.json`` beside this file was written so, with this file laid into it, by the commit that it names: the last with
the rollouts of transformers and a training step of padded rows. ``test_same_numbers.py`` compares with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.integration.harness import LORA, OF, ON_POLICY, REPOSITORY, TINY, Result, Warm, trial_folder

# The rate is high: what a policy then does in the last rows depends on all that it learned in the first.
SETTINGS = (
    *TINY,
    *(setting for setting in LORA if not setting.startswith("strategy.precision")),
    "tracker=none",
    "algorithm.lr=3e-3",
)
ARMS: Mapping[str, Sequence[str]] = {
    "ppo": OF["ppo"],
    "rlaif": OF["rlaif"],
    "grpo": ("algorithm=grpo", *ON_POLICY),
    "rloo": ("algorithm=rloo", *ON_POLICY),
    "reinforce_pp": ("algorithm=reinforce_pp", *ON_POLICY),
    "raft": ("algorithm=raft", *ON_POLICY),
    "online_dpo": ("algorithm=online_dpo", *ON_POLICY),
    "dpo": OF["dpo"],
    "kto": OF["kto"],
    "orpo": ("algorithm=orpo", "algorithm.pairs_per_step=4", "algorithm.epochs=4"),
    "simpo": ("algorithm=simpo", "algorithm.pairs_per_step=4", "algorithm.epochs=4"),
}
ROWS = 3
# Of the machine, or of what is charged: a backward that nothing is learned from was charged before.
NOT_RESULTS = ("seconds", "flops", "memory", "per_second", "cost", "budget", "tokens")


def curve(warm: Warm, cwd: Path, store: Path, name: str) -> list[dict[str, float]]:
    """The first rows of an algorithm's metrics, and the last.

    Args:
        warm: starts the process.
        cwd: folder of the trials.
        store: where their stages are or will be.
        name: of ARMS.
    """
    outcome = warm(["run", *ARMS[name], f"arm={name}", *SETTINGS], cwd, store)
    assert outcome.code == 0, outcome.stderr
    rows = Result(trial_folder(cwd, name), store).history()
    return [
        {key: value for key, value in row.items() if not any(word in key for word in NOT_RESULTS)}
        for row in (*rows[:ROWS], rows[-1])
    ]


def main(folder: Path) -> None:
    """Print the curves of all, as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    warm, found = Warm(folder / "warm"), {}
    try:
        for name in ARMS:
            found[name] = curve(warm, folder, folder / "store", name)
            print(name, file=sys.stderr, flush=True)
    finally:
        warm.close()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    made: dict[str, Any] = {"commit": commit.stdout.strip(), "curves": found}
    sys.stdout.write(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
