"""A small real world to check algorithms in: a random language model, prompts, a reward, labels.

Every kind of response occurs: cut off at the limit, ended by EOS after some tokens, EOS alone.
Dimensions: ``B`` sequences, ``R`` response tokens.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from rft.algorithms.base import Algorithm
from rft.config import OnPolicyConfig, PreferenceConfig
from rft.data.offline import Comparison, OfflineStream, mismatched, reference_logprobs, to_pairs, to_unpaired
from rft.data.on_policy import RolloutStream
from rft.feedback.base import Answer, Feedback, Labels
from rft.models.backbone import Backbone, Role
from rft.models.pretrained import LoraConfig
from rft.rollout import RolloutEngine, pad_prompts, uniforms
from rft.types import Rollouts, Sequences

if TYPE_CHECKING:
    from numpy.typing import NDArray

EOS, PAD, VOCABULARY, TOKENS = 2, 0, 7, 5
PROMPTS = [[3, 4, 5], [6, 3], [5, 5, 4, 3], [4], [3, 6, 6], [6, 5, 4], [5, 3], [4, 4, 6]]
SAMPLES = 4
VALUES = (0.0, 0.1, 0.4, 1.0, -0.7, 0.3, -0.2)  # of each token, to a reward or a label
TEMPERATURE = 0.7  # another than 1, so that log-probs at the wrong one do not pass for right


class TokenReward:
    """A reward that is a function of the counted tokens alone; it grows with the response's share of some tokens."""

    may_lack = False

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        self.dtype = dtype

    def score(self, sequences: Sequences) -> Tensor:
        """Shape [B]."""
        value = torch.tensor(VALUES, dtype=torch.float64)
        per_token = torch.where(sequences.response_mask, value[sequences.response_ids], 0.0)
        return (per_token.sum(-1) / sequences.lengths + 0.01 * sequences.prompt_ids[:, -1]).to(self.dtype)


class Tokenizer:
    """Tokens as numbers."""

    eos_token_id, pad_token_id = EOS, PAD

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The numbers, special tokens among them: without them some responses would be empty."""
        del skip_special_tokens
        return " ".join(map(str, ids))


class TokenFeedback(Feedback):
    """Bradley–Terry on the mean value of a response's tokens."""

    symmetric = True

    def label(self, answers: Sequence[Answer], pairs: NDArray[np.int64]) -> Labels:
        """See the base class."""
        scores = np.array([np.mean([VALUES[int(word)] for word in answer.response.split()]) for answer in answers])
        apart = scores[pairs[:, 1]] - scores[pairs[:, 0]]
        return Labels(scores, 1 / (1 + np.exp(apart)), ["{}"] * len(pairs))


def make_model(seed: int = 7) -> Any:
    """A random GPT-2 of one layer, in float64 (a Llama's norm would round to float32 all the same)."""
    from transformers import AutoModelForCausalLM, GPT2Config

    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=16,
        n_layer=1,
        n_head=2,
        n_positions=16,
        bos_token_id=1,
        eos_token_id=EOS,
        pad_token_id=PAD,
        initializer_range=0.4,  # far from uniform, so that mistakes show
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config).double().eval()


def settings_for_checks(config: Any) -> Any:
    """An algorithm's settings at the size of this world: one pass, one step, groups of four."""
    if isinstance(config, OnPolicyConfig):
        return dataclasses.replace(
            config,
            prompts_per_iteration=len(PROMPTS),
            samples_per_prompt=SAMPLES,
            epochs=1,
            minibatches=1,
            temperature=TEMPERATURE,
        )
    if isinstance(config, PreferenceConfig):
        return dataclasses.replace(config, epochs=1, pairs_per_step=8)
    return config


