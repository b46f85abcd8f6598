"""The optimum in closed form: a policy that is a table, on a problem whose every response can be listed.

Dimensions: ``B`` sequences, ``X`` prompts, ``Y`` responses, ``R`` response tokens, ``S`` prefixes, ``V`` tokens.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from typing import Any

import torch
from torch import Tensor, nn

from rft.algorithms.base import Algorithm
from rft.algorithms.checked import ContractError, place
from rft.config import OnPolicyConfig
from rft.models.backbone import Role
from rft.ops.enumerable import Enumerable
from rft.ops.kl import best_of_n_kl
from rft.testing.subject import Found, NotApplicableError, Subject
from rft.types import OnPolicyBatch, PreferenceBatch, Rollouts, Sequences, UnpairedBatch

EOS, PAD = 0, 0
CLOSE = 0.02  # largest total variation from the optimum
STEPS = 300
RATES = (0.05, 0.4)  # one after the other until it is there: an optimum at an edge is far off in logits
SCALES = (0.03, 0.1, 0.3, 1.0, 3.0)  # of rewards; the one whose optimum is farthest from trivial is taken


class Table(nn.Module):
    """A policy with its reference and its critic, as tables over prefixes; it answers what a ``Backbone`` answers."""

    eos_id, pad_id = EOS, PAD

    def __init__(self, prompts: int, tokens: int, limit: int, *, critic: bool) -> None:
        super().__init__()
        self.prompts, self.tokens, self.limit = prompts, tokens, limit
        self.prefixes = sum(tokens**t for t in range(limit))
        generator = torch.Generator().manual_seed(7)
        shape = (prompts, self.prefixes, tokens)
        reference = torch.randn(shape, generator=generator, dtype=torch.float64) * 0.7
        self.register_buffer("reference", reference)
        self.policy = nn.Parameter(reference.clone())
        self.critic = nn.Parameter(torch.zeros(shape[:2], dtype=torch.float64), requires_grad=critic)
        self.trained = (Role.policy, Role.critic) if critic else (Role.policy,)

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return self.policy.device

    def parameters_of(self, role: Role) -> list[nn.Parameter]:
        """A role's table."""
        return [self.critic if role is Role.critic else self.policy]

    def prefix(self, response_ids: Tensor) -> Tensor:
        """The number of the prefix before each token. Shape [B, R], int64."""
        number = torch.zeros_like(response_ids[:, 0])
        numbers = []
        for t in range(response_ids.shape[1]):
            numbers.append(number + sum(self.tokens**i for i in range(t)))
            number = number * self.tokens + response_ids[:, t]
        return torch.stack(numbers, 1)

    def logprobs(self, role: Role, seq: Sequences, temperature: float = 1.0) -> Tensor:
        """log p of each counted token, zero elsewhere. Shape [B, R], float64."""
        table: Any = self.reference if role is Role.reference else self.policy
        logp = (table / temperature).log_softmax(-1)
        x_B1 = seq.prompt_ids[:, -1:]
        found: Tensor = logp[x_B1, self.prefix(seq.response_ids), seq.response_ids]
        return torch.where(seq.response_mask, found, torch.zeros_like(found))

    def entropy(self, role: Role, seq: Sequences, temperature: float = 1.0) -> Tensor:
        """Entropy of each counted token's distribution, nats, zero elsewhere. Shape [B, R], float64."""
        table: Any = self.reference if role is Role.reference else self.policy
        logp = (table / temperature).log_softmax(-1)
        found: Tensor = -(logp.exp() * logp).sum(-1)[seq.prompt_ids[:, -1:], self.prefix(seq.response_ids)]
        return torch.where(seq.response_mask, found, torch.zeros_like(found))

    def values(self, seq: Sequences) -> Tensor:
        """The critic's value before each counted token, zero elsewhere. Shape [B, R], float64."""
        found: Tensor = self.critic[seq.prompt_ids[:, -1:], self.prefix(seq.response_ids)]
        return torch.where(seq.response_mask, found, torch.zeros_like(found))


def list_responses(tokens: int, limit: int) -> tuple[Tensor, Tensor, Tensor]:
    """Every response: tokens [Y, R], mask [Y, R], truncated [Y]."""
    complete = [(*head, EOS) for n in range(limit) for head in itertools.product(range(1, tokens), repeat=n)]
    cut = list(itertools.product(range(1, tokens), repeat=limit))
    found = [*complete, *cut]
    ids = torch.tensor([[*r, *[PAD] * (limit - len(r))] for r in found])
    mask = torch.tensor([[t < len(r) for t in range(limit)] for r in found])
    return ids, mask, torch.tensor([False] * len(complete) + [True] * len(cut))


