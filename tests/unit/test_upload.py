"""Which W&B runs have to be uploaded, and what becomes of the files of their artifacts meanwhile."""

from __future__ import annotations

from pathlib import Path

from rft.callbacks.trackers.upload import (
    KEPT,
    STAGED,
    UNSENT,
    _keep,
    is_empty,
    is_uploaded,
    kept_runs,
    mark_uploaded,
    run_id,
)
from rft.store.locking import file_lock
from rft.study.compared import TELLING
from rft.study.uploads import uploads


def run(place: Path, name: str, *, size: int = 100, uploaded: bool = False, unsent: bool = False) -> Path:
    folder = place / name
    folder.mkdir(parents=True)
    (folder / f"run-{name[-8:]}.wandb").write_bytes(bytes(size))
    if uploaded:
        (folder / f"run-{name[-8:]}.wandb.synced").touch()
    if unsent:
        (folder / UNSENT).touch()
    return folder


def test_runs_that_reached_the_server_are_no_business_of_ours(tmp_path: Path) -> None:
    later = run(tmp_path, "offline-run-20260102_000000-aaaaaaaa")
    run(tmp_path, "run-20260101_000000-bbbbbbbb")
    unsent = run(tmp_path, "run-20260101_120000-cccccccc", unsent=True)
    done = run(tmp_path, "offline-run-20260101_000000-dddddddd", uploaded=True)
    (tmp_path / "latest-run").symlink_to(later)
    assert kept_runs(tmp_path) == [done, unsent, later]
    assert [is_uploaded(one) for one in (done, unsent)] == [True, False]
    assert run_id(unsent) == "cccccccc"
    assert is_empty(run(tmp_path, "offline-run-20260103_000000-eeeeeeee", size=7))


def test_the_order_is_that_in_which_things_are_made_from_one_another(tmp_path: Path) -> None:
    study = tmp_path / "study"
    for number, folder in enumerate(
        ["comparison", "comparison/sft-01234567", "b-s0-01234567", "comparison/reward_model-01234567", "a-s0-01234567"]
    ):
        run(study / folder / "wandb", f"offline-run-2026010{number + 1}_000000-0000000{number}")
    run(study / "b-s0-01234567" / "wandb", "offline-run-20260109_000000-00000002")
    found = uploads([study])
    assert [one.stage for one in found] == ["sft", "reward_model", "policy", "policy", "comparison"]
    assert [one.name for one in found[2:4]] == ["study/b-s0-01234567", "study/a-s0-01234567"]
    assert [part.name[12:20] for part in found[2].waiting] == ["20260103", "20260109"]


def test_a_part_that_a_later_one_has_replaced_is_not_sent_after_it(tmp_path: Path) -> None:
    place = tmp_path / "study" / "a-s0-01234567" / "wandb"
    run(place, "offline-run-20260101_000000-00000000")
    run(place, "offline-run-20260102_000000-00000000", uploaded=True)
    last = run(place, "offline-run-20260103_000000-00000000")
    (one,) = uploads([tmp_path / "study"])
    assert one.waiting == (last,)


def test_a_part_that_went_offline_is_not_sent_after_the_run_that_reached_the_server(tmp_path: Path) -> None:
    """Its server was away, the trial was killed, and went on online to its end."""
    place = tmp_path / "study" / "a-s0-01234567" / "wandb"
    first = run(place, "offline-run-20260101_000000-00000000")
    second = run(place, "run-20260102_000000-00000000", unsent=True)
    (one,) = uploads([tmp_path / "study"])
    assert one.waiting == (first, second), "killed too, it may be that the server lacks something"
    mark_uploaded(second)
    (one,) = uploads([tmp_path / "study"])
    assert one.waiting == ()
    assert not (second / UNSENT).exists()


def test_files_that_an_upload_has_lost_are_there_for_the_next(tmp_path: Path) -> None:
    (tmp_path / STAGED).mkdir(parents=True)
    (tmp_path / STAGED / "tmp1").write_text("rows")
    kept = _keep(tmp_path)
    (tmp_path / STAGED / "tmp1").unlink()
    assert _keep(tmp_path) == kept == tmp_path / KEPT
    assert (tmp_path / STAGED / "tmp1").read_text() == "rows"


def test_a_run_that_somebody_tells_is_not_uploaded_yet(tmp_path: Path) -> None:
    folder = tmp_path / "demo" / "comparison"
    run(folder / "wandb", "offline-run-20260102_000000-aaaaaaaa")
    run(folder / "sft-0123abcd" / "wandb", "offline-run-20260101_000000-bbbbbbbb")
    run(tmp_path / "demo" / "ppo-s0-0123abcd" / "wandb", "offline-run-20260101_000000-cccccccc")
    found = uploads([tmp_path / "demo"])
    assert [one.stage for one in found] == ["sft", "policy", "comparison"]
    with file_lock(folder / TELLING):
        assert [one.running for one in found] == [True, False, True]
    assert not any(one.running for one in found)
