"""The schema of a run, and the fields that algorithms share. Defaults live here and in each option's ``Config``."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar

from omegaconf import MISSING

from rft.config.ranges import number
from rft.config.search import loguniform

ADAPTER_LR = loguniform(5e-5, 5e-3)
"""Learning rates that are searched, the same for every algorithm that trains: a decade to both sides of the 5e-4 of
the default study's adapters. An adapter wants about ten times the rate of full fine-tuning (Schulman et al. 2025, LoRA
Without Regret); for full fine-tuning set ``sweep.ranges`` lower.
"""
REQUIRES = "requires_"
"""Fields of an algorithm that begin so, with a group's name after it, hold the only option that its name stands for."""
SPLITS = ("train", "validation", "test", "ood")


class Until(str, Enum):
    """The last stage that a run computes."""

    questions = "questions"
    sft = "sft"
    candidates = "candidates"
    revisions = "revisions"
    preferences = "preferences"
    reward_model = "reward_model"
    policy = "policy"
    evaluation = "evaluation"


class Replicate(str, Enum):
    """What the seeds of an arm repeat."""

    policy = "policy"
    pipeline = "pipeline"


@dataclass
class AlgorithmConfig:
    """Fields of every algorithm."""

    name: str = MISSING
    """The algorithm's name in tables and file names."""
    lr: float = number(1e-4, above=0)
    """Learning rate of the policy (AdamW), above 0."""
    weight_decay: float = number(0.0, at_least=0)
    """AdamW's decoupled weight decay, at least 0."""
    requires_feedback: str | None = None
    """The only feedback that this algorithm's name stands for; none if any will do."""
    requires_reward: str | None = None
    """The only reward source that this algorithm's name stands for; none if any will do."""
    same_optimiser: ClassVar[bool] = False
    """Whether it optimises as the algorithm whose Config this one extends, on other labels; says nothing of a Config
    that extends this one in turn."""
    requires_start: str | None = None
    """The only start that this algorithm's name stands for; none if any will do."""

    def conflict(self) -> str | None:
        """What does not fit together in these settings and how to mend it, from the key on; None if all fits."""
        return None


@dataclass
class OnPolicyConfig(AlgorithmConfig):
    """Fields of every algorithm that learns from its own rollouts."""

    lr: float = number(1e-4, search=ADAPTER_LR)
    """Learning rate of the policy (AdamW), above 0."""
    iterations: int = number(20, at_least=1)
    """Rollout iterations, at least 1."""
    prompts_per_iteration: int = number(32, at_least=1)
    """Prompts drawn in an iteration, over all ranks."""
    samples_per_prompt: int = number(1, at_least=1)
    """Responses sampled for each prompt of an iteration."""
    epochs: int = number(1, at_least=1)
    """Passes over an iteration's rollouts."""
    minibatches: int = number(1, at_least=1)
    """Optimiser steps in a pass; must divide the number of rollouts."""
    temperature: float = number(1.0, above=0)
    """Sampling temperature; the log-probabilities are taken at the same one."""

    @property
    def batch_rows(self) -> int:
        """Rows that credit assignment makes of an iteration's rollouts, over all ranks; an algorithm that makes
        another number of them says so.
        """
        return self.prompts_per_iteration * self.samples_per_prompt


@dataclass
class GroupConfig(OnPolicyConfig):
    """Fields of every on-policy algorithm that compares the responses to one prompt with each other."""

    lr: float = 1e-3
    """Learning rate of the policy's adapter; full fine-tuning wants 1e-5 to 1e-6."""
    prompts_per_iteration: int = 8
    """Groups in an iteration, over all ranks."""
    samples_per_prompt: int = number(4, at_least=2)
    """Responses in a group."""
    minibatches: int = 4
    """Optimiser steps in a pass; must divide the number of rows that are learned from."""


@dataclass
class PreferenceConfig(AlgorithmConfig):
    """Fields of every algorithm that learns from pairs."""

    lr: float = number(1e-4, search=ADAPTER_LR)
    """Learning rate of the policy (AdamW), above 0."""
    epochs: int = number(1, at_least=1)
    """Passes over the training pairs."""
    pairs_per_step: int = number(16, at_least=1)
    """Pairs in an optimiser step, over all ranks."""


@dataclass
class SFTConfig:
    """The supervised fine-tuning that makes the start policy."""

    epochs: int = number(1, at_least=1)
    """Passes over the demonstrations."""
    batch_size: int = number(32, at_least=1)
    """Demonstrations in a step."""
    lr: float = number(5e-4, above=0)
    """Learning rate, linearly decayed to a tenth."""
    seed: int = number(0, at_least=0)
    """Order of the demonstrations and start of the adapter."""