class Arena:
    """A table, all its responses, and the sequences of every prompt with each of them."""

    def __init__(self, *, prompts: int = 2, tokens: int = 3, limit: int = 3, critic: bool = False) -> None:
        self.table = Table(prompts, tokens, limit, critic=critic)
        self.tokens, self.mask, self.truncated = list_responses(tokens, limit)
        self.x = torch.arange(prompts).repeat_interleave(len(self.tokens))
        self.y = torch.arange(len(self.tokens)).repeat(prompts)
        generator = torch.Generator().manual_seed(9)
        self.base = torch.randn(prompts, len(self.tokens), generator=generator, dtype=torch.float64)

    def sequences(self, x_B: Tensor, y_B: Tensor) -> Sequences:
        """Responses to prompts, both by number."""
        return Sequences(x_B[:, None], torch.ones(len(x_B), 1, dtype=torch.bool), self.tokens[y_B], self.mask[y_B])

    def problem(self, scale: float) -> Enumerable:
        """The problem with rewards of a size."""
        ref = self.table.logprobs(Role.reference, self.sequences(self.x, self.y))
        shape = (self.table.prompts, len(self.tokens), ref.shape[-1])
        return Enumerable(self.tokens, self.mask, self.truncated, ref.view(shape), self.base * scale)

    @torch.no_grad()
    def policy(self) -> Tensor:
        """π(y|x). Shape [X, Y]."""
        logp = self.table.logprobs(Role.policy, self.sequences(self.x, self.y)).sum(-1)
        return logp.exp().view(self.table.prompts, -1)

    @torch.no_grad()
    def rollouts(self, algorithm: Algorithm, problem: Enumerable, groups: int, k: int, seed: int) -> Rollouts:
        """Samples of the policy, `k` for each of some groups; prompts in turn."""
        generator = torch.Generator().manual_seed(seed)
        x_B = (torch.arange(groups) % self.table.prompts).repeat_interleave(k)
        law = self.policy()
        y_B = torch.multinomial(law[x_B], 1, generator=generator)[:, 0]
        seq = self.sequences(x_B, y_B)
        needs = algorithm.needs
        ref = self.table.logprobs(Role.reference, seq)
        logprobs = self.table.logprobs(Role.policy, seq)
        # The most likely response, token by token, as the real stream takes it.
        greedy = self._greedy()
        return Rollouts(
            seq,
            logprobs,
            problem.rewards[x_B, y_B],
            self.truncated[y_B],
            torch.arange(groups).repeat_interleave(k),
            ref if "reference" in needs else None,
            self.table.values(seq) if "value" in needs else None,
            problem.rewards[x_B, greedy[x_B]] if "greedy" in needs else None,
            {"rollout/kl": float((logprobs - ref).sum(-1).mean())},
            self._preferences(problem.rewards[x_B, y_B]) if "feedback" in needs else None,
        )

    @staticmethod
    def _preferences(rewards_B: Tensor) -> Tensor:
        """Bradley and Terry's P(better than the other), responses two by two: σ(r − r of the other). Shape [B]."""
        pair_M2 = rewards_B.view(-1, 2)
        return torch.sigmoid(pair_M2 - pair_M2.flip(1)).flatten()

    def _greedy(self) -> Tensor:
        """Number of the greedy response to each prompt. Shape [X]."""
        found = []
        for x in range(self.table.prompts):
            rows = torch.arange(len(self.tokens))
            for t in range(self.tokens.shape[1]):
                prefix = self.table.prefix(self.tokens[rows])[0, t]
                rows = rows[self.tokens[rows, t] == self.table.policy[x, prefix].argmax()]
                if len(rows) == 1:
                    break
            found.append(int(rows[0]))
        return torch.tensor(found)

    def labelled(self, algorithm: Algorithm, problem: Enumerable, copies: int = 400) -> Any:
        """Every two responses, in both orders as often as Bradley and Terry's probability says, of `copies`."""
        first, second = problem.pairs()
        times = (problem.preferences() * copies).round().long()
        rows: list[Tensor] = []
        for x in range(self.table.prompts):
            for a, b, n in ((first, second, times[x]), (second, first, copies - times[x])):
                row = torch.stack([torch.full_like(a, x), a, b], 1)
                rows.append(row.repeat_interleave(n, 0))
        x_B, chosen, rejected = torch.cat(rows).unbind(1)
        good, bad = self.sequences(x_B, chosen), self.sequences(x_B, rejected)
        ref_good, ref_bad = (self.table.logprobs(Role.reference, s).sum(-1) for s in (good, bad))
        if algorithm.data_kind == "preference":
            return PreferenceBatch(good, bad, torch.ones(len(x_B), dtype=torch.float64), ref_good, ref_bad)
        x_N, y_N = torch.cat([x_B, x_B]), torch.cat([chosen, rejected])
        other = self.sequences((x_N + 1) % self.table.prompts, y_N)
        return UnpairedBatch(
            self.sequences(x_N, y_N),
            torch.arange(len(x_N)) < len(x_B),
            other,
            torch.cat([ref_good, ref_bad]),
            self.table.logprobs(Role.reference, other).sum(-1),
        )


