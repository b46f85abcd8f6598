"""The Lightning module that all our modules extend."""

from __future__ import annotations

from typing import Any

import lightning
import torch

from rft.errors import TrainingDiverged
from rft.types import to_device


class Module(lightning.LightningModule):
    """Moves frozen batches to the device, which Lightning's own transfer refuses to do."""

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Every tensor of a frozen dataclass on the device."""
        return to_device(batch, device)

    def require_finite_weights(self) -> None:
        """Stop at trained weights that are NaN or infinite.

        Raises:
            TrainingDiverged: naming the first such parameter and the step.
        """
        for name, parameter in self.named_parameters():
            if parameter.requires_grad and not torch.isfinite(parameter).all():
                raise TrainingDiverged(
                    f"the weights {name} are not finite after step {self.global_step}; lower the learning rate (the "
                    "last good checkpoint, if there is one, stays)"
                )

    def on_train_end(self) -> None:
        """No stage ends with weights that are not finite: the last step has no loss after it to show them."""
        self.require_finite_weights()


def require_finite(loss: torch.Tensor, what: str, step: int, key: str) -> None:
    """Stop at a loss that is NaN or infinite, on all ranks at once if it is so on one.

    Raises:
        TrainingDiverged: naming what is trained, the step, and the learning rate's key.
    """
    finite = torch.isfinite(loss.detach()).float()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        # A rank that stopped alone would leave the others waiting for its gradient.
        torch.distributed.all_reduce(finite, torch.distributed.ReduceOp.MIN)
    if not finite:
        raise TrainingDiverged(
            f"{what}: the loss is {float(loss.detach())} at step {step}; lower {key} (the last good checkpoint, if "
            "there is one, stays)"
        )


def linear_decay(optimizer: torch.optim.Optimizer, steps: int) -> Any:
    """What ``configure_optimizers`` returns for a linear decay of the learning rate to a tenth over all steps."""
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=steps)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": decay, "interval": "step"}}
