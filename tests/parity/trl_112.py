"""Runs in TRL 1.12's environment: `python -m tests.parity.trl_112 FOLDER` answers the cases of that folder.

TRL's PPO has its advantages and losses inside `PPOTrainer.train`. So that method is run as it stands, on small random
models, and what it computes is read from its local variables whenever it calls `masked_mean` or `masked_whiten`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}

import torch
from datasets import Dataset
from torch import Tensor
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from tests.parity import tiny
from tests.parity.exchange import Tensors, read_cases, write_results

ROLLOUT = (
    "logprobs",
    "ref_logprobs",
    "kl",
    "scores",
    "rewards",
    "values",
    "advantages",
    "padding_mask",
    "padding_mask_p1",
)
UPDATE = (
    "mb_advantage",
    "mb_logprobs",
    "mb_return",
    "mb_values",
    "new_logprobs",
    "vpred",
    "pg_loss",
    "vf_loss",
    "loss",
)


class Recorder:
    """In place of TRL's `masked_whiten` and `masked_mean`: calls them and keeps what `train` has by then."""

    def __init__(self) -> None:
        self.whiten, self.mean = ppo_trainer.masked_whiten, ppo_trainer.masked_mean
        self.rollout: Tensors = {}
        self.updates: list[Tensors] = []

    def masked_whiten(self, values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        local = sys._getframe(1).f_locals
        whitened = self.whiten(values, mask, shift_mean)
        if shift_mean:
            self.rollout |= {name: local[name].clone() for name in (*ROLLOUT, "returns")}
            self.rollout["whitened"] = whitened.clone()
        else:
            self.rollout |= {"rewards_before": values.clone(), "rewards_whitened": whitened.clone()}
        return whitened

    def masked_mean(self, values: Tensor, mask: Tensor, axis: Any = None) -> Tensor:
        caller = sys._getframe(1)
        mean = self.mean(values, mask, axis)
        if caller.f_code.co_name != "train":
            return mean
        local = caller.f_locals
        if values is local.get("vf_loss_max"):
            local["vpred"].retain_grad()
        elif values is local.get("pg_loss_max"):
            local["new_logprobs"].retain_grad()
            self.policy_mask = mask.clone()
        elif "loss" in local:  # the share of clipped tokens, computed after the backward pass
            taken = {name: local[name].detach().clone() for name in UPDATE}
            taken |= {"rows": torch.as_tensor(local["micro_batch_inds"]), "pg_clipfrac": mean.clone()}
            taken |= {f"{name}_grad": local[name].grad.clone() for name in ("new_logprobs", "vpred")}
            self.updates.append(taken)
        return mean


def ppo(seed: int, rows: int, response: int, dtype: str, **settings: Any) -> Tensors:
    """One rollout of `rows` responses, and the updates of `train` on it."""
    recorder = Recorder()
    ppo_trainer.masked_whiten, ppo_trainer.masked_mean = recorder.masked_whiten, recorder.masked_mean
    generator = torch.Generator().manual_seed(seed)
    prompts = torch.randint(0, tiny.WORDS, (rows, 4), generator=generator).tolist()
    data = Dataset.from_dict({"input_ids": prompts})
    models = [tiny.policy(seed), tiny.policy(seed + 1), tiny.scorer(seed + 2), tiny.scorer(seed + 3)]
    policy, reference, reward, value = (model.to(getattr(torch, dtype)) for model in models)
    args = PPOConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=rows,
        num_mini_batches=2,
        local_rollout_forward_batch_size=rows,
        total_episodes=rows,
        response_length=response,
        stop_token="eos",
        temperature=1.0,
        num_sample_generations=0,
        seed=seed,
        report_to=[],
        save_strategy="no",
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        **settings,
    )
    trainer = PPOTrainer(
        args=args,
        processing_class=tiny.tokenizer(),
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=data,
        eval_dataset=data,
    )
    trainer.train()
    updates = {f"update_{i}_{name}": x for i, taken in enumerate(recorder.updates) for name, x in taken.items()}
    return recorder.rollout | updates


def main(folder: Path) -> None:
    """Answers every case of the folder."""
    whiten, mean = ppo_trainer.masked_whiten, ppo_trainer.masked_mean
    results: dict[str, Tensors] = {}
    for name, case in read_cases(folder).items():
        results[name] = ppo(**case.settings)
        ppo_trainer.masked_whiten, ppo_trainer.masked_mean = whiten, mean
    write_results(folder, results)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
