"""Which tracked run a trial that is started again goes on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from rft.study import tracked
from rft.study.tracked import TRACKED, _identity


def test_a_process_that_was_killed_is_followed_by_one_of_the_same_run(tmp_path: Path) -> None:
    first, resumed = _identity(tmp_path)
    assert not resumed
    assert _identity(tmp_path) == (first, True)


def test_rows_of_other_code_are_not_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = _identity(tmp_path)
    monkeypatch.setattr(tracked, "versions", lambda: "0123456789abcdef")
    found, resumed = _identity(tmp_path)
    assert found != first
    assert not resumed
    assert _identity(tmp_path) == (found, True)


def test_an_id_of_before_versions_were_kept_is_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / TRACKED).write_text("0a1b2c3d")
    assert _identity(tmp_path) == ("0a1b2c3d", True)
