"""Classifiers on frozen features: multinomial logistic regression, and the nearest neighbours. Nothing here is random.

Both take standardised features. The regression minimises the mean cross entropy + l2 / 2 x the squared weights (the
intercepts are free) by full-batch L-BFGS, in variables in which the curvature is at most 1 in every direction: that of
cross entropy is at most X'X / 2N (Boehning 1992), which is factored once for each penalty. Correlated features then
take no more steps than independent ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

L2 = (0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-6)
"""The penalties that are tried, on the mean cross entropy: scikit-learn's C is 1 / (l2 x samples)."""
_MAX_STEPS, _HISTORY = 200, 10
_QUERIES = 1024
"""Queries whose cosines are computed at once."""


@dataclass(frozen=True, kw_only=True)
class Standardizer:
    """Mean and 1 / standard deviation of every dimension, float32 (D,); a constant dimension becomes 0."""

    mean: Tensor
    inverse_std: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> "Standardizer":
        """The standardizer of features, float32 (N, D)."""
        mean = features.mean(0)
        std = (features - mean).square_().mean(0).sqrt_()
        is_constant = std <= 1e-6 * mean.abs().clamp(min=1e-6)
        return cls(mean=mean, inverse_std=torch.where(is_constant, 0.0, 1 / std))

    def __call__(self, features: Tensor) -> Tensor:
        """Features less the mean, by the standard deviation."""
        return (features - self.mean).mul_(self.inverse_std)


@dataclass(frozen=True, kw_only=True)
class LogisticRegression:
    """A fitted regression. weights: float32 (K, D + 1), intercepts last.

    loss: at the end of the fit; gradient: its largest entry there.
    """

    weights: Tensor
    loss: float
    gradient: float

    def predict(self, features: Tensor) -> Tensor:
        """The likeliest class of each row, int64 (N,)."""
        return torch.addmm(self.weights[:, -1:], self.weights[:, :-1], features.mT).argmax(0)


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, *, l2: float, initial: Tensor | None = None
) -> LogisticRegression:
    """Fit to standardised features, float32 (N, D), and labels, int64 (N,). initial: weights to begin from."""
    problem = _Problem(features, labels, num_classes, l2)
    scaled = problem.scale(features.new_zeros(num_classes, features.shape[1] + 1) if initial is None else initial)
    optimizer = torch.optim.LBFGS(
        [scaled],
        max_iter=_MAX_STEPS,
        history_size=_HISTORY,
        tolerance_grad=1e-5,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def closure() -> Tensor:
        loss, gradient = problem(problem.unscale(scaled))
        scaled.grad = problem.scale_gradient(gradient)
        return loss

    step: Any = optimizer.step
    step(closure)
    weights = problem.unscale(scaled)
    loss, gradient = problem(weights)
    return LogisticRegression(weights=weights, loss=float(loss), gradient=float(gradient.abs().max()))


class _Problem:
    """Loss and gradient at weights W (K, D + 1), and the change of variables to W L, with LL' the bound on curvature.

    All products have classes as rows and samples as columns: a third of the time of the transposed ones, on a CPU.
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

    def scale(self, weights: Tensor) -> Tensor:
        scaled: Tensor = weights @ self.factor
        return scaled.contiguous()

    def unscale(self, scaled: Tensor) -> Tensor:
        weights: Tensor = torch.linalg.solve_triangular(self.factor, scaled, upper=False, left=False)
        return weights

    def scale_gradient(self, gradient: Tensor) -> Tensor:
        scaled: Tensor = torch.linalg.solve_triangular(self.factor.mT, gradient, upper=True, left=False)
        return scaled.contiguous()

    def __call__(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        log_probabilities = (weights @ self.features.mT).log_softmax(0)
        loss = -log_probabilities[self.labels, self.columns].mean()
        residuals = log_probabilities.exp_()
        residuals[self.labels, self.columns] -= 1
        penalised = self.penalty * weights
        gradient = torch.addmm(penalised, residuals, self.features, alpha=1 / len(self.labels))
        return loss + (penalised * weights).sum() / 2, gradient


def fit_best(
    features: Tensor, labels: Tensor, held_out: Tensor, num_classes: int, l2s: Sequence[float] = L2
) -> tuple[LogisticRegression, float]:
    """(regression fitted to all rows, its penalty); the penalty is the one with the best accuracy on held-out rows.

    Of equally good penalties the largest is taken.
    features: as they come out of the network, float32 (N, D); they are standardised by the rows that are fitted.
    held_out: bool (N,).
    """
    standardize = Standardizer.fit(features[~held_out])
    train, validation = standardize(features[~held_out]), standardize(features[held_out])
    weights, most_right, best_l2 = None, -1, 0.0
    for l2 in sorted(l2s, reverse=True):
        model = fit_logistic(train, labels[~held_out], num_classes, l2=l2, initial=weights)
        weights = model.weights
        right = int((model.predict(validation) == labels[held_out]).sum())
        if right > most_right:
            most_right, best_l2 = right, l2
    standardized = Standardizer.fit(features)(features)
    return fit_logistic(standardized, labels, num_classes, l2=best_l2, initial=weights), best_l2


def predict_by_neighbours(
    bank: Tensor, labels: Tensor, queries: Tensor, num_classes: int, *, k: int = 20, temperature: float = 0.07
) -> Tensor:
    """The class that the k nearest rows of the bank vote for, int64 (M,), as in DINO (Caron et al. 2021).

    The nearest have the largest cosines; a neighbour's vote weighs exp(cosine / temperature).
    bank: float32 (N, D); labels: int64 (N,); queries: float32 (M, D).
    """
    bank = torch.nn.functional.normalize(bank)
    predictions = []
    for part in torch.split(queries, _QUERIES):
        cosines = torch.nn.functional.normalize(part) @ bank.mT
        nearest, rows = cosines.topk(k, dim=1)
        votes = nearest.new_zeros(len(part), num_classes)
        # exp(cosine - 1): the same order of votes, and no overflow
        votes.scatter_add_(1, labels[rows], ((nearest - 1) / temperature).exp_())
        predictions.append(votes.argmax(1))
    return torch.cat(predictions)
