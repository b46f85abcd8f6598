"""The Lightning modules that ours extend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import lightning
import torch

from rft.errors import TrainingDiverged
from rft.types import to_device

if TYPE_CHECKING:
    from rft.models.backbone import Backbone, Role

LARGEST_NORM = 1.0  # of the gradient in the stages that all trials share, whatever a trial uses


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


class Divisible(Protocol):
    """A batch that can be learned from in parts."""

    @property
    def count(self) -> int:
        """How many things the loss on it is a mean over."""
        ...

    def parts(self, tokens: int | None) -> list[Any]:
        """Parts of at most so many tokens, padding counted, as far as it can be divided."""
        ...


class StepOfEachBatch(Module):
    """Makes an optimiser step of each batch, in microbatches: AdamW with a linear decay to a tenth.

    Args:
        backbone: whose role is trained.
        role: which one.
        lr: at the start.
        steps: how many there will be.
        what: is trained, for who reads of a loss that is not finite.
        key: what to lower then.
    """

    microbatch_tokens: int | None = None
    """Most tokens of a microbatch, padding counted."""

    def __init__(self, backbone: Backbone, role: Role, lr: float, steps: int, what: str, key: str) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.backbone, self.role, self.lr, self.steps, self.what, self.key = backbone, role, lr, steps, what, key

    def loss(self, batch: Any) -> torch.Tensor:
        """A mean over what the batch counts."""
        raise TypeError(f"{type(self).__name__} must define loss(batch)")

    def training_step(self, batch: Divisible, batch_idx: int) -> None:
        """One optimiser step."""
        optimizer: Any = self.optimizers()
        total, parts = max(batch.count, 1), batch.parts(self.microbatch_tokens)
        # Beside a second microbatch gradients lie anyway; given up now, they would then be made where there is no gap.
        optimizer.zero_grad(set_to_none=len(parts) == 1)
        for part in parts:
            loss = self.loss(part)
            require_finite(loss, self.what, self.global_step, self.key)
            self.manual_backward(loss * (part.count / total))
        self.clip_gradients(optimizer, gradient_clip_val=LARGEST_NORM)
        optimizer.step()
        decay: Any = self.lr_schedulers()
        decay.step()

    def configure_optimizers(self) -> Any:
        """AdamW with a linear decay to a tenth."""
        optimizer = torch.optim.AdamW(
            self.backbone.parameters_of(self.role), lr=self.lr, weight_decay=0.0, betas=(0.9, 0.95), fused=True
        )
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, total_iters=self.steps)
        return {"optimizer": optimizer, "lr_scheduler": decay}