def total_variation(p_XY: Tensor, q_XY: Tensor) -> float:
    """½ Σ |p − q|, the largest over prompts."""
    return float(0.5 * (p_XY - q_XY).abs().sum(-1).max())


def _problem(arena: Arena, algorithm: Algorithm) -> tuple[Enumerable, Tensor]:
    """Of all reward scales the one whose optimum lies nearest to half-way off the reference, with that optimum."""
    options = []
    for scale in SCALES:
        problem = arena.problem(scale)
        wanted = algorithm.optimum(problem)
        if wanted is None:
            raise NotApplicableError("no optimum declared under these settings")
        if wanted.shape != problem.rewards.shape:
            raise ContractError(
                f"{place(algorithm.optimum)}: gave {list(wanted.shape)}; wanted the policy [X, Y] = "
                f"{list(problem.rewards.shape)}"
            )
        away = total_variation(wanted, problem.reference.exp())
        options.append((abs(away - 0.4), scale, problem, wanted))
    _, _, problem, wanted = min(options, key=lambda o: o[:2])
    return problem, wanted


def reaches_its_optimum(subject: Subject) -> Found:
    """Trained on the problem, the policy comes within total variation 0.02 of the optimum that it declares."""
    cls, config = subject.algorithm, subject.config
    if cls.data_kind == "none":
        return _untrained(subject)
    on_policy = isinstance(config, OnPolicyConfig)
    if isinstance(config, OnPolicyConfig):
        config = dataclasses.replace(config, temperature=1.0, epochs=1)
    arena = Arena(limit=3 if on_policy else 2, critic="value" in cls.needs)
    algorithm = cls(config, arena.table)  # type: ignore[arg-type]
    problem, wanted = _problem(arena, algorithm)
    optimizer = algorithm.configure_optimizers()
    assert isinstance(optimizer, torch.optim.Optimizer)
    data = None if on_policy else arena.labelled(algorithm, problem)
    apart = 1.0
    for rate in RATES:
        _train(arena, algorithm, problem, optimizer, rate, data)
        apart = total_variation(arena.policy(), wanted)
        if apart < CLOSE:
            break
    start = total_variation(problem.reference.exp(), wanted)
    detail = f"total variation {apart:.4f} (from {start:.2f})"
    if on_policy and (k := algorithm.optimum_samples) > 1:
        detail += f", {k} responses a prompt"
    if apart < CLOSE:
        return Found(True, detail)
    return Found(
        False,
        f"{detail}, wanted below {CLOSE}; sign or size of the KL term, or of the advantage? A group mean that has the "
        "response itself in it shrinks rewards by (k − 1)/k",
        subject.learns,
    )


def _train(
    arena: Arena, algorithm: Algorithm, problem: Enumerable, optimizer: torch.optim.Optimizer, rate: float, data: Any
) -> None:
    """Steps whose rate falls to nothing by a cosine."""
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        fresh = data is None
        for batch in _credited(arena, algorithm, problem, step) if fresh else [algorithm.prepare_step(data)]:
            optimizer.zero_grad()
            algorithm.checked_loss(batch).loss.backward()
            optimizer.step()


def _credited(
    arena: Arena, algorithm: Algorithm, problem: Enumerable, step: int
) -> list[OnPolicyBatch | PreferenceBatch]:
    """Two minibatches of fresh rollouts."""
    k = algorithm.optimum_samples
    groups = max(2 * arena.table.prompts, 1024 // k)
    batch = algorithm.assign_credit(arena.rollouts(algorithm, problem, groups, k, step))
    half = len(batch) // 2
    return [batch[slice(0, half)], batch[slice(half, None)]]


def _untrained(subject: Subject) -> Found:
    """What is not trained: the best of n draws follows the declared law, within the bound on its KL."""
    arena = Arena()
    algorithm = subject.algorithm(subject.config, arena.table)  # type: ignore[arg-type]
    problem = arena.problem(1.0)
    wanted = algorithm.optimum(problem)
    assert wanted is not None
    n, draws = algorithm.best_of(subject.config), 40_000
    generator = torch.Generator().manual_seed(3)
    laws = []
    for x in range(arena.table.prompts):
        y = torch.multinomial(arena.policy()[x], draws * n, replacement=True, generator=generator).view(draws, n)
        best = y.gather(1, problem.rewards[x][y].argmax(-1, keepdim=True))[:, 0]
        laws.append(torch.bincount(best, minlength=len(arena.tokens)).double() / draws)
    apart = total_variation(torch.stack(laws), wanted)
    kl = float((wanted * (wanted.clamp(min=1e-300).log() - problem.reference)).sum(-1).max())
    bound = best_of_n_kl(n)
    ok = apart < CLOSE and kl <= bound + 1e-9
    return Found(
        ok, f"total variation {apart:.4f}; KL {kl:.3f} of at most {bound:.3f} nats", subject.at("optimum", "best_of")
    )
