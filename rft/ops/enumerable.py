"""Problems so small that every response can be listed, and the policies that objectives are maximised by there.

Dimensions: ``X`` prompts, ``Y`` responses, ``R`` response tokens, ``M`` pairs of responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Enumerable:
    """Prompts, all responses that any of them can get, and the reward of each. All numbers are float64."""

    tokens: Tensor  # [Y, R] int64
    mask: Tensor  # [Y, R] bool, EOS counted
    truncated: Tensor  # [Y] bool, ended without EOS
    ref_logprobs: Tensor  # [X, Y, R] of the reference, zero outside the mask
    rewards: Tensor  # [X, Y]

    @property
    def lengths(self) -> Tensor:
        """Counted tokens of each response. Shape [Y]."""
        return self.mask.sum(-1)

    @property
    def reference(self) -> Tensor:
        """log π_ref(y|x). Shape [X, Y]."""
        return self.ref_logprobs.sum(-1)

    def kl_regularised(self, beta: float, rewards_XY: Tensor | None = None) -> Tensor:
        """π*(y|x) ∝ π_ref(y|x) exp(r(x, y)/β), which maximises E[r] − β KL(π ‖ π_ref). Shape [X, Y].

        Source: Rafailov et al. 2023 (arXiv 2305.18290), equation 4. Without a pull to the reference (β = 0) all mass is
        on the best response.
        """
        rewards = self.rewards if rewards_XY is None else rewards_XY
        if beta == 0:
            return torch.nn.functional.one_hot(rewards.argmax(-1), rewards.shape[-1]).to(rewards.dtype)
        return torch.softmax(self.reference + rewards / beta, -1)

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Every two different responses, the lower number first. Two tensors [M], int64."""
        first, second = torch.triu_indices(len(self.tokens), len(self.tokens), offset=1)
        return first, second

    def preferences(self) -> Tensor:
        """P(first is better) of each pair by Bradley and Terry: σ(r(x, first) − r(x, second)). Shape [X, M]."""
        first, second = self.pairs()
        return torch.sigmoid(self.rewards[:, first] - self.rewards[:, second])

    def from_ipo(self, beta: float) -> Tensor:
        """π ∝ π_ref exp(w/β), w(y) the mean over y' of P(y ≻ y'): the least IPO loss on all pairs. Shape [X, Y].

        Up to a constant the loss of a pair is (h − (2p − 1)/(2β))², h the difference of log-ratios: least squares on a
        complete graph, which means over rows solve. Source: Azar et al. 2023 (arXiv 2310.12036), y' uniform.
        """
        r = self.rewards
        wins_XY = torch.sigmoid(r[:, :, None] - r[:, None, :]).mean(-1)  # P(y ≻ y) = ½ adds a constant
        return (self.reference + wins_XY / beta).softmax(-1)

    def from_own_ipo(self, beta: float, *, soft: bool) -> Tensor:
        """π ∝ π_ref exp(w/β), w(y) = E[P(y ≻ y')] over y' of π itself: IPO on pairs that π draws. Shape [X, Y].

        There the mean gradient of the loss vanishes; it is the equilibrium of self-play. Source: Calandriello et al.
        2024 (arXiv 2403.08635). With ``soft`` P is Bradley and Terry's, else 1 for the higher reward.
        """
        margin = self.rewards[:, :, None] - self.rewards[:, None, :]
        wins_XYY = torch.sigmoid(margin) if soft else 0.5 + 0.5 * margin.sign()
        # Damped: wins turn the step by an imaginary number of at most 1/(2β), which must not outgrow what it shrinks.
        part, logits_XY = 1 / (1 + 1 / (4 * beta * beta)), self.reference
        for _ in range(100_000):
            policy_XY = logits_XY.softmax(-1)
            moved_XY = self.reference + (wins_XYY @ policy_XY[:, :, None])[:, :, 0] / beta - logits_XY
            if float(moved_XY.abs().max()) < 1e-10:
                break
            logits_XY = logits_XY + part * moved_XY
        return policy_XY

    def from_hinge(self, beta: float) -> Tensor:
        """The policy that minimises max(0, 1 − β h) on all pairs, h the difference of log-ratios. Shape [X, Y].

        A corner, which no smooth solver finds: by linear programming on the log-ratios, a slack for each ordered pair.
        """
        from scipy.optimize import linprog

        first, second = self.pairs()
        better, worse = torch.cat([first, second]), torch.cat([second, first])
        count, rows = len(self.tokens), torch.arange(2 * len(first))
        bound = torch.zeros(len(rows), count + len(rows), dtype=torch.float64)
        bound[rows, better], bound[rows, worse], bound[rows, count + rows] = -beta, beta, -1.0
        free = [(0.0, 0.0), *[(None, None)] * (count - 1), *[(0.0, None)] * len(rows)]  # only differences matter
        ratios = []
        for p_M in self.preferences():
            price = torch.cat([torch.zeros(count, dtype=torch.float64), p_M, 1 - p_M])
            found = linprog(price.numpy(), A_ub=bound.numpy(), b_ub=-torch.ones(len(rows)).numpy(), bounds=free)
            ratios.append(torch.from_numpy(found.x[:count]))
        return (self.reference + torch.stack(ratios)).softmax(-1)

    def from_pairs(self, loss: Callable[[Tensor, Tensor], Tensor], *, per_token: bool = False) -> Tensor:
        """The policy that minimises a loss on all pairs, each labelled by Bradley and Terry. Shape [X, Y].

        Args:
            loss: of two tensors [N], a number of the preferred response and of the other one; elementwise.
            per_token: the number is the mean log-probability of a token; else it is log π/π_ref of the response.
        """
        first, second = self.pairs()
        p = self.preferences().flatten()

        def objective(logprobs_XY: Tensor) -> Tensor:
            number_XY = logprobs_XY / self.lengths if per_token else logprobs_XY - self.reference
            a, b = number_XY[:, first].flatten(), number_XY[:, second].flatten()
            return (p * loss(a, b) + (1 - p) * loss(b, a)).sum()

        return minimiser(objective, self.reference)


