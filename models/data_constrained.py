"""Spending a budget when unique data is short: how large a model, and how often to read the data.

L = E + A/N'^alpha + B/D'^beta, in which repeated tokens and excess parameters count for less and less
(Muennighoff et al. 2023, 2305.16264). Coefficients and arrays as in `models.compute_optimal`.
"""

from collections.abc import Callable

import numpy as np

from models.compute_optimal import FLOPS, TOKENS, Answer, Coefficients, Law
from models.quantities import plain, positive

# How fast repeated tokens and excess parameters lose their worth: 2305.16264, appendix A, and huggingface/datablations.
# Fitted with their own law, on C4 and a GPT-2 architecture; a fit to one's own repeated runs is better.
REPEATED_TOKENS, EXCESS_PARAMETERS = 15.387756, 5.309743

_HALVINGS = 64


def worth(epochs: float | np.ndarray, *, R_D: float | np.ndarray = REPEATED_TOKENS) -> Answer:
    """What passes over the same data are worth, in epochs of fresh tokens: last (the last one), total, limit.

    D'/U = 1 + R_D* (1 - exp(-(epochs - 1)/R_D*)) from the first epoch on (equation 5); limit is that of no end.
    """
    k = positive("epochs", epochs, "give a number of passes over the data, such as 4")
    r = _decay("R_D", R_D, REPEATED_TOKENS)
    total, before = (np.minimum(n, 1) + _saturating(np.maximum(n - 1, 0), r) for n in (k, np.maximum(k - 1, 0)))
    return plain(last=total - before, total=total, limit=1 + r)


def with_unique_data(
    coefficients: Coefficients,
    *,
    compute: float | np.ndarray,
    unique_tokens: float | np.ndarray,
    R_D: float | np.ndarray = REPEATED_TOKENS,
    R_N: float | np.ndarray = EXCESS_PARAMETERS,
    tolerance: float = 1e-3,
) -> Answer:
    """The N and the epochs of least loss under C = 6 N D = `compute` FLOPs with U = `unique_tokens`.

    D' = U_D + U_D R_D* (1 - exp(-R_D/R_D*)), U_D = min(U, D), R_D = D/U_D - 1; N' likewise with R_N*, and
    U_N = min(N, the N for which U_D tokens are compute-optimal) (equations 5 and 6).

    Answers N, D, C, epochs = D/U, tokens_per_parameter, effective_N, effective_D, loss; loss_one_epoch of the same
    compute in one pass at most; loss_unlimited of the same compute with fresh data. Where the data suffices that is
    `compute_optimal.optimum`, and epochs is the share of the data that it reads.

    The valley is flat: epochs_low and epochs_high bound the epochs (with N = C / 6 D) whose loss is within `tolerance`
    of the best, as a share of it. Read them before the optimum.
    """
    law, C = Law.of(coefficients), positive("compute", compute, FLOPS)
    U = positive("unique_tokens", unique_tokens, TOKENS)
    decays = _decay("R_D", R_D, REPEATED_TOKENS), _decay("R_N", R_N, EXCESS_PARAMETERS)
    share = positive("tolerance", tolerance, "give a share of the loss, such as 1e-3")
    law = Law(*np.broadcast_arrays(*law, C, U, *decays, share)[:5])  # so that brackets have the shape of the answer

    def loss(log_D: np.ndarray) -> np.ndarray:
        return law.E + sum(_terms(law, C, log_D, U, decays))

    log_D = _best(law, C, U, decays)
    lowest, (fresh_N, fresh_D) = loss(log_D), law.best(C)
    one = np.minimum(np.log(fresh_D), np.log(U))
    low, high = (_bisect(lambda v: loss(v) > lowest * (1 + share), log_D, log_D + far) for far in (-60, 60))
    D = np.exp(log_D)
    N = C / (6 * D)
    effective_N, effective_D = (np.exp(value) for value in _effective(law, np.log(N), log_D, U, decays)[:2])
    return plain(
        N=N, D=D, C=C, epochs=D / U, tokens_per_parameter=D / N, effective_N=effective_N, effective_D=effective_D,
        loss=lowest, loss_one_epoch=loss(one), loss_unlimited=law.loss(fresh_N, fresh_D),
        epochs_low=np.exp(low) / U, epochs_high=np.exp(high) / U,
    )  # fmt: skip


def _best(law: Law, C: np.ndarray, U: np.ndarray, decays: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """ln D of the least loss.

    Where the optimum of fresh data needs D* <= U tokens it is the answer. Else alpha A N'^-alpha dlnN'/dlnN =
    beta B D'^-beta dlnD'/dlnD has one root, for both elasticities fall as their quantity grows, and it lies between
    D = U and the D that leaves the N for which U tokens are optimal.
    """

    def falling(log_D: np.ndarray) -> np.ndarray:
        first, second = _terms(law, C, log_D, U, decays)
        _, _, elastic_N, elastic_D = _effective(law, np.log(C / 6) - log_D, log_D, U, decays)
        return np.log(law.alpha * first) + elastic_N < np.log(law.beta * second) + elastic_D

    log_U = np.log(U) + 0 * law.E
    fresh = np.log(law.best(C)[1])
    short = fresh > log_U
    least = np.maximum(log_U, np.log(C / 6) - law.best_size(log_U))
    return np.where(short, _bisect(lambda v: ~falling(v), log_U, least), fresh)


def _terms(
    law: Law, C: np.ndarray, log_D: np.ndarray, U: np.ndarray, decays: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    log_N, log_tokens, _, _ = _effective(law, np.log(C / 6) - log_D, log_D, U, decays)
    with np.errstate(over="ignore"):  # far from the best a term may be inf
        return law.A * np.exp(-law.alpha * log_N), law.B * np.exp(-law.beta * log_tokens)


def _effective(
    law: Law, log_N: np.ndarray, log_D: np.ndarray, U: np.ndarray, decays: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """ln N', ln D' and the logarithms of dlnN'/dlnN and dlnD'/dlnD."""
    log_U = np.minimum(np.log(U), log_D)
    tokens, elastic_D = _effect(log_D, log_U, decays[0])
    size, elastic_N = _effect(log_N, np.minimum(log_N, law.best_size(log_U)), decays[1])
    return size, tokens, elastic_N, elastic_D


def _effect(log_value: np.ndarray, log_unit: np.ndarray, decay: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """ln of what a value is worth of which `unit` counts in full, and ln of its elasticity."""
    with np.errstate(over="ignore"):
        extra = np.expm1(log_value - log_unit)
        worth = log_unit + np.log1p(_saturating(extra, decay))
    return worth, log_value - worth - extra / decay


def _saturating(extra: np.ndarray, decay: np.ndarray) -> np.ndarray:
    """R* (1 - exp(-R/R*)); with exp in place of expm1 a large R* would show an optimum that is not there."""
    return -decay * np.expm1(-extra / decay)


def _bisect(beyond: Callable[[np.ndarray], np.ndarray], inside: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Where `beyond` turns true on the way from `inside` to `outside`, for whole arrays at once."""
    inside, outside = np.broadcast_arrays(inside, outside)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        over = beyond(middle)
        inside, outside = np.where(over, inside, middle), np.where(over, middle, outside)
    return inside


def _decay(name: str, value: float | np.ndarray, published: float) -> np.ndarray:
    return positive(name, value, f"fit it to repeated runs, or leave it at the published {published}")
