"""Which type matrix products are faster in: measured once, and the same answer ever after."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from rft import precision
from rft.precision import bf16_pays, faster_in_bf16, product_seconds
from rft.strategy import AcceleratorEnum, PrecisionEnum, Strategy
from rft.strategy import Config as StrategyConfig


@pytest.fixture(autouse=True)
def forgotten() -> None:
    bf16_pays.cache_clear()


def test_a_measurement_takes_a_second_at_most_and_tells_a_product_from_nothing() -> None:
    start = time.perf_counter()
    seconds = product_seconds(torch.float32)
    assert time.perf_counter() - start < 3
    assert 2 * 1024**3 / seconds > 1e8  # operations a second


def test_what_is_found_is_kept_and_not_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = bf16_pays(tmp_path)
    (file,) = tmp_path.glob("precision-*.json")
    assert json.loads(file.read_text())["bf16_pays"] is found
    file.write_text(json.dumps({"bf16_pays": not found}))
    bf16_pays.cache_clear()
    monkeypatch.setattr(precision, "faster_in_bf16", lambda: pytest.fail("measured again"))
    assert bf16_pays(tmp_path) is not found


@pytest.mark.parametrize("content", ["", "[]", "{}"])
def test_a_damaged_file_is_made_again(content: str, tmp_path: Path) -> None:
    found = bf16_pays(tmp_path)
    (file,) = tmp_path.glob("precision-*.json")
    file.write_text(content)
    bf16_pays.cache_clear()
    assert bf16_pays(tmp_path) in (True, False)
    assert json.loads(file.read_text())["bf16_pays"] in (found, not found)


def test_a_folder_that_cannot_be_written_is_no_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert bf16_pays(tmp_path / "file" / "folder") in (True, False)
    assert bf16_pays(tmp_path / "new" / "folder") in (True, False)
    assert list((tmp_path / "new" / "folder").glob("precision-*.json"))


def test_the_answer_is_read_where_nothing_can_be_written(tmp_path: Path) -> None:
    found = bf16_pays(tmp_path)
    (file,) = tmp_path.glob("precision-*.json")
    file.write_text(json.dumps({"bf16_pays": not found}))
    (tmp_path / ".precision.lock").unlink(missing_ok=True)
    (tmp_path / ".precision.lock").mkdir()  # no lock can be had
    bf16_pays.cache_clear()
    assert bf16_pays(tmp_path) is not found


@pytest.mark.parametrize(("fast", "slow"), [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_the_faster_type_is_taken(fast: torch.dtype, slow: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "product_seconds", lambda dtype: 1.0 if dtype is fast else 2.0)
    assert faster_in_bf16() is (fast is torch.bfloat16)
    assert slow is not fast


@pytest.mark.parametrize(("pays", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_follows_it_and_the_others_do_not(
    pays: bool, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFT_STORE", str(tmp_path))
    monkeypatch.setattr(precision, "faster_in_bf16", lambda: pays)

    def of(choice: PrecisionEnum) -> torch.dtype:
        return Strategy(StrategyConfig(accelerator=AcceleratorEnum.cpu, precision=choice)).dtype

    assert of(PrecisionEnum.auto) is dtype
    assert (of(PrecisionEnum.bf16), of(PrecisionEnum.fp32)) == (torch.bfloat16, torch.float32)
