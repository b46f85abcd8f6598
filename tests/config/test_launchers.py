"""Launchers of sweeps: settings are checked as all others, and Hydra hands over all trials of a batch at once."""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import main as hydra_main
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rft.cli.run import hydra_run
from rft.config import compose, register
from rft.config.launchers import Cluster, Launch, Local, Ray, Submitit, launching
from rft.config.paths import conf_dir
from rft.config.where import where
from rft.errors import UserError


def sweep(arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Any], Launch]]:
    """What is handed over, by Hydra's own main function."""
    batches: list[tuple[list[Any], Launch]] = []

    def task(cfg: DictConfig) -> str:
        return f"{cfg.algorithm.name}-{cfg.seed} in {Path(HydraConfig.get().runtime.output_dir).name}"

    register()
    monkeypatch.setattr(sys, "argv", ["rft", "-m", *arguments])
    try:
        with launching(lambda trials, settings: batches.append((list(trials), settings))):
            hydra_main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None
    return batches


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def own(subdir: str = "${algorithm.name}-${seed}") -> list[str]:
    return ["hydra.sweep.dir=out", f"hydra.sweep.subdir={subdir}", "hydra.output_subdir=null"]


def test_local_is_the_default_and_gets_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ((trials, settings),) = sweep(["algorithm=ppo,dpo", "seed=0,1", *own()], monkeypatch)
    assert trials == [f"{name}-{seed} in {name}-{seed}" for name in ("ppo", "dpo") for seed in (0, 1)]
    assert isinstance(settings, Local)
    assert (settings.jobs, settings.cores, settings.memory_gb, settings.gpus) == (0, 0, 0.0, None)


@pytest.mark.parametrize(
    ("given", "kind", "wanted"),
    [
        (["hydra/launcher=ray", "hydra.launcher.cluster_gpus=4"], Ray, {"cluster_gpus": 4, "address": None}),
        (
            ["hydra/launcher=submitit", "hydra.launcher.cluster=local", "+hydra.launcher.sbatch.reservation=week"],
            Submitit,
            {"cluster": Cluster.local, "sbatch": {"reservation": "week"}, "folder": "out/.submitit"},
        ),
    ],
)
def test_settings_arrive_as_they_were_given(
    given: list[str], kind: type[Launch], wanted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    ((_, settings),) = sweep(["seed=0,1", "hydra.launcher.gpus=0.5", *given, *own()], monkeypatch)
    assert isinstance(settings, kind)
    assert settings.gpus == 0.5
    assert {name: getattr(settings, name) for name in wanted} == wanted


def test_a_sweeper_may_hand_over_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    batches = sweep(["seed=0,1,2,3,4", "hydra.sweeper.max_batch_size=2", *own("${seed}")], monkeypatch)
    assert [len(trials) for trials, _ in batches] == [2, 2, 1]
    assert [trials[-1][-1] for trials, _ in batches] == ["1", "3", "4"]


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["hydra/launcher=rya"], "hydra/launcher=rya: no such launcher; did you mean 'ray'?"),
        (["hydra.launcher.jbos=3"], "hydra.launcher.jbos: no such key in hydra.launcher; did you mean 'jobs'?"),
        (["hydra.launcher.jobs=-3"], "hydra.launcher.jobs=-3: must be at least 0"),
        (
            ["hydra.launcher.gpus=1.5"],
            "hydra.launcher.gpus=1.5: a trial takes a fraction of one GPU or a whole number of them; correct it",
        ),
        (
            ["hydra/launcher=submitit", "hydra.launcher.cluster=sge"],
            "hydra.launcher.cluster=sge: no such choice; valid are slurm, local",
        ),
    ],
)
def test_what_is_wrong_is_refused_before_anything_starts(given: list[str], line: str) -> None:
    for command in (compose, lambda given: hydra_run(["-m", "seed=0,1", *given])):
        with pytest.raises(UserError) as caught:
            command(given)
        assert str(caught.value) == line
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_trial_more_is_composed_once_and_holds_no_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    composed: list[str] = []
    load = ConfigLoaderImpl.load_configuration
    seen: list[tuple[int, int]] = []

    def counted(self: ConfigLoaderImpl, *given: Any, **more: Any) -> DictConfig:
        composed.append(str(given))
        return load(self, *given, **more)

    def handed(trials: Sequence[Any], _settings: Launch, _placing: Sequence[str]) -> list[str]:
        gc.collect()
        seen.append((len(composed), sum(isinstance(one, DictConfig) for one in gc.get_objects())))
        return []

    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", counted)
    monkeypatch.setattr("rft.study.sweep.run_sweep", handed)
    hydra_run(["-m", "seed=0,1", "study=warm", *own()])  # fills caches
    for seeds in ("0,1", "0,1,2,3,4"):
        composed.clear()
        hydra_run(["-m", f"seed={seeds}", f"study=s{len(seeds)}", *own()])
    (few, held_by_few), (many, held_by_many) = seen[1:]
    assert many - few == 3
    assert held_by_many - held_by_few < 3


