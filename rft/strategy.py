"""Where and how a trial computes: devices, precision, accumulation, clipping, threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rft.config import number
from rft.errors import UserError
from rft.precision import bf16_pays
from rft.store import Store

if TYPE_CHECKING:
    from lightning import Callback, Trainer


class AcceleratorEnum(str, Enum):
    """Kinds of device."""

    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class DistributionEnum(str, Enum):
    """How a trial spreads over devices."""

    single = "single"
    ddp = "ddp"


class PrecisionEnum(str, Enum):
    """Type of the weights that are not trained and of the matrix products."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


@dataclass
class Config:
    """Settings of a strategy."""

    accelerator: AcceleratorEnum = AcceleratorEnum.auto
    """auto takes a GPU if there is one."""
    distribution: DistributionEnum = DistributionEnum.single
    """single device, or ddp: one process a device."""
    devices: int = number(1, at_least=1)
    """Processes (CPU) or GPUs of a trial; 1 unless distribution=ddp."""
    precision: PrecisionEnum = PrecisionEnum.auto
    """auto takes bf16 where matrix products are faster in it, which is measured once. Trained weights and the optimiser
    stay fp32."""
    accumulate: int = number(1, at_least=1)
    """Least microbatches in an optimiser step: less memory, the same gradient."""
    microbatch_tokens: int = number(0, at_least=0)
    """Most tokens of a microbatch, padding counted: so many are made of an optimiser step. 0 goes by what a backward
    keeps: through 30 layers of width 576, 4096 tokens on a CPU (1024 if all weights are trained, whose gradients and
    moments take the memory) and 16384 on a GPU; in inverse proportion for others."""
    gradient_clip: float = number(1.0, at_least=0)
    """Largest gradient norm; 0 turns clipping off."""
    threads: int = number(0, at_least=0)
    """CPU threads of a process; 0 takes all cores (RFT_THREADS, set by the launcher, comes first)."""
    checkpoint_share: float = number(0.05, above=0, at_most=1)
    """Share of the time of training that saving its state takes at most. With 0.05 a killed trial loses an epoch, or 20
    times what saving takes; 1 saves after every epoch. Results are the same."""


# Tokens of a microbatch through 30 layers of width 576, times both. What smaller ones cost a shared stage is paid once.
ON_CPU, ALL_ON_CPU, SHARED_ALL_ON_CPU, ON_GPU = (tokens * 30 * 576 for tokens in (4096, 1024, 512, 16384))


class Strategy:
    """What the machine is asked to do; refuses at once what it cannot.

    Raises:
        UserError: if the machine lacks the devices, or the settings contradict each other.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        gpus = torch.cuda.device_count()
        wants_gpu = config.accelerator is AcceleratorEnum.gpu
        self.on_gpu = wants_gpu or (config.accelerator is AcceleratorEnum.auto and gpus > 0)
        if self.on_gpu and gpus < config.devices:
            raise UserError(
                f"strategy.accelerator={config.accelerator.value}: {config.devices} GPUs asked for, this machine has "
                f"{gpus}; use strategy=cpu, or strategy.devices"
            )
        if config.devices > 1 and config.distribution is DistributionEnum.single:
            raise UserError(f"strategy.devices={config.devices}: more than one device needs strategy=ddp")

    @property
    def dtype(self) -> torch.dtype:
        """Type of the frozen weights."""
        choice = self.config.precision
        if choice is PrecisionEnum.auto:
            # Cards without it do it all the same, slower than float32.
            fast = (
                torch.cuda.is_bf16_supported(including_emulation=False)
                if self.on_gpu
                else bf16_pays(Store.default().root)
            )
            return torch.bfloat16 if fast else torch.float32
        return torch.bfloat16 if choice is PrecisionEnum.bf16 else torch.float32

    @property
    def device(self) -> torch.device:
        """Device of this process for work outside the Trainer."""
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if self.on_gpu else torch.device("cpu")

    def microbatch_tokens(self, kept_of_token: int, *, all_weights: bool) -> int:
        """Most tokens of a trial's microbatch; arguments as of ``shared_microbatch_tokens``."""
        return self.config.microbatch_tokens or self._fitting(kept_of_token, ALL_ON_CPU if all_weights else ON_CPU)

    def shared_microbatch_tokens(self, kept_of_token: int, *, all_weights: bool) -> int:
        """Most tokens of a microbatch of the stages that all trials share, which no trial's settings change.

        Args:
            kept_of_token: hidden width times the layers that a backward goes through.
            all_weights: whether they are all trained, and not adapters.
        """
        return self._fitting(kept_of_token, SHARED_ALL_ON_CPU if all_weights else ON_CPU)

    def _fitting(self, kept_of_token: int, on_cpu: int) -> int:
        """Tokens of which as much is kept as on a GPU, or on a CPU, may be."""
        return max(1, (ON_GPU if self.on_gpu else on_cpu) // kept_of_token)

    @property
    def world_size(self) -> int:
        """Processes of a trial."""
        return self.config.devices

    def identity(self, *, distributed: bool) -> dict[str, Any]:
        """The part that results depend on, for the address of a stage."""
        shared = {"dtype": str(self.dtype).removeprefix("torch."), "gpu": self.on_gpu}
        if not distributed:
            return shared
        return shared | {
            "devices": self.config.devices,
            "accumulate": self.config.accumulate,
            "microbatch_tokens": self.config.microbatch_tokens,
            "gradient_clip": self.config.gradient_clip,
        }

    def trainer(
        self,
        *,
        epochs: int,
        root: Path,
        callbacks: Sequence[Callback] = (),
        accumulate: int = 1,
        shared: bool = False,
        clip: float | None = None,
    ) -> Trainer:
        """A Lightning trainer. ``shared`` stages run in one process.

        Args:
            epochs: of the data.
            root: folder of whatever is written.
            callbacks: of the training.
            accumulate: microbatches of an optimiser step.
            shared: whether all trials share what is trained.
            clip: largest gradient norm, 0 for none, where it is not the trial's own.
        """
        import lightning

        from rft.checkpoint import LastCheckpoints

        config = self.config
        spread = config.distribution is DistributionEnum.ddp and not shared
        trainer = lightning.Trainer(
            accelerator="gpu" if self.on_gpu else "cpu",
            devices=config.devices if spread else 1,
            strategy="ddp" if spread else "auto",
            precision="32-true",
            max_epochs=epochs,
            accumulate_grad_batches=accumulate,
            gradient_clip_val=(config.gradient_clip if clip is None else clip) or None,
            default_root_dir=root,
            callbacks=list(callbacks),
            logger=False,
            plugins=[LastCheckpoints(), *_alone_in_slurm()],
            log_every_n_steps=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False if shared else None,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
        )
        _only_note_sigterm(trainer)
        return trainer


def _only_note_sigterm(trainer: Trainer) -> None:
    """Let SIGTERM be noted by the first process, which tells the others of it when a step has ended.

    Lightning's own handler calls the others from within the signal: with one of them waiting for the first in the
    middle of a step, both would wait for ever.
    """
    signals = trainer._signal_connector

    def note(_number: int, _frame: object) -> None:
        if trainer.is_global_zero:
            signals.received_sigterm = True

    signals._sigterm_notifier_fn = note  # type: ignore[assignment, method-assign]


def _alone_in_slurm() -> list[Any]:
    """In a job of SLURM Lightning would take its tasks for the processes of a training: here it starts them itself."""
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    return [LightningEnvironment()] if SLURMEnvironment.detect() else []
