"""Runs in TRL 1.16's environment: `python -m tests.parity.trl_116 FOLDER` answers the cases of that folder.

The formulas are TRL's own: each function here makes one of its trainers and calls the method that computes the loss or
the advantages.
"""

from __future__ import annotations

import functools
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ |= {"HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}

import torch
from torch import Tensor
from trl import (
    DPOConfig,
    DPOTrainer,
    GRPOConfig,
    GRPOTrainer,
    KTOConfig,
    KTOTrainer,
    RewardConfig,
    RewardTrainer,
    RLOOConfig,
    RLOOTrainer,
)
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer
from trl.trainer.utils import add_fused_lm_head

from tests.parity import tiny
from tests.parity.cases import GROUP_SIZE, P
from tests.parity.exchange import Tensors, read_cases, write_results

PAIR = {"prompt": "w1 w2", "chosen": "w3", "rejected": "w4"}


def arguments(rows: int) -> dict[str, Any]:
    """What every trainer's configuration is given."""
    return {
        "output_dir": tempfile.gettempdir(),
        "per_device_train_batch_size": rows,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }


def answer(loss: Tensor, *leaves: Tensor) -> Tensors:
    """The loss, and its gradient on each leaf."""
    gradients = torch.autograd.grad(loss.sum(), leaves)
    return {"loss": loss.detach()} | {f"gradient_{i}": g for i, g in enumerate(gradients)}


def full_mask(mask_BR: Tensor) -> Tensor:
    """With a counted prompt before each response. Shape [B, T]."""
    return torch.cat([torch.ones(len(mask_BR), P, dtype=torch.bool), mask_BR], 1).long()


def completion_mask(mask_BR: Tensor) -> Tensor:
    """With an uncounted prompt before each response. Shape [B, T]."""
    return torch.cat([torch.zeros(len(mask_BR), P, dtype=torch.bool), mask_BR], 1).long()


def bigram(table_VV: Tensor) -> tiny.Bigram:
    """With the head that TRL puts on a model to compute log-probabilities."""
    model = tiny.Bigram(table_VV)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    return model


def dpo(x: Tensors, **settings: Any) -> Tensors:
    rows = len(x["ids_BT"])
    trainer = DPOTrainer(
        model=tiny.policy(),
        ref_model=tiny.policy(),
        args=DPOConfig(**arguments(rows // 2), **settings),
        train_dataset=tiny.rows(rows, **PAIR),
        processing_class=tiny.tokenizer(),
    )
    trainer.ref_model = bigram(x["ref_table_VV"])
    model = bigram(x["table_VV"])
    inputs = {
        "input_ids": x["ids_BT"],
        "attention_mask": full_mask(x["mask_BR"]),
        "completion_mask": completion_mask(x["mask_BR"]),
    }
    return answer(trainer.compute_loss(model, inputs), model.table_VV)


def _cpo(rows: int, **settings: Any) -> CPOTrainer:
    return CPOTrainer(
        model=tiny.policy(),
        args=CPOConfig(**arguments(rows), **settings),
        train_dataset=tiny.rows(rows, **PAIR),
        processing_class=tiny.tokenizer(),
    )


def cpo_pairs(x: Tensors, **settings: Any) -> Tensors:
    chosen, rejected = x["chosen_B"].requires_grad_(), x["rejected_B"].requires_grad_()
    losses, _, _ = _cpo(len(chosen), **settings).cpo_loss(chosen, rejected)
    return answer(losses, chosen, rejected)


def simpo(x: Tensors, **settings: Any) -> Tensors:
    rows = len(x["ids_BT"])
    labels = x["ids_BT"].masked_fill(completion_mask(x["mask_BR"]) == 0, -100)
    inputs = {}
    for name, half in (("chosen", slice(rows // 2)), ("rejected", slice(rows // 2, rows))):
        inputs |= {
            f"{name}_input_ids": x["ids_BT"][half],
            f"{name}_attention_mask": full_mask(x["mask_BR"])[half],
            f"{name}_labels": labels[half],
        }
    trainer = _cpo(rows // 2, loss_type="simpo", cpo_alpha=0.0, **settings)
    model = bigram(x["table_VV"])
    return answer(trainer.compute_loss(model, inputs), model.table_VV)


def orpo_pairs(x: Tensors, **settings: Any) -> Tensors:
    chosen, rejected = x["chosen_B"].requires_grad_(), x["rejected_B"].requires_grad_()
    trainer = ORPOTrainer(
        model=tiny.policy(),
        args=ORPOConfig(**arguments(len(chosen)), **settings),
        train_dataset=tiny.rows(len(chosen), **PAIR),
        processing_class=tiny.tokenizer(),
    )
    return answer(-trainer.odds_ratio_loss(chosen, rejected)[0], chosen, rejected)


def kto(x: Tensors, **settings: Any) -> Tensors:
    rows = len(x["ids_BT"])
    data = tiny.rows(rows, prompt="w1 w2", completion="w3").add_column("label", x["desirable_B"].tolist())
    trainer = KTOTrainer(
        model=tiny.policy(),
        ref_model=tiny.policy(),
        args=KTOConfig(**arguments(rows), **settings),
        train_dataset=data,
        processing_class=tiny.tokenizer(),
    )
    trainer.ref_model = bigram(x["ref_table_VV"])
    model = bigram(x["table_VV"])
    inputs = {"label": x["desirable_B"]}
    for theirs, ours in (("", ""), ("KL_", "kl_")):
        inputs |= {
            f"{theirs}input_ids": x[f"{ours}ids_BT"],
            f"{theirs}attention_mask": full_mask(x[f"{ours}mask_BR"]),
            f"{theirs}completion_mask": completion_mask(x[f"{ours}mask_BR"]),
        }
    return answer(trainer.compute_loss(model, inputs), model.table_VV)


@functools.cache
def reference() -> str:
    """A folder with another model than the policy: TRL reads the reference from where the policy says it is from."""
    folder = tempfile.mkdtemp()
    tiny.policy(seed=1).save_pretrained(folder)
    return folder


def _on_policy(trainer: Any, config: Any, rewards_B: Tensor, **settings: Any) -> Any:
    rows = len(rewards_B)
    args = config(
        **arguments(rows), num_generations=GROUP_SIZE, temperature=1.0, **{"max_completion_length": 12} | settings
    )
    model = tiny.policy()
    model.config._name_or_path = reference()
    return trainer(
        model=model,
        reward_funcs=lambda completions, **_: rewards_B.tolist(),
        args=args,
        train_dataset=tiny.rows(rows, prompt="w1 w2"),
        processing_class=tiny.tokenizer(),
    )


def _surrogate(trainer: Any, x: Tensors, extra: Tensors) -> Tensors:
    trainer.model.eval()  # outside of `train()` there is no number of accumulation steps to divide by
    model = bigram(x["table_VV"])
    inputs = {
        "prompt_ids": x["ids_BT"][:, :P],
        "prompt_mask": torch.ones(len(x["ids_BT"]), P, dtype=torch.long),
        "completion_ids": x["ids_BT"][:, P:],
        "completion_mask": x["mask_BR"].long(),
        "advantages": x["advantages_B"],
    }
    return answer(trainer.compute_loss(model, inputs | extra), model.table_VV)


def grpo(x: Tensors, **settings: Any) -> Tensors:
    trainer = _on_policy(GRPOTrainer, GRPOConfig, x["advantages_B"], **settings)
    extra = {
        "old_per_token_logps": x["old_logprobs_BR"],
        "ref_per_token_logps": x["ref_logprobs_BR"],
        "num_items_in_batch": x["mask_BR"].sum(),
    }
    return _surrogate(trainer, x, extra)


def rloo(x: Tensors, **settings: Any) -> Tensors:
    trainer = _on_policy(RLOOTrainer, RLOOConfig, x["advantages_B"], **settings)
    return _surrogate(trainer, x, {"old_logps": (x["old_logprobs_BR"] * x["mask_BR"]).sum(-1)})


def _sample(trainer: Any, rows: int) -> Tensors:
    """The advantages of one rollout, with its log-probabilities and, if there is a reference, that one's."""
    seen: list[Tensor] = []
    inner = trainer._get_per_token_logps_and_entropies

    def recorded(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        seen.append(result[0])
        return result

    trainer._get_per_token_logps_and_entropies = recorded
    batch = trainer._generate_and_score_completions([{"prompt": "w1 w2"} for _ in range(rows)])
    taken = {"advantages": batch["advantages"], "mask": batch["completion_mask"].bool()}
    return taken | dict(zip(("logprobs", "ref_logprobs"), seen, strict=False))


def grpo_advantages(x: Tensors, **settings: Any) -> Tensors:
    trainer = _on_policy(GRPOTrainer, GRPOConfig, x["rewards_B"], **settings)
    return _sample(trainer, len(x["rewards_B"]))


def rloo_advantages(x: Tensors, **settings: Any) -> Tensors:
    trainer = _on_policy(RLOOTrainer, RLOOConfig, x["rewards_B"], **settings)
    return _sample(trainer, len(x["rewards_B"]))


def reward(x: Tensors) -> Tensors:
    rows = len(x["scores_B"])
    trainer = RewardTrainer(
        model=tiny.scorer(0),
        args=RewardConfig(**arguments(rows // 2)),
        train_dataset=tiny.rows(rows, **PAIR),
        processing_class=tiny.tokenizer(),
    )
    model = tiny.Scores(x["scores_B"])
    ids = torch.zeros(rows, 2, dtype=torch.long)
    loss = trainer.compute_loss(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    return answer(loss, model.scores_B)


KINDS: dict[str, Callable[..., Tensors]] = {
    "dpo": dpo,
    "cpo_pairs": cpo_pairs,
    "simpo": simpo,
    "orpo_pairs": orpo_pairs,
    "kto": kto,
    "grpo": grpo,
    "rloo": rloo,
    "grpo_advantages": grpo_advantages,
    "rloo_advantages": rloo_advantages,
    "reward": reward,
}


def main(folder: Path) -> None:
    """Answers every case of the folder."""
    cases = read_cases(folder)
    write_results(folder, {name: KINDS[case.kind](case.tensors, **case.settings) for name, case in cases.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