def test_hydras_own_launcher_is_an_option_still() -> None:
    assert compose(["hydra/launcher=basic"]).algorithm.name == "ppo"


def test_help_and_settings_name_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        hydra_run(["--help"])
    assert "hydra/launcher=local" in capsys.readouterr().out
    hydra_run(["--cfg", "hydra", "-p", "hydra.launcher", "hydra/launcher=ray"])
    said = capsys.readouterr().out
    assert "cluster_gpus: null" in said
    assert "hydra_plugins.rft.RayLauncher" in said


RAY = ("hydra/launcher=ray", "hydra.launcher.gpus=0.5", "hydra.launcher.address=auto")


@pytest.mark.parametrize(
    ("given", "launcher", "kept", "wanted"),
    [
        ((), None, (), Local()),
        ((), None, RAY, Ray(gpus=0.5, address="auto")),
        (("hydra.launcher.gpus=1",), None, RAY, Ray(gpus=1.0, address="auto")),
        (("hydra.launcher.jobs=3",), "ray", (), Ray(jobs=3)),
        ((), "local", RAY, Local(gpus=0.5)),
        (("hydra/launcher=ray",), None, ("hydra.launcher.memory_gb=2",), Ray(memory_gb=2.0)),
        (
            ("+hydra.launcher.sbatch.reservation=week",),
            "submitit",
            RAY,
            Submitit(gpus=0.5, sbatch={"reservation": "week"}, folder="runs/s/.submitit"),
        ),
    ],
)
def test_a_study_goes_on_where_it_was_but_for_what_is_said(
    given: Sequence[str], launcher: str | None, kept: Sequence[str], wanted: Launch
) -> None:
    """What was kept for another launcher alone is dropped; what a trial takes is not."""
    found = where(Path("runs/s"), given, launcher, kept=kept)
    assert type(found.settings) is type(wanted)
    skip = {"_target_"}
    assert {k: v for k, v in vars(found.settings).items() if k not in skip} == {
        k: v for k, v in vars(wanted).items() if k not in skip
    }
    assert where(Path("runs/s"), (), kept=found.overrides) == found


@pytest.mark.parametrize(
    ("given", "launcher", "line"),
    [
        ((), "rya", "hydra/launcher=rya: no such launcher; did you mean 'ray'?"),
        ((), "null", "hydra/launcher=null: no such launcher; valid are local, ray, submitit"),
        (("hydra.launcher.jbos=3",), "ray", "hydra.launcher.jbos: no such key in hydra.launcher; did you mean 'jobs'?"),
        (
            ("hydra.job.num=3",),
            None,
            "hydra.job.num=3: says nothing of where trials run; leave it out, or give hydra.launcher.KEY=VALUE",
        ),
    ],
)
def test_what_says_no_place_is_refused(given: Sequence[str], launcher: str | None, line: str) -> None:
    with pytest.raises(UserError) as caught:
        where(Path("runs/s"), given, launcher)
    assert str(caught.value) == line
