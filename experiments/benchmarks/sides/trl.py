"""The side of TRL, in an environment of its own: its trainers as they come, on the same model and shape.

bf16 weights and optimiser state, no checkpoints, no evaluation, responses of full length. With adapters those of rft's
own option: the same rank, scale, modules and layers; PPO's critic, which TRL would train whole, gets them too. Of
``decode`` this side is ``generate`` of transformers, which TRL samples with; its adapters are not merged.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import transformers
from datasets import Dataset
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer, TrainerCallback

from experiments.benchmarks import turns
from experiments.benchmarks.cases import ADAPTER_ALPHA, ADAPTER_RANK, BY_NAME, LR, Job, adapted_layers
from experiments.benchmarks.turns import Turns

MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
DTYPE = torch.bfloat16


class Gate(TrainerCallback):  # type: ignore[misc]
    """Lets a trainer do one step at a time."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Ready."""
        self.turns.boundary()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """The optimiser's step is made."""
        self.turns.boundary()


class Peer:
    """Does the steps of a job."""

    def __init__(self, job: Job) -> None:
        torch.set_num_threads(job.threads)
        torch.manual_seed(0)
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.job, self.case, self.turns = job, BY_NAME[job.case], Turns(job.shape.tokens)
        self.tokenizer = AutoTokenizer.from_pretrained(job.known.folder, padding_side="left")
        self.random = torch.Generator().manual_seed(1)
        self.rows = job.steps * self.case.prompts(job.shape)

    def run(self) -> None:
        """Steps, until nobody asks for more."""
        runs: dict[str, Callable[[], None]] = {
            "decode": self.decode,
            "dpo": self.dpo,
            "reward": self.reward,
            "grpo": self.grpo,
            "rloo": self.rloo,
            "ppo": self.ppo,
        }
        runs[self.case.algorithm]()

    def model(self) -> Any:
        """The policy."""
        return AutoModelForCausalLM.from_pretrained(self.job.known.folder, dtype=DTYPE)

    def scorer(self) -> Any:
        """A reward model or critic."""
        found = AutoModelForSequenceClassification.from_pretrained(self.job.known.folder, num_labels=1, dtype=DTYPE)
        found.config.pad_token_id = self.tokenizer.pad_token_id
        return found

    def adapters(self, model: Any, **more: Any) -> LoraConfig | None:
        """The same as rft's; None if all weights are trained."""
        layers = int(model.config.num_hidden_layers)
        below = adapted_layers(layers, self.job.model, self.job.lora)
        if not self.job.lora:
            return None
        return LoraConfig(
            r=ADAPTER_RANK,
            lora_alpha=ADAPTER_ALPHA,
            lora_dropout=0.0,
            target_modules=MODULES,
            layers_to_transform=list(range(below, layers)),
            **more,
        )

    def text(self, tokens: int, before: str = "") -> str:
        """A text of so many tokens, also when it stands behind another."""
        top, ahead = min(len(self.tokenizer), 4000), self.ids(before)
        while True:
            ids = torch.randint(300, top, (tokens,), generator=self.random).tolist()
            for _ in range(8):
                text: str = self.tokenizer.decode(ids)
                again = self.ids(text)
                if len(again) == tokens and self.ids(before + text) == ahead + again:
                    return text
                more = torch.randint(300, top, (tokens,), generator=self.random).tolist()
                ids = (again + more)[:tokens]

    def ids(self, text: str) -> list[int]:
        """Its tokens."""
        found: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return found

    def pairs(self) -> Dataset:
        """New ones in every step; EOS, which the trainers add, makes up the last token of a response."""
        shape = self.job.shape
        n = self.job.steps * shape.sequences // 2
        asked = [self.text(shape.prompt) for _ in range(n)]
        answers = [[self.text(shape.response - 1, prompt) for _ in range(2)] for prompt in asked]
        return Dataset.from_list(
            [{"prompt": p, "chosen": a[0], "rejected": a[1]} for p, a in zip(asked, answers, strict=True)]
        )

    def questions(self) -> Dataset:
        """New ones in every step."""
        return Dataset.from_list([{"prompt": self.text(self.job.shape.prompt)} for _ in range(self.rows)])

    def arguments(self) -> dict[str, Any]:
        """What every trainer's configuration is given."""
        return {
            "output_dir": self.job.scratch,
            "report_to": [],
            "logging_steps": 1000,
            "save_strategy": "no",
            "use_cpu": True,
            "bf16": False,
            "fp16": False,
            "learning_rate": LR,
            "seed": 0,
            "gradient_checkpointing": False,
        }

    def steps(self) -> dict[str, Any]:
        """Of trainers that are told how many they make."""
        return {"max_steps": self.job.steps, "disable_tqdm": True}

    def decode(self) -> None:
        """``generate``."""
        shape, model = self.job.shape, self.model().eval()
        adapters = self.adapters(model)
        model = model if adapters is None else get_peft_model(model, adapters).eval()
        top = min(len(self.tokenizer), 4000)
        ids = torch.randint(300, top, (self.case.prompts(shape), shape.prompt), generator=self.random)
        ids = ids.repeat_interleave(self.case.samples, 0)
        eos = self.job.known.ending_token if self.case.name == "decode_ending" else None
        ends = {"min_new_tokens": shape.response} if eos is None else {"eos_token_id": eos}

        @torch.inference_mode()
        def step() -> None:
            drawing = {"max_new_tokens": shape.response, "do_sample": True, "top_k": 0, "pad_token_id": 0}
            made = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **drawing, **ends)
            made = made[:, shape.prompt :]
            ended = (made == (-1 if eos is None else eos)).long()
            self.turns.tokens = int(((ended.cumsum(1) - ended) == 0).sum())

        self.turns.repeat(step)

    def dpo(self) -> None:
        """DPOTrainer."""
        from trl import DPOConfig, DPOTrainer

        shape, model = self.job.shape, self.model()
        arguments = DPOConfig(
            per_device_train_batch_size=shape.sequences // 2,
            max_length=shape.prompt + shape.response,
            precompute_ref_log_probs=self.case.name == "dpo_kept",
            **self.arguments(),
            **self.steps(),
        )
        self._train(DPOTrainer, arguments, self.pairs(), model=model, peft_config=self.adapters(model))

    def reward(self) -> None:
        """RewardTrainer."""
        from trl import RewardConfig, RewardTrainer

        shape, model = self.job.shape, self.scorer()
        arguments = RewardConfig(
            per_device_train_batch_size=shape.sequences // 2,
            max_length=shape.prompt + shape.response + 16,  # longer ones are left out
            **self.arguments(),
            **self.steps(),
        )
        adapters = self.adapters(model, task_type="SEQ_CLS", modules_to_save=["score"])
        self._train(RewardTrainer, arguments, self.pairs(), model=model, peft_config=adapters)

    def grpo(self) -> None:
        """GRPOTrainer."""
        from trl import GRPOConfig, GRPOTrainer

        self._group(GRPOConfig, GRPOTrainer)

    def rloo(self) -> None:
        """RLOOTrainer."""
        from trl import RLOOConfig, RLOOTrainer

        self._group(RLOOConfig, RLOOTrainer)

    def _group(self, configuration: Any, trainer: Any) -> None:
        shape, model = self.job.shape, self.model()
        arguments = configuration(
            num_generations=self.case.samples,
            per_device_train_batch_size=shape.sequences,
            max_completion_length=shape.response,
            beta=0.04,
            temperature=1.0,
            generation_kwargs={"min_new_tokens": shape.response},
            **self.arguments(),
            **self.steps(),
        )
        given = {"reward_funcs": distinct_characters, "peft_config": self.adapters(model)}
        self._train(trainer, arguments, self.questions(), model=model, **given)

    def ppo(self) -> None:
        """PPOTrainer of TRL 1.12, one epoch and one minibatch."""
        from trl.experimental.ppo import PPOConfig, PPOTrainer

        shape, model, critic = self.job.shape, self.model(), self.scorer()
        adapters = self.adapters(model)
        if adapters is not None:
            inject_adapter_in_model(adapters, critic)
            for name, parameter in critic.named_parameters():
                parameter.data = parameter.data.float() if "lora_" in name else parameter.data
                parameter.requires_grad_("lora_" in name or name.startswith("score"))
        model.generation_config.min_new_tokens = shape.response
        texts = [
            self.tokenizer(self.text(shape.prompt), add_special_tokens=False)["input_ids"] for _ in range(self.rows)
        ]
        questions = Dataset.from_list([{"input_ids": ids} for ids in texts])
        arguments = PPOConfig(
            per_device_train_batch_size=shape.sequences,
            local_rollout_forward_batch_size=shape.sequences,
            num_mini_batches=1,
            num_ppo_epochs=1,
            total_episodes=shape.sequences * self.job.steps,
            response_length=shape.response,
            num_sample_generations=0,
            temperature=1.0,
            **self.arguments(),
        )
        self._train(
            PPOTrainer,
            arguments,
            questions,
            model=model,
            ref_model=None if adapters else self.model(),
            reward_model=self.scorer(),
            value_model=critic,
            eval_dataset=questions.select(range(math.gcd(self.rows, shape.sequences))),
            peft_config=adapters,
        )

    def _train(self, trainer: Any, arguments: Any, data: Dataset, **given: Any) -> None:
        given |= {"args": arguments, "train_dataset": data, "processing_class": self.tokenizer}
        trainer(callbacks=[Gate(self.turns)], **given).train()


def distinct_characters(completions: list[str], **_: Any) -> list[float]:
    """As many points as different characters."""
    return [float(len(set(text))) for text in completions]


if __name__ == "__main__":
    Peer(turns.job()).run()
