"""Launchers over one ledger: real processes, each with a small script in a trial's place."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rft.cli.app import app
from rft.errors import UserError
from rft.store import Store
from rft.study.finished import is_finished
from rft.study.jobs import Job
from rft.study.launch import Process
from rft.study.ledger import Ledger
from rft.study.origin import origin, require_unchanged
from rft.study.rows import State
from rft.study.slots import Demand, Grant, Machine
from rft.study.versions import declared, versions
from tests.scripted import Scripted, start_launcher


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFT_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def jobs(world: Path, *acts: str) -> list[Job]:
    """One a script; the seed is its number."""
    study = world / "runs" / "s"
    return [
        Job(f"a seed {n}", (f"act={act}",), study / f"a-s{n}-00000000", forks=False, arm="a", seed=n)
        for n, act in enumerate(acts)
    ]


def run(world: Path, work: list[Job], **more: object) -> dict[str, str]:
    with Scripted(Console(file=io.StringIO()), world / "runs" / "s", **more) as launcher:  # type: ignore[arg-type]
        return launcher.run(work, 2, "trials")


def starts(world: Path) -> Counter[str]:
    """How often each trial was started."""
    file = world / "starts"
    return Counter(file.read_text(encoding="utf-8").split()) if file.exists() else Counter()


def states(world: Path) -> list[str]:
    return [row.state.value for row in Ledger(world / "runs" / "s").rows()]


def wait_until(condition: object, seconds: float = 200.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)


def test_what_is_to_be_done_meanwhile_is_done_once_when_the_first_has_started(world: Path) -> None:
    seen: list[list[str]] = []
    assert run(world, jobs(world, "last", "last", "last"), meanwhile=lambda: seen.append(states(world))) == {}
    (when,) = seen
    assert "running" in when


def test_what_has_left_its_record_is_done_however_it_ended_after_that(world: Path) -> None:
    assert run(world, jobs(world, "last")) == {}
    assert states(world) == ["done"]
    record = json.loads((world / "runs" / "s" / "a-s0-00000000" / "trial.json").read_text(encoding="utf-8"))
    assert record["status"] == "done"


def test_each_ends_as_it_ends_and_the_others_go_on(world: Path) -> None:
    failed = run(world, jobs(world, "done", "exit", "raise", "die", "done"))
    assert states(world) == ["done", "failed", "failed", "interrupted", "done"]
    assert failed["a seed 1"] == "ended with exit code 3"
    assert failed["a seed 2"] == "ValueError: planted"
    assert failed["a seed 3"].startswith("killed by signal 9")
    rows = Ledger(world / "runs" / "s").rows()
    assert "Traceback" in (rows[2].error or "")
    assert [row.attempts for row in rows] == [1] * 5
    assert (rows[0].error, rows[0].versions, rows[0].owner) == (None, versions(), None)


def test_what_is_done_is_not_started_again_unless_its_results_or_the_versions_are_gone(world: Path) -> None:
    work = jobs(world, "done", "exit", "done", "done")
    run(world, work)
    (world / "exits-0").touch()
    record = work[2].folder / "trial.json"
    record.write_text(record.read_text(encoding="utf-8").replace(versions(), "0" * 16), encoding="utf-8")
    (work[3].folder / "trial.json").unlink()
    assert run(world, work, again=(State.interrupted,)) == {"a seed 1": "ended with exit code 3"}
    assert starts(world) == {"a-s0": 1, "a-s1": 1, "a-s2": 1, "a-s3": 2}
    assert run(world, work) == {}
    assert starts(world) == {"a-s0": 1, "a-s1": 2, "a-s2": 2, "a-s3": 2}
    assert states(world) == ["done"] * 4


def test_after_a_launcher_was_killed_another_does_what_is_missing(world: Path) -> None:
    work = jobs(world, "done", "wait", "wait", "done")
    killed = start_launcher(world, work)
    wait_until(lambda: {"a-s1", "a-s2"} <= set(starts(world)))
    killed.kill()
    killed.wait()
    wait_until(lambda: states(world) == ["done", "interrupted", "interrupted", "queued"])
    (world / "go").touch()
    assert run(world, work, again=()) == {}
    assert starts(world) == {"a-s0": 1, "a-s1": 2, "a-s2": 2, "a-s3": 1}
    assert states(world) == ["done"] * 4


def test_what_ended_after_its_launcher_is_done_for_whoever_goes_on(world: Path) -> None:
    killed = start_launcher(world, jobs(world, "outlive"))
    wait_until(lambda: starts(world)["a-s0"] == 1)
    killed.kill()
    killed.wait()
    (world / "go").touch()
    wait_until(lambda: is_finished(world / "runs" / "s" / "a-s0-00000000", Store.default()))
    assert states(world) == ["interrupted"]
    said = CliRunner().invoke(app, ["resume", "s"])
    assert said.exit_code == 0
    assert "nothing to start; 1 done" in said.output
    assert states(world) == ["done"]
    assert starts(world) == {"a-s0": 1}


def test_eight_launchers_at_once_start_each_trial_once(world: Path) -> None:
    work = jobs(world, *["done"] * 5, "exit")
    processes = [start_launcher(world, work) for _ in range(8)]
    assert [process.wait(250) for process in processes] == [0] * 8
    assert starts(world) == {f"a-s{n}": 1 for n in range(6)}
    assert states(world) == [*["done"] * 5, "failed"]


def test_ctrl_c_once_asks_the_trials_to_end(world: Path) -> None:
    process = start_launcher(world, jobs(world, "wait", "done", "wait", "done"))
    wait_until(lambda: {"a-s0", "a-s2"} <= set(starts(world)))
    time.sleep(0.5)  # their handlers
    process.send_signal(signal.SIGINT)
    process.wait(200)
    assert states(world)[0] == states(world)[2] == "interrupted"
    assert sorted(path.name for path in world.glob("asked-*")) == ["asked-a-s0", "asked-a-s2"]


def test_an_exit_code_of_0_without_a_record_is_no_end(world: Path) -> None:
    run(world, jobs(world, "nothing", "done"))
    assert states(world) == ["failed", "done"]


def test_a_record_of_an_earlier_start_tells_nothing_of_this_one(world: Path) -> None:
    work = jobs(world, "exit")
    work[0].folder.mkdir(parents=True)
    (work[0].folder / "trial.json").write_text(json.dumps({"status": "failed", "error": "interrupted; start it again"}))
    run(world, work)
    assert states(world) == ["failed"]


def test_a_place_that_holds_one_thing_after_another_is_never_taken_for_the_other(world: Path) -> None:
    def at(share: str, act: str = "done") -> Job:
        place = world / "runs" / "s" / "tuning" / "a" / "trial-000" / "seed-0"
        return Job("a", (f"act={act}", f"share={share}"), place, forks=False, arm="a", seed=0)

    assert run(world, [at("0.25")]) == {}
    killed = start_launcher(world, [at("0.5", "wait")])
    wait_until(lambda: starts(world)["seed-0"] == 2)
    killed.kill()
    killed.wait()
    (world / "go").touch()
    assert run(world, [at("0.25")]) == {}
    assert starts(world)["seed-0"] == 3
    assert run(world, [at("0.5", "wait")]) == {}
    assert starts(world)["seed-0"] == 4


def test_cancelled_while_it_runs(world: Path) -> None:
    process = start_launcher(world, jobs(world, "wait", "done", "wait", "done"))
    wait_until(lambda: {"a-s0", "a-s2"} <= set(starts(world)))
    time.sleep(0.5)
    said = CliRunner().invoke(app, ["cancel", "s", "a-s0", "a-s3"]).output
    assert said.splitlines() == ["cancelled a-s3-00000000", "a-s0-00000000 is asked to end"]
    wait_until((world / "asked-a-s0").exists)
    (world / "go").touch()
    assert process.wait(200) == 0
    assert states(world) == ["cancelled", "done", "done", "cancelled"]
    assert starts(world)["a-s3"] == 0
    assert (world / "asked-a-s0").read_text(encoding="utf-8") == "once"


def test_status_tells_every_trial(world: Path) -> None:
    run(world, jobs(world, "done", "exit"))
    shown = CliRunner().invoke(app, ["status", "s"]).output
    assert "1 done, 1 failed" in shown
    found = json.loads(CliRunner().invoke(app, ["status", "s", "--json"]).output)
    assert [(row["seed"], row["state"], row["attempts"]) for row in found] == [(0, "done", 1), (1, "failed", 1)]
    assert found[1]["error"].splitlines() == ["last words", "ended with exit code 3"]
    assert "rft retry s starts those that failed once more" in shown
    assert found[0]["overrides"] == ["act=done"]


@pytest.mark.parametrize("command", ["status", "resume", "retry", "cancel"])
def test_a_study_or_trial_that_is_not_there_is_refused_with_the_nearest(world: Path, command: str) -> None:
    run(world, jobs(world, "done"))
    refused = CliRunner().invoke(app, [command, "t"]).exception
    assert isinstance(refused, UserError)
    assert "no study with a ledger" in str(refused)
    if command in ("retry", "cancel"):
        refused = CliRunner().invoke(app, [command, "s", "a-s7"]).exception
        assert "a-s7: no such trial" in str(refused)
    assert f"rft {command} first" in CliRunner().invoke(app, [command, "--help"]).output


def test_a_study_that_changed_is_refused_with_the_difference_and_both_ways_on(world: Path) -> None:
    file = world / "plan" / "study.yaml"
    file.parent.mkdir()
    file.write_text("arms: {a: [algorithm=sft], b: [algorithm=dpo]}\nseeds: [0]\njobs: 1", encoding="utf-8")
    kept = json.loads(json.dumps(origin(file.parent, ["model=tiny"])))
    file.write_text("arms: {a: [algorithm=sft], b: [algorithm=dpo]}\nseeds: [0]\njobs: 2", encoding="utf-8")
    assert require_unchanged(kept, "plan") == file
    file.write_text("arms: {a: [algorithm=sft], b: [algorithm=ppo]}\nseeds: [0, 1]", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        require_unchanged(kept, "plan")
    for words in ("arms.b was [algorithm=dpo] and is [algorithm=ppo]", "seeds was [0] and is [0, 1]", "put it back"):
        assert words in str(caught.value)
    assert f"rft compare {file.parent} model=tiny" in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="is gone"):
        require_unchanged(kept, "plan")


def test_every_declared_version_is_in_the_digest() -> None:
    from rft.feedback.annotators import VERSION
    from rft.study.start import Start
    from rft.tasks.imdb_sentiment import ImdbSentiment

    found = declared()
    assert found["study/start.py"] == [f"version: ClassVar[int] = {Start.version}"]
    assert found["tasks/imdb_sentiment.py"] == [f"version: ClassVar[int] = {ImdbSentiment.version}"]
    assert found["feedback/annotators.py"] == [f'STAGE, VERSION = "annotators", {VERSION}']


def test_a_launcher_knows_the_versions_without_what_computes() -> None:
    code = "import sys, rft.study.versions as v; v.versions(); print({'torch', 'lightning'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout == "set()\n"


class Noting(Scripted):
    """Notes what each job was given, and what all that ran then had."""

    def start(self, job: Job, grant: Grant) -> Process:
        """Note, then start."""
        self.given: dict[str, Grant] = {**getattr(self, "given", {}), job.name: grant}
        self.beside = [*getattr(self, "beside", []), list(self.executor.slots.running)]
        return super().start(job, grant)


def test_jobs_get_what_they_ask_for_and_never_more_than_there_is_run(world: Path) -> None:
    demands = [Demand(2, 0, 0.5), Demand(2, 0, 2), Demand(1, 0, 0.5), Demand(4, 0, 0), Demand(1)]
    work = [replace(job, demand=one) for job, one in zip(jobs(world, *["exit"] * 5), demands, strict=True)]
    with Noting(Console(file=io.StringIO()), world / "runs" / "s") as launcher:
        launcher.executor.slots.machine = Machine(4, 0, ("0", "1"))
        failed = launcher.run(work, 0, "trials")
        assert launcher.executor.slots.running == []
    assert set(failed) == {job.name for job in work}
    assert {one.name: launcher.given[one.name].demand for one in work} == {one.name: one.demand for one in work}
    assert all(sum(grant.demand.cores for grant in held) <= 4 for held in launcher.beside)
    assert launcher.given["a seed 1"].gpus == ("0", "1")
    assert launcher.given["a seed 3"].environment["CUDA_VISIBLE_DEVICES"] == ""
    assert states(world) == ["failed"] * 5


def test_a_job_comes_after_those_that_it_needs_and_the_others_do_not_wait(world: Path) -> None:
    first, second, other = jobs(world, "wait", "done", "done")
    second = replace(second, after=(first.folder,))
    ran = threading.Thread(target=run, args=(world, [first, second, other]))
    ran.start()
    wait_until(lambda: states(world) == ["running", "queued", "done"])
    assert starts(world) == {"a-s0": 1, "a-s2": 1}
    (world / "go").touch()
    ran.join(200)
    assert states(world) == ["done"] * 3
    assert starts(world)["a-s1"] == 1


def test_nothing_more_starts_where_one_that_others_need_has_failed(world: Path) -> None:
    first, second, *others = jobs(world, "raise", *["done"] * 7)
    failed = run(world, [first, replace(second, after=(first.folder,)), *others])
    assert failed.keys() == {"a seed 0"}
    assert "ValueError: planted" in failed["a seed 0"]
    found = states(world)
    assert found[:2] == ["failed", "queued"]
    assert found[-1] == "queued"


def test_a_job_that_says_nothing_gets_its_part_and_sees_all_gpus(world: Path) -> None:
    with Noting(Console(file=io.StringIO()), world / "runs" / "s") as launcher:
        launcher.executor.slots.machine = Machine(8, 0, ("0", "1"))
        launcher.run(jobs(world, "exit", "exit", "exit"), 2, "trials")
    assert {grant.demand.cores for grant in launcher.given.values()} == {4}
    assert all("CUDA_VISIBLE_DEVICES" not in grant.environment for grant in launcher.given.values())
    assert max(map(len, launcher.beside)) <= 2


def test_what_never_fits_is_refused_before_the_ledger_knows_it(world: Path) -> None:
    work = [replace(job, demand=Demand(99_999)) for job in jobs(world, "done")]
    with pytest.raises(UserError, match=r"a seed 0: asks for 99999 cores"):
        run(world, work)
    assert not (world / "runs" / "s" / "ledger.sqlite").exists()


@pytest.mark.parametrize("command", ["resume", "retry"])
def test_what_is_wrong_with_where_to_go_on_is_refused_before_anything_starts(
    world: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(world, jobs(world, "exit"))
    ledger = Ledger(world / "runs" / "s")
    ledger.submit([replace(ledger.rows()[0], name="a-s9-00000000", seed=9, state=State.queued)], {})
    before = [(row.state, row.attempts) for row in ledger.rows()]
    for absent, extra in (("ray", "ray"), ("submitit", "slurm")):
        monkeypatch.setitem(sys.modules, absent, None)
        refused = CliRunner().invoke(app, [command, "s", "--launcher", absent]).exception
        assert isinstance(refused, UserError)
        assert str(refused).endswith(f"install it: pip install 'rft[{extra}]'")
    refused = CliRunner().invoke(app, [command, "s", "--launcher", "locla"]).exception
    assert str(refused) == "hydra/launcher=locla: no such launcher; did you mean 'local'?"
    assert [(row.state, row.attempts) for row in ledger.rows()] == before
    assert ledger.noted("where") is None


def test_on_a_terminal_a_table_tells_where_each_trial_stands_while_they_run(world: Path) -> None:
    work = jobs(world, "exit", "wait", "done", "done")
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100, height=30, color_system=None)
    counts = "1 running, 2 done, 1 failed"

    def go() -> None:
        wait_until(lambda: counts in file.getvalue())
        (world / "go").touch()

    watching = threading.Thread(target=go)
    watching.start()
    with Scripted(console, world / "runs" / "s", again=()) as launcher:
        launcher.run(work, 2, "trials")
    watching.join()
    table = file.getvalue().partition(counts)[0].rpartition("trial  ")[2]
    rows = {line.split()[0]: line.split()[1] for line in table.splitlines() if line.startswith("a-s")}
    states = {"a-s0-00000000": "failed", "a-s1-00000000": "running", "a-s2-00000000": "done", "a-s3-00000000": "done"}
    assert rows == states
    assert "ended with exit code 3" in table