@dataclass
class CandidatesConfig:
    """Several answers to each training question, from the start policy."""

    samples_per_prompt: int = number(4, at_least=2)
    """Answers a prompt, at least 2."""
    pairs_per_prompt: int = number(3, at_least=1)
    """Comparisons made of them."""
    temperature: float = number(1.0, above=0)
    """Sampling temperature."""
    heldout_fraction: float = number(0.1, above=0, below=1)
    """Share of the prompts whose labels only measure the reward model."""
    seed: int = number(0, at_least=0)
    """Sampling and pairing."""


@dataclass
class EvaluationConfig:
    """The final test."""

    samples_per_prompt: int = number(1, at_least=1)
    """Answers a prompt."""
    temperature: float = number(1.0, above=0)
    """Sampling temperature."""
    batch_size: int | None = number(None, at_least=1)
    """Sequences generated at once; null: 64, and where they are short more, up to 512 of 16384 tokens together."""
    splits: list[str] = field(default_factory=lambda: ["test", "ood"])
    """Which prompt sets: validation for tuning, test and ood for the verdict."""
    seed: int = number(0, at_least=0)
    """With the trial's seed, the sampling seeds: the same for every arm."""
    checkpoints: int = number(3, at_least=0)
    """Evenly spaced points of training at which the policy is tested too, besides its end."""
    checkpoint_prompts: int = number(48, at_least=1)
    """Questions of the first split that such a point is tested on, one answer each."""
    same_judge: str | None = None
    """Allows `eval_judge` to be the model that the policy learned from, if it holds the name of that option: scores by
    one's own teacher say how well it is pleased. Null: refused."""


@dataclass
class TrackerConfig:
    """What every tracker is told besides metrics, as far as it can keep it."""

    samples: int = number(16, at_least=0)
    """Prompts of each evaluation whose answers are shown in a table, beside the SFT policy's; 0: none."""
    histograms: int = number(200, at_least=0)
    """Rollout iterations, evenly spread, of which the distributions of rewards, advantages, ratios, lengths and KL are
    kept; 0: none."""
    artifacts: bool = True
    """Whether the files that a run is made from and makes are kept with it, so that they can be followed from run to
    run."""
    artifact_mb: float = number(100.0, at_least=0)
    """Largest file that is copied into an artifact, in MB; larger ones are kept by reference, with their checksum."""
    stages: bool = True
    """Whether each stage that a study's trials share has a run, told of when the study is compared. Of W&B and MLflow,
    where artifacts can be followed from run to run."""


@dataclass
class AuditConfig:
    """The audit of the judge, where labels or rewards come from one. It measures; nothing else depends on it."""

    pairs: int = number(400, at_least=0)
    """Pairs of snippets that people rated; 0 audits nothing. With the default few-shot judge a minute on two cores."""
    attack_pairs: int = number(30, at_least=0)
    """Clearly ordered pairs whose worse text is given each of the attacks; 0: none."""
    again_pairs: int = number(50, at_least=0)
    """Of the pairs, those that are asked a second time, at most `pairs`; 0: none."""
    self_pairs: int = number(100, at_least=0)
    """Training questions at most whose first candidate stands against what people wrote there; 0: none."""
    seed: int = number(0, at_least=0)
    """Draws pairs, questions and the division of the raters."""


@dataclass
class RunConfig:
    """One trial: what `rft run` composes."""

    task: Any = MISSING
    model: Any = MISSING
    start: Any = MISSING
    feedback: Any = MISSING
    judge: Any = MISSING
    reward: Any = MISSING
    algorithm: Any = MISSING
    strategy: Any = MISSING
    tracker: Any = MISSING
    budget: Any = MISSING
    sweep: Any = MISSING
    eval_judge: Any = None
    """An option of the group `judge` that scores the answers of the final test, as in eval_judge=few_shot; none by
    default."""
    sft: SFTConfig = field(default_factory=SFTConfig)
    candidates: CandidatesConfig = field(default_factory=CandidatesConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    audit: AuditConfig = field(default_factory=AuditConfig)
    study: str = "scratch"
    """The study that the trial belongs to; its folder under runs/."""
    arm: str = "${rft_arm:${algorithm.name}}"
    """All seeds of one setting. By default the algorithm and the overrides other than the seed."""
    seed: int = number(0, at_least=0)
    """Replicate of the policy stage and of the evaluation's sampling; of more with `replicate`."""
    replicate: Replicate = Replicate.policy
    """What a seed draws anew: `policy` the training only, on shared stages; `pipeline` the candidates, start,
    labels and reward model too, by adding the trial's seed to theirs."""
    until: Until = Until.evaluation
    """Stop after this stage."""
