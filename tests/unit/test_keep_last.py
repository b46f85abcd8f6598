"""How much of a training's time goes to its checkpoints."""

from __future__ import annotations

import time
from pathlib import Path

import lightning
import torch
from torch.utils.data import DataLoader

from rft.callbacks.training import KeepLast

EPOCHS = 20


class Trained(lightning.LightningModule):
    """A step an epoch, and a state that takes a while to tell."""

    def __init__(self, saving: float) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
        self.saving, self.saved = saving, []

    def training_step(self, batch: torch.Tensor) -> torch.Tensor:
        return self.layer(batch).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def on_save_checkpoint(self, checkpoint: dict[str, object]) -> None:
        time.sleep(self.saving)
        self.saved.append(self.current_epoch)


def train(folder: Path, share: float, saving: float = 0.05, epoch: float = 0.0) -> tuple[Trained, float]:
    """The trained module, and the share of the time that went to checkpoints."""
    module = Trained(saving)

    class Slow(lightning.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            time.sleep(epoch)

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=EPOCHS,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[Slow(), KeepLast(folder / "kept.ckpt", share)],
    )
    begun = time.monotonic()
    trainer.fit(module, DataLoader(torch.ones(1, 1)))
    return module, len(module.saved) * saving / (time.monotonic() - begun)


def test_with_a_share_of_one_each_epoch_is_saved(tmp_path: Path) -> None:
    module, _ = train(tmp_path, share=1.0)
    assert module.saved == list(range(EPOCHS))


def test_the_first_and_the_last_of_short_epochs_are_saved(tmp_path: Path) -> None:
    module, _ = train(tmp_path, share=0.001)
    assert module.saved == [0, EPOCHS - 1]
    assert torch.load(tmp_path / "kept.ckpt", weights_only=True)["epoch"] == EPOCHS - 1


def test_of_long_epochs_each_is_saved(tmp_path: Path) -> None:
    module, _ = train(tmp_path, share=0.4, saving=0.0, epoch=0.2)
    assert module.saved == list(range(EPOCHS))


def test_in_between_the_share_is_kept(tmp_path: Path) -> None:
    module, share = train(tmp_path, share=0.25, saving=0.05, epoch=0.05)
    assert 4 < len(module.saved) < EPOCHS / 2
    assert share < 0.25 + 2 / EPOCHS  # of the first and the last there is no choice