class World:
    """An algorithm on a fresh copy of the model, with everything it needs."""

    def __init__(
        self, algorithm_class: type[Algorithm], config: Any, *, nudge: float = 0.0, dtype: torch.dtype = torch.float64
    ) -> None:
        """Make it.

        Args:
            algorithm_class: what is checked.
            config: its settings.
            nudge: size of a random change of policy and critic, which moves them away from reference and start.
            dtype: of weights and rewards.
        """
        model = make_model().to(dtype)
        self.dtype = dtype
        self.engine = RolloutEngine(model, EOS, PAD)
        trained = [Role.policy] + ([Role.critic] if "value" in algorithm_class.needs else [])
        tokenizer: Any = Tokenizer()
        self.config = settings_for_checks(config)
        self.backbone = Backbone(
            model,
            tokenizer,
            LoraConfig(enabled=False),
            trained,
            trained,
            seed=1,
            critic_on_policy=algorithm_class.critic_on_policy(self.config),
        ).to(dtype)
        self.algorithm = algorithm_class(self.config, self.backbone)
        if nudge:
            self.nudge(nudge)

    def nudge(self, size: float) -> None:
        """Move everything that is trained by normal noise."""
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * size)

    def parameters(self) -> list[torch.nn.Parameter]:
        """What is trained."""
        return [p for p in self.algorithm.parameters() if p.requires_grad]

    # --- on-policy data

    def stream(self, *, accumulate: int = 1, rank: int = 0, world: int = 1) -> RolloutStream:
        """The stream that a run would have."""
        reward = TokenReward(self.dtype) if "reward" in self.algorithm.needs else None
        return RolloutStream(
            self.algorithm,
            self.engine,
            reward,
            PROMPTS,
            response_tokens=TOKENS,
            seed=3,
            accumulate=accumulate,
            rank=rank,
            world=world,
            feedback=TokenFeedback() if "feedback" in self.algorithm.needs else None,
        )

    def rollouts(self) -> Rollouts:
        """Fresh rollouts of the present policy."""
        return self.stream().collect(0)

    # --- labelled data

    def answers(self) -> Sequences:
        """Candidates: each prompt answered ``SAMPLES`` times by the reference."""
        asked = [p for p in PROMPTS for _ in range(SAMPLES)]
        ids, mask = pad_prompts(asked, PAD, torch.device("cpu"))
        engine = RolloutEngine(self.backbone.base, EOS, PAD)
        return engine.generate(ids, mask, uniforms(len(asked), TOKENS, 11), 1.0)

    def labelled(self) -> Any:
        """A step's rows: two comparisons a prompt, the higher reward as chosen."""
        answers = self.answers()
        scores = TokenReward().score(answers).tolist()
        comparisons = []
        for prompt in range(len(PROMPTS)):
            for a, b in ((0, 1), (2, 3)):
                rows = sorted((prompt * SAMPLES + a, prompt * SAMPLES + b), key=lambda r: -scores[r])
                comparisons.append(Comparison(str(prompt), rows[0], rows[1], 0.9))
        ref = reference_logprobs(answers, self.backbone) if "reference" in self.algorithm.needs else None
        if self.algorithm.data_kind != "unpaired":
            return to_pairs(comparisons, answers, ref)
        others = mismatched(answers, SAMPLES)
        ref_others = reference_logprobs(others, self.backbone) if "reference" in self.algorithm.needs else None
        return to_unpaired(comparisons, answers, others, ref, ref_others)

    def offline_stream(self, data: Any, *, accumulate: int = 1, rank: int = 0, world: int = 1) -> OfflineStream:
        """The stream that a run would have, of one step."""
        return OfflineStream(
            self.algorithm,
            data,
            rows_per_step=len(data),
            epochs=1,
            seed=3,
            accumulate=accumulate,
            rank=rank,
            world=world,
        )

    # --- both

    def batch(self) -> Any:
        """A whole minibatch: rollouts with credit assigned, or the rows of a step that the algorithm has seen."""
        if self.algorithm.data_kind == "on_policy":
            return self.algorithm.assign_credit(self.rollouts())
        return self.algorithm.see_step(self.labelled())

    def microbatches(self, accumulate: int) -> Iterator[Any]:
        """The microbatches of one optimiser step."""
        if self.algorithm.data_kind == "on_policy":
            stream = self.stream(accumulate=accumulate)
            return stream.minibatches(self.algorithm.assign_credit(stream.collect(0)), 0)
        data = self.labelled()
        return self.offline_stream(data, accumulate=accumulate).microbatches(data)

    def gradient(self, batches: Any, parts: int = 1) -> Tensor:
        """The gradient of the weighted mean loss over microbatches, flat, of all that is trained.

        Raises:
            ValueError: if it is not finite.
        """
        gradient = self.any_gradient(batches, parts)
        if not bool(torch.isfinite(gradient).all()):
            raise ValueError("the gradient is not finite")
        return gradient

    def any_gradient(self, batches: Any, parts: int = 1) -> Tensor:
        """The same, finite or not."""
        self.algorithm.zero_grad()
        for batch in batches:
            (self.algorithm.checked_loss(batch).loss * batch.weight / parts).backward()
        return flat_gradient(self.parameters())

    def clone(self) -> World:
        """Another world in the same state."""
        return copy.deepcopy(self)


def flat_gradient(parameters: list[torch.nn.Parameter]) -> Tensor:
    """All gradients in one vector; zeros where there is none."""
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
