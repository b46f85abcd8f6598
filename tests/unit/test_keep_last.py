"""How much of a training's time goes to its checkpoints."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from torch.utils.data import DataLoader

from rft.callbacks import training
from rft.callbacks.training import KeepLast

EPOCHS = 20


class Trained(lightning.LightningModule):
    """A step an epoch; the epoch and its saving take as many seconds, of a clock of its own, as they are to."""

    def __init__(self, epoch: float, saving: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.epoch, self.saving, self.now, self.saved = epoch, saving, 0.0, []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        self.now += self.epoch
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        self.now += self.saving
        self.saved.append(self.current_epoch)


@pytest.mark.parametrize(
    ("share", "epoch", "saving", "saved"),
    [
        (1.0, 0.0, 9.0, list(range(EPOCHS))),
        (0.05, 19.0, 1.0, list(range(EPOCHS))),
        (0.05, 0.5, 1.0, [0, EPOCHS - 1]),
        (0.25, 1.0, 1.0, [0, 3, 6, 9, 12, 15, 18, 19]),  # three seconds between two savings of one
    ],
    ids=["each if asked for", "each of long epochs", "first and last of short ones", "in between the share is kept"],
)
def test_epochs_that_are_saved(
    share: float, epoch: float, saving: float, saved: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = Trained(epoch, saving)
    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: module.now))
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    keeper = KeepLast(tmp_path / "kept.ckpt", share)
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=EPOCHS, default_root_dir=tmp_path, callbacks=[keeper], **quiet
    )
    trainer.fit(module, DataLoader(torch.ones(1, 1)))
    assert module.saved == saved
    assert torch.load(tmp_path / "kept.ckpt", weights_only=True)["epoch"] == EPOCHS - 1
