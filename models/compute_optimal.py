"""What a fitted law says about a budget: the best model for it, the cheapest for a loss, and with serving.

Every function takes the coefficients E, A, B, alpha, beta of L = E + A/N^alpha + B/D^beta (Hoffmann et al. 2022,
2203.15556, equation 2): L in nats per token, N parameters, D training tokens, C = 6 N D training FLOPs. N counts what
the runs of the fit counted. Coefficients may be arrays, one entry per bootstrap draw: all arguments broadcast as in
NumPy and the answers are floats or arrays, so one call gives an interval.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from models.quantities import plain, positive, symbols

Coefficients = Mapping[str, float | np.ndarray]
Answer = dict[str, float | np.ndarray]

FLOPS = "give FLOPs, such as 1e21"
LOSS = "give a loss in nats per token, such as 2.2"
TOKENS = "give tokens, such as 1e12"


class Law(NamedTuple):
    """The coefficients as arrays, checked."""

    E: np.ndarray
    A: np.ndarray
    B: np.ndarray
    alpha: np.ndarray
    beta: np.ndarray

    @classmethod
    def of(cls, coefficients: Coefficients) -> "Law":
        return cls(*symbols(coefficients, cls._fields, zero=("E",)))

    @property
    def log_ratio(self) -> np.ndarray:
        """ln G of `optimum`."""
        return np.log(self.alpha * self.A / (self.beta * self.B)) / (self.alpha + self.beta)

    def loss(self, N: np.ndarray, D: np.ndarray) -> np.ndarray:
        return self.E + self.A * N**-self.alpha + self.B * D**-self.beta

    def best(self, C: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The N and D of least loss for C FLOPs."""
        total, log_nd = self.alpha + self.beta, np.log(C / 6)
        return np.exp(self.log_ratio + self.beta / total * log_nd), np.exp(self.alpha / total * log_nd - self.log_ratio)

    def cheapest(self, left: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The N and D of least product whose loss is E + `left`."""
        total = self.alpha + self.beta
        N = (self.A * total / (self.beta * left)) ** (1 / self.alpha)
        return N, (self.B * total / (self.alpha * left)) ** (1 / self.beta)

    def best_size(self, log_D: np.ndarray) -> np.ndarray:
        """ln of the N for which D tokens are compute-optimal."""
        return self.log_ratio + self.beta / self.alpha * (self.log_ratio + log_D)

    def reducible(self, loss: object) -> np.ndarray:
        """What a loss leaves above E: nan where it is out of reach. Raises ValueError for a scalar that is."""
        left = positive("loss", loss, LOSS) - self.E
        if left.ndim == 0 and left <= 0:
            raise ValueError(
                f"no budget reaches a loss of {loss}: the law's floor E is {self.E:.6g}; ask for a higher loss"
            )
        return np.where(left > 0, left, np.nan)


def predict(coefficients: Coefficients, N: float | np.ndarray, D: float | np.ndarray) -> float | np.ndarray:
    """The loss of N parameters after D fresh tokens."""
    N, D = positive("N", N, "give parameters, such as 1e9"), positive("D", D, TOKENS)
    return plain(loss=Law.of(coefficients).loss(N, D))["loss"]


def optimum(coefficients: Coefficients, *, compute: float | np.ndarray) -> Answer:
    """The N and D of least loss under C = 6 N D = `compute` FLOPs: N, D, tokens_per_parameter, loss, C.

    N* = G (C/6)^(beta/(alpha+beta)), D* = (C/6)^(alpha/(alpha+beta)) / G, G = (alpha A / (beta B))^(1/(alpha+beta))
    (Hoffmann et al., equation 4).
    """
    law, C = Law.of(coefficients), positive("compute", compute, FLOPS)
    N, D = law.best(C)
    return plain(N=N, D=D, tokens_per_parameter=D / N, loss=law.loss(N, D), C=C)


def cheapest(coefficients: Coefficients, *, loss: float | np.ndarray) -> Answer:
    """The least C = 6 N D that reaches `loss`: N, D, C, tokens_per_parameter. The inverse of `optimum`.

    There alpha A N^-alpha = beta B D^-beta, so A N^-alpha = (L - E) beta / (alpha + beta) and B D^-beta is the rest.
    A loss at or below E raises ValueError; among arrays such an entry has N, D and C inf and the ratio nan.
    """
    law = Law.of(coefficients)
    N, D = law.cheapest(law.reducible(loss))
    return plain(N=_or_inf(N), D=_or_inf(D), C=_or_inf(6 * N * D), tokens_per_parameter=D / N)


def with_inference(
    coefficients: Coefficients,
    *,
    loss: float | np.ndarray | None = None,
    compute: float | np.ndarray | None = None,
    inference_tokens: float | np.ndarray,
) -> Answer:
    """The model that is cheapest to train and to serve: 6 N D for training, 2 N D_inf for `inference_tokens`.

    Give the `loss` to reach at least cost, min_N 6 N D(N, l) + 2 N D_inf with
    D(N, l) = ((l - E - A/N^alpha) / B)^(-1/beta) (Sardana et al. 2024, 2401.00448, equation 3), or the `compute` for
    both, spent for the least loss. Answers N, D, tokens_per_parameter, loss, training_C, inference_C, C (both), and
    saving: the share by which C is below that of the model of `cheapest` at the same loss with the same serving.
    FLOPs count what arithmetic costs, not what a served token costs in money: scale D_inf if that is dearer.
    A loss at or below E raises ValueError; among arrays such an entry has sizes and costs inf, ratio and saving nan.
    """
    law, T = Law.of(coefficients), positive("inference_tokens", inference_tokens, "give tokens, or 0", zero=True)
    if (loss is None) == (compute is None):
        raise ValueError(f"loss is {loss} and compute is {compute}; give one of them, the other is the answer")
    if compute is None:
        left = law.reducible(loss)
        N, D = _served_at_loss(law, left, T)
    else:
        N, D = _served_on_budget(law, positive("compute", compute, FLOPS), T)
        left = law.loss(N, D) - law.E
    total, (usual_N, usual_D) = 6 * N * D + 2 * N * T, law.cheapest(left)
    usual = 6 * usual_N * usual_D + 2 * usual_N * T
    return plain(
        N=_or_inf(N), D=_or_inf(D), tokens_per_parameter=D / N, loss=law.E + left,
        training_C=_or_inf(6 * N * D), inference_C=_or_inf(2 * N * T), C=_or_inf(total), saving=1 - total / usual,
    )  # fmt: skip


@np.errstate(invalid="ignore")  # y = -inf, and the nan of entries out of reach, stay as they are
def _served_at_loss(law: Law, left: np.ndarray, T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton in y, where e^t = A N^-alpha / (B D^-beta) = beta/alpha (1 + e^y): T = 0 is y = -inf.

    The cost is stationary where 3 D (alpha/beta e^t - 1) = T. In y the logarithm of that is increasing and convex
    with a slope in [1, 1 + 1/beta], so that Newton from above the root descends to it.
    """
    ratio = np.log(law.beta / law.alpha)
    log_T = np.log(T, where=T > 0, out=np.full(np.shape(T), -np.inf))
    target = log_T - np.log(3) - np.log(law.B / left) / law.beta
    y = target
    for _ in range(100):
        t = ratio + np.logaddexp(0, y)
        slope = 1 + _sigmoid(t) * _sigmoid(y) / law.beta
        step = (y + np.logaddexp(0, t) / law.beta - target) / slope
        step = np.where(np.isfinite(step), step, 0)
        y = y - step
        if (np.abs(step) <= 1e-14 * (1 + np.abs(y))).all():
            break
    t = ratio + np.logaddexp(0, y)
    log_N = (np.log(law.A / left) + np.logaddexp(0, -t)) / law.alpha
    log_D = (np.log(law.B / left) + np.logaddexp(0, t)) / law.beta
    return np.exp(log_N), np.exp(log_D)


def _served_on_budget(law: Law, C: np.ndarray, T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Newton in v = ln D with N = C / (6 D + 2 T).

    The loss is stationary where alpha A N^-alpha = beta B D^-beta (1 + T / (3 D)). The logarithm of that is increasing
    and either concave or convex in v with a slope between alpha + beta and 1 + beta: Newton cannot leave the root.
    """
    log_T = np.log(T, where=T > 0, out=np.full(np.shape(T), -np.inf))
    known = np.log(law.alpha * law.A / (law.beta * law.B)) - law.alpha * np.log(C / 2) + np.log(3)
    v = np.log(law.best(C)[1])
    for _ in range(100):
        both = np.logaddexp(np.log(3) + v, log_T)  # ln (3 D + T)
        share = np.exp(np.log(3) + v - both)
        step = (known + (law.alpha - 1) * both + (law.beta + 1) * v) / (law.alpha * share + law.beta + 1 - share)
        v = v - step
        if (np.abs(step) <= 1e-14 * (1 + np.abs(v))).all():
            break
    return np.exp(np.log(C / 2) - np.logaddexp(np.log(3) + v, log_T)), np.exp(v)


def smaller(coefficients: Coefficients, *, times: float | np.ndarray) -> Answer:
    """What a model `times` smaller than the optimum must pay to reach the optimum's loss.

    Answers tokens (the factor on D), compute (the factor on C) and most, the smallness (1 + alpha/beta)^(1/alpha) that
    no number of tokens makes good. tokens = (1 - beta/alpha (times^alpha - 1))^(-1/beta), the same for every budget
    (de Vries 2023, "Go smol or go home"). Beyond `most` a scalar raises ValueError, an entry of an array is inf.
    """
    law = Law.of(coefficients)
    times = positive("times", times, "give how many times smaller, such as 2; below 1 is larger")
    most = (1 + law.alpha / law.beta) ** (1 / law.alpha)
    rest = 1 - law.beta / law.alpha * np.expm1(law.alpha * np.log(times))
    if rest.ndim == 0 and rest <= 0:
        raise ValueError(f"a model {times:g} times smaller never reaches the loss; stay below {most:.4g} times")
    tokens = np.where(rest > 0, rest, np.nan) ** (-1 / law.beta)
    return plain(tokens=_or_inf(tokens), compute=_or_inf(tokens / times), most=most)


def overtrained(
    coefficients: Coefficients, *, compute: float | np.ndarray, tokens_per_parameter: float | np.ndarray
) -> Answer:
    """The loss of a model trained at M tokens per parameter, L = E + (a M^eta + b M^-eta) C^-eta.

    Coefficients E, a, b, eta (Gadre et al. 2024, 2403.08540, equation 4): the law at alpha = beta = 2 eta with
    a = A 6^eta, b = B 6^eta. Answers loss, N, D, best_tokens_per_parameter M* = (b/a)^(1/(2 eta)), penalty (nats above
    the loss of M* at the same C) and compute (the factor on C to make the penalty good, cosh(eta ln(M/M*))^(1/eta)).
    """
    E, a, b, eta = symbols(coefficients, ("E", "a", "b", "eta"), zero=("E",))
    C = positive("compute", compute, FLOPS)
    M = positive("tokens_per_parameter", tokens_per_parameter, "give a ratio, such as 20")
    best = (b / a) ** (1 / (2 * eta))
    z = eta * np.log(M / best)
    lowest = 2 * np.sqrt(a * b) * C**-eta
    return plain(
        loss=E + lowest * np.cosh(z), N=np.sqrt(C / (6 * M)), D=np.sqrt(C * M / 6), best_tokens_per_parameter=best,
        penalty=lowest * 2 * np.sinh(z / 2) ** 2, compute=np.exp((np.logaddexp(z, -z) - np.log(2)) / eta),
    )  # fmt: skip


def _or_inf(value: np.ndarray) -> np.ndarray:
    return np.where(np.isnan(value), np.inf, value)


def _sigmoid(value: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -value))
