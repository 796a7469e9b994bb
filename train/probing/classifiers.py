"""What frozen features tell: multinomial logistic regression, and the nearest neighbours. Nothing here is random.

Both read standardised features. The regression minimises the mean cross entropy + l2 / 2 x the squared weights (the
intercepts are free) by full-batch L-BFGS. Its steps are taken in variables in which the curvature is at most 1 in
every direction: that of cross entropy is at most X'X / 2N (Boehning 1992), which is factored once for each penalty.
Correlated features then cost no more steps than independent ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

L2 = (0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""The penalties that are tried. Of mean cross entropy: scikit-learn's C is 1 / (l2 x samples)."""
_STEPS, _HISTORY = 200, 10
_CHUNK = 1024


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Mean and 1 / standard deviation of every dimension, float32 (D,); constant dimensions become 0."""

    mean: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Scale":
        """Those of features, float32 (N, D)."""
        mean = features.mean(0)
        spread = (features - mean).square_().mean(0).sqrt_()
        flat = spread <= 1e-6 * mean.abs().clamp(min=1e-6)
        return cls(mean=mean, inverse=torch.where(flat, 0.0, 1 / spread))

    def __call__(self, features: Tensor) -> Tensor:
        """Features less the mean, by the deviation."""
        return (features - self.mean).mul_(self.inverse)


@dataclass(frozen=True, kw_only=True)
class Logistic:
    """A fitted regression. weights: float32 (K, D + 1), intercepts last. gradient: its largest entry, at the end."""

    weights: Tensor
    loss: float
    gradient: float

    def guess(self, features: Tensor) -> Tensor:
        """The likeliest class of each row, int64 (N,)."""
        return torch.addmm(self.weights[:, -1:], self.weights[:, :-1], features.mT).argmax(0)


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, *, l2: float, start: Tensor | None = None
) -> Logistic:
    """Fit to standardised features, float32 (N, D), and labels, int64 (N,). start: weights to begin from."""
    problem = _Problem(features, labels, num_classes, l2)
    moved = problem.moved(features.new_zeros(num_classes, features.shape[1] + 1) if start is None else start)
    optimizer = torch.optim.LBFGS(
        [moved],
        max_iter=_STEPS,
        history_size=_HISTORY,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, gradient = problem(problem.weights(moved))
        moved.grad = problem.moved_gradient(gradient)
        return loss

    step: Any = optimizer.step
    step(closure)
    weights = problem.weights(moved)
    loss, gradient = problem(weights)
    return Logistic(weights=weights, loss=float(loss), gradient=float(gradient.abs().max()))


class _Problem:
    """Loss and gradient by weights W (K, D + 1), and the change of variables: W L, with LL' the bound on curvature.

    All products have the few classes as rows: a third of the time of products with few columns, on a CPU.
    """

    def __init__(self, features: Tensor, labels: Tensor, num_classes: int, l2: float) -> None:
        num, dim = features.shape
        self.features = torch.cat([features, features.new_ones(num, 1)], 1)
        self.labels, self.columns = labels, torch.arange(num, device=labels.device)
        self.penalty = features.new_full((dim + 1,), l2)
        self.penalty[-1] = 0
        exact = self.features.double()  # in float32, one strong direction drowns the weak ones in its rounding
        bound = exact.mT @ exact / (2 * num) + self.penalty.double().diag()
        bound += 1e-7 * torch.eye(dim + 1, dtype=torch.float64, device=bound.device)
        self.factor = torch.linalg.cholesky(bound).float()

    def moved(self, weights: Tensor) -> Tensor:
        moved: Tensor = weights @ self.factor
        return moved.contiguous()

    def weights(self, moved: Tensor) -> Tensor:
        weights: Tensor = torch.linalg.solve_triangular(self.factor, moved, upper=False, left=False)
        return weights

    def moved_gradient(self, gradient: Tensor) -> Tensor:
        moved: Tensor = torch.linalg.solve_triangular(self.factor.mT, gradient, upper=True, left=False)
        return moved.contiguous()

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        logs = (weights @ self.features.mT).log_softmax(0)
        loss = -logs[self.labels, self.columns].mean()
        wrong = logs.exp_()
        wrong[self.labels, self.columns] -= 1
        penalised = self.penalty * weights
        gradient = torch.addmm(penalised, wrong, self.features, alpha=1 / len(self.labels))
        return loss + (penalised * weights).sum() / 2, gradient


def fit_best(
    features: Tensor, labels: Tensor, held_out: Tensor, num_classes: int, l2s: Sequence[float] = L2
) -> tuple[Logistic, float]:
    """(regression on all rows, its penalty): the penalty that is best on the rows held out, of equals the largest.

    features: as they come out of the network, float32 (N, D); they are standardised by the rows that are fitted.
    held_out: bool (N,).
    """
    fitted, judged = features[~held_out], features[held_out]
    scale = Scale.of(fitted)
    fitted, judged = scale(fitted), scale(judged)
    weights, best, chosen = None, -1, 0.0
    for l2 in sorted(l2s, reverse=True):
        found = fit_logistic(fitted, labels[~held_out], num_classes, l2=l2, start=weights)
        weights = found.weights
        right = int((found.guess(judged) == labels[held_out]).sum())
        if right > best:
            best, chosen = right, l2
    whole = Scale.of(features)(features)
    return fit_logistic(whole, labels, num_classes, l2=chosen, start=weights), chosen


def nearest_guesses(
    bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class that the k nearest rows of the bank vote for, int64 (M,), as in DINO (Caron et al. 2021).

    Near is a large cosine; a neighbour's vote is exp(cosine / temperature). bank: float32 (N, D); labels: int64 (N,);
    queries: float32 (M, D).
    """
    bank = torch.nn.functional.normalize(bank)
    guesses = []
    for part in torch.split(queries, _CHUNK):
        cosines = torch.nn.functional.normalize(part) @ bank.mT
        near, rows = cosines.topk(k, dim=1)
        votes = near.new_zeros(len(part), num_classes)
        votes.scatter_add_(1, labels[rows], ((near - 1) / temperature).exp_())  # less 1: the same votes, no overflow
        guesses.append(votes.argmax(1))
    return torch.cat(guesses)
