"""Makes a study in moments, writes its report and tells its tracker of it, in a process of its own.

``python -m tests.told_study JSON`` with ``root``, ``arms``, ``seeds``, ``tracker`` (overrides) and ``times``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.synthetic_study import Study

REPOSITORY = Path(__file__).parents[1]


def tell(
    root: Path, arms: Sequence[str] = ("sft", "ppo"), seeds: int = 2, tracker: Sequence[str] = (), times: int = 1
) -> subprocess.CompletedProcess[str]:
    """Start the process and wait for it; the study is ``root/runs/demo``."""
    root.mkdir(parents=True, exist_ok=True)
    task = {"root": str(root), "arms": list(arms), "seeds": seeds, "tracker": list(tracker), "times": times}
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.told_study", json.dumps(task)]
    return subprocess.run(command, cwd=root, env=env, capture_output=True, text=True, check=True)


def main(task: Mapping[str, Any]) -> None:
    """Do as told; prints what was wrong with the tracker."""
    from rft.config import compose
    from rft.evaluation.statistics import Resampling
    from rft.report import summarise, write_report
    from rft.study.compared import tell_study
    from rft.study.parts import plain

    config = plain(compose(["model=tiny", *task["tracker"]]))
    study = Study(Path(task["root"]))

    def tracked(record: dict[str, Any]) -> None:
        record["config"] |= {"tracker": config["tracker"], "model": config["model"]}

    for arm in task["arms"]:
        for seed in range(task["seeds"]):
            study.trial(arm, seed, change=tracked)
    results = study.load()
    summary = summarise(results, settings=Resampling(resamples=200))
    write_report(results, summary, study.folder)
    print([fault for _ in range(task["times"]) for fault in tell_study(results, summary, study.folder)])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