def minimiser(objective: Callable[[Tensor], Tensor], start_XY: Tensor, steps: int = 500) -> Tensor:
    """The distribution of each row that minimises a function of all log-probabilities [X, Y]. Shape [X, Y].

    By L-BFGS on the logits, in float64.
    """
    logits_XY = start_XY.detach().clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [logits_XY], max_iter=steps, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective(logits_XY.log_softmax(-1))
        value.backward()
        return value

    with torch.enable_grad():
        solver.step(closure)
    return logits_XY.detach().softmax(-1)


def tokenwise_forward_kl(problem: Enumerable, rewards_XY: Tensor, beta: float) -> Tensor:
    """Where following E[A ∇log π] − β ∇KL(π_ref ‖ π) at every token comes to rest. Shape [X, Y].

    That is what the k3 estimator gives when it stands in the loss: E_π[∇k3] = ∇KL(π_ref ‖ π), token by token, and not
    the gradient of KL(π ‖ π_ref) of the sequence. At a prefix with action values Q and value V = Σ π Q the rest is
    π(a) (Q(a) − V) = β (π(a) − π_ref(a)), so π(a) = β π_ref(a) / (β + V − Q(a)), with V the root of Σ π = 1 in
    (max Q − β, max Q]; prefixes are solved from the longest to the empty one.

    Args:
        problem: gives prefixes and reference.
        rewards_XY: in the unit of β.
        beta: above 0.
    """
    rows = []
    for x in range(len(rewards_XY)):
        probabilities_Y = torch.ones(len(problem.tokens), dtype=torch.float64)
        _solve_prefix(problem, x, rewards_XY[x], beta, torch.arange(len(problem.tokens)), 0, probabilities_Y)
        rows.append(probabilities_Y)
    return torch.stack(rows)


def _solve_prefix(
    problem: Enumerable, x: int, rewards_Y: Tensor, beta: float, rows: Tensor, t: int, out_Y: Tensor
) -> float:
    """Multiply the policy from one prefix on into ``out_Y``; returns the value of the prefix.

    Args:
        problem: as above.
        x: the prompt.
        rewards_Y: its rewards.
        beta: as above.
        rows: the responses that start with the prefix.
        t: its length.
        out_Y: [Y], changed in place.
    """
    if len(rows) == 1 and int(problem.lengths[rows[0]]) == t:
        return float(rewards_Y[rows[0]])
    actions = problem.tokens[rows, t].unique()
    branches = [rows[problem.tokens[rows, t] == a] for a in actions]
    q = torch.tensor(
        [_solve_prefix(problem, x, rewards_Y, beta, b, t + 1, out_Y) for b in branches], dtype=torch.float64
    )
    ref = torch.stack([problem.ref_logprobs[x, b[0], t] for b in branches]).exp()
    low, high = float(q.max()) - beta, float(q.max())
    for _ in range(200):
        v = (low + high) / 2
        low, high = (v, high) if float((beta * ref / (beta + v - q)).sum()) > 1 else (low, v)
    policy = beta * ref / (beta + high - q)
    policy = policy / policy.sum()
    for probability, branch in zip(policy, branches, strict=True):
        out_Y[branch] *= probability
    return float((policy * q).sum())


def standardised(solve: Callable[[Tensor], Tensor], rewards_XY: Tensor) -> Tensor:
    """The policy that an objective has at rewards divided by their standard deviation under that same policy.

    Args:
        solve: from rewards [X, Y] to the policy [X, Y].
        rewards_XY: as they are.
    """
    std_X = rewards_XY.std(-1)
    for _ in range(200):
        policy_XY = solve(rewards_XY / std_X[:, None])
        mean_X = (policy_XY * rewards_XY).sum(-1)
        now_X = (policy_XY * (rewards_XY - mean_X[:, None]).square()).sum(-1).sqrt()
        if bool(((now_X - std_X).abs() <= 1e-9).all()):
            break
        std_X = (std_X + now_X) / 2
    return policy_XY


def best_of_n_law(problem: Enumerable, n: int) -> Tensor:
    """The law of the response with the highest reward of n draws from the reference. Shape [X, Y].

    P(y) = F(y)ⁿ − F(<y)ⁿ, F the distribution function over rewards; ties go to no one, so rewards must differ.
    """
    order = problem.rewards.argsort(-1)
    cdf = problem.reference.exp().gather(-1, order).cumsum(-1).clamp(max=1)
    power = cdf**n
    law = torch.cat([power[:, :1], power.diff(dim=-1)], -1)
    return torch.zeros_like(law).scatter(-1, order, law)
