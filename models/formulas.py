"""Laws that are no sum of powers: each is written as its formula, and its derivatives are carried along."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from models import jets
from models.forms import EXPONENT, Columns, Frame, Law, Local, nonnegative, within
from models.power_laws import CHINCHILLA


class Formula(Law):
    """A law that is written as its formula over jets: ln L_hat of the coefficients and the centred logarithms."""

    quick = False

    @abstractmethod
    def evaluate(self, theta: Sequence[Any], frame: Frame) -> jets.Jet: ...

    def at(self, theta: np.ndarray, frame: Frame) -> Local:
        return _Carried(self, theta, frame)

    def frame(self, columns: Columns, centre: Mapping[str, float] | None = None) -> Frame:
        raw = {name: np.asarray(columns[name], np.float64) for name in self.inputs}
        logs = {name: np.log(column) for name, column in raw.items()}
        centre = dict(centre) if centre else self.centred_on(logs)
        return Frame({name: column - centre[name] for name, column in logs.items()}, centre, raw)

    def centred_on(self, logs: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {name: float(column.mean()) for name, column in logs.items()}


class _Carried(Local):
    """A formula at theta. Derivatives are carried only where they are asked for: they cost p and p^2 times as much."""

    def __init__(self, law: Formula, theta: np.ndarray, frame: Frame) -> None:
        self.law, self.theta, self.frame = law, theta, frame
        self.log_loss = self._carried(0).value

    def rows(self) -> np.ndarray:
        return self._first

    def gradient(self, slope: np.ndarray) -> np.ndarray:
        return np.einsum("bn,bnp->bp", slope, self._first)

    def hessian(self, slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
        squares = (self._first * bend[..., None]).swapaxes(1, 2) @ self._first
        if not slope.any():
            return squares
        second = self._carried(2).dense_hessian(self.theta.shape[1])
        return squares + np.einsum("bn,bnpq->bpq", slope, second)

    @cached_property
    def _first(self) -> np.ndarray:
        return self._carried(1).dense_gradient(self.theta.shape[1])

    def _carried(self, order: int) -> jets.Jet:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # a fit rejects what is no number
            return self.law.evaluate(jets.variables(self.theta, self.frame.runs, order), self.frame)


class KaplanND(Formula):
    """ln L = alpha_D ln[ exp(u - r ln N) + exp(v - ln D) ], r = alpha_N / alpha_D, u = r ln Nc, v = ln Dc."""

    name = "kaplan-nd"
    formula = "L = [(Nc / N)^(alpha_N / alpha_D) + Dc / D]^alpha_D"
    source = "Kaplan et al. 2020, 2001.08361, equation 1.5"
    inputs = ("N", "D")
    symbols = ("Nc", "Dc", "alpha_N", "alpha_D")
    theta = ("ln Nc term", "ln Dc term", "r", "alpha_D")

    def evaluate(self, theta: Sequence[Any], frame: Frame) -> jets.Jet:
        u, v, r, alpha = theta
        return alpha * jets.logsumexp(u - r * frame.logs["N"], v - frame.logs["D"])

    def bounds(self, frame: Frame, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.array([-300, -300, 1e-2, EXPONENT[0]]), np.array([300, 300, 100, EXPONENT[1]])

    def starts(self, frame: Frame, log_loss: np.ndarray, count: int) -> np.ndarray:
        each = max(4, int(np.ceil(count**0.5)))
        grid = np.array(list(product(np.geomspace(0.1, 10, each), np.geomspace(0.02, 1, each))))
        r, alpha = grid[:, 0, None], grid[:, 1, None]
        basis = np.stack(np.broadcast_arrays(np.exp(-r * frame.logs["N"]), np.exp(-frame.logs["D"])), axis=-1)
        factors = nonnegative(basis / np.exp(log_loss / alpha)[..., None])
        return within(np.concatenate([np.log(factors), grid], axis=1), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        u, v, r, alpha = (theta[..., i] for i in range(4))
        with np.errstate(over="ignore"):
            critical = np.exp(u / r + frame.centre["N"]), np.exp(v + frame.centre["D"])
        return {"Nc": critical[0], "Dc": critical[1], "alpha_N": r * alpha, "alpha_D": alpha}


class DataConstrained(Formula):
    """The Chinchilla law of the effective parameters and tokens that repeated data leave.

    D' = U_D + U_D R_D* (1 - exp(-R_D / R_D*)), R_D = D / U_D - 1, U_D = min(D, U); N' likewise from U_N, R_N and R_N*,
    with U_N the smaller of N and the N that is compute-optimal for U_D tokens.
    """

    name = "data-constrained"
    formula = "L = E + A / N'^alpha + B / D'^beta, N' and D' after repetition over U unique tokens"
    source = "Muennighoff et al. 2023, 2305.16264, section 3"
    inputs = ("N", "D", "U")
    symbols = ("E", "A", "B", "alpha", "beta", "R_D", "R_N")
    theta = ("ln A", "ln B", "E", "alpha", "beta", "ln R_D", "ln R_N")

    def centred_on(self, logs: Mapping[str, np.ndarray]) -> dict[str, float]:
        tokens = float(np.minimum(logs["D"], logs["U"]).mean())
        return {"N": float(logs["N"].mean()), "D": tokens, "U": tokens}

    def require(self, raw: Columns) -> None:
        if not (raw["D"] > 1.01 * raw["U"]).any():
            raise ValueError(
                "no run reads its unique tokens more than once (D > U), so R_D cannot be fitted: add such runs, or fit "
                "the chinchilla law"
            )
        CHINCHILLA.require(raw)

    def evaluate(self, theta: Sequence[Any], frame: Frame) -> jets.Jet:
        a, b, e, alpha, beta, half_d, half_n = theta
        unique = np.minimum(frame.logs["D"], frame.logs["U"])
        repeats = np.expm1(frame.logs["D"] - unique)
        # the N whose term falls as fast as the tokens' term at U_D: alpha A / N^alpha = beta B / U_D^beta
        fits = jets.exp(-jets.log(alpha)) * (a - b + jets.log(alpha) - jets.log(beta) + beta * unique)
        base = jets.minimum(fits, frame.logs["N"])
        excess = jets.expm1(frame.logs["N"] - base)
        tokens = _saturated(jets.exp(-half_d) * repeats, half_d) + unique
        size = base + _saturated(excess * jets.exp(-half_n), half_n)
        return jets.logsumexp(a - alpha * size, b - beta * tokens, floor=e)

    def bounds(self, frame: Frame, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = CHINCHILLA.bounds(CHINCHILLA.frame(frame.raw), log_loss)
        half = np.log([0.05, 1e4])
        return np.append(low, [half[0]] * 2), np.append(high, [half[1]] * 2)

    def starts(self, frame: Frame, log_loss: np.ndarray, count: int) -> np.ndarray:
        """The Chinchilla law of tokens that were repeated at a few half-lives."""
        halves = (1.0, 4.0, 16.0, 64.0)
        found = []
        for tokens, excess in product(halves, (1.0, 8.0, 64.0)):
            unique = np.minimum(frame.raw["D"], frame.raw["U"])
            repeats = frame.raw["D"] / unique - 1
            effective = unique * (1 - tokens * np.expm1(-repeats / tokens))
            plain = CHINCHILLA.frame({"N": frame.raw["N"], "D": effective}, frame.centre | {"M": 0.0, "C": 0.0})
            near = CHINCHILLA.starts(plain, log_loss, max(16, count // 12))
            found.append(np.column_stack([near, np.tile(np.log([tokens, excess]), (len(near), 1))]))
        return within(np.concatenate(found), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        plain = CHINCHILLA.named(theta[..., :5], frame)
        return {**plain, "R_D": np.exp(theta[..., 5]), "R_N": np.exp(theta[..., 6])}


class PrecisionAware(Formula):
    """The Chinchilla law of N_eff = N (1 - exp(-Pw / gamma_w)) (1 - exp(-Pa / gamma_a)) (1 - exp(-Pkv / gamma_kv)).

    The form for training in low precision; what quantisation after training costs is
    `models.precision.post_training_degradation`.
    """

    name = "precision-aware"
    formula = "L = E + A / N_eff^alpha + B / D^beta, N_eff = N prod_x (1 - exp(-P_x / gamma_x)), x in w, a, kv"
    source = "Kumar et al. 2024, 2411.04330"
    inputs = ("N", "D", "Pw", "Pa", "Pkv")
    symbols = ("E", "A", "B", "alpha", "beta", "gamma_w", "gamma_a", "gamma_kv")
    theta = ("ln A", "ln B", "E", "alpha", "beta", "ln gamma_w", "ln gamma_a", "ln gamma_kv")

    def evaluate(self, theta: Sequence[Any], frame: Frame) -> jets.Jet:
        a, b, e, alpha, beta, *gammas = theta
        size = 0 * alpha + frame.logs["N"]
        for gamma, bits in zip(gammas, self.inputs[2:], strict=True):
            size = size + jets.log(-jets.expm1(-jets.exp(-gamma) * frame.raw[bits]))
        return jets.logsumexp(a - alpha * size, b - beta * frame.logs["D"], floor=e)

    def bounds(self, frame: Frame, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = CHINCHILLA.bounds(CHINCHILLA.frame(frame.raw), log_loss)
        return np.append(low, [np.log(0.05)] * 3), np.append(high, [np.log(50)] * 3)

    def starts(self, frame: Frame, log_loss: np.ndarray, count: int) -> np.ndarray:
        found = []
        for gammas in product((0.7, 3.0), repeat=3):
            shares = [-np.expm1(-frame.raw[bits] / g) for g, bits in zip(gammas, self.inputs[2:], strict=True)]
            effective = frame.raw["N"] * np.prod(shares, axis=0)
            plain = CHINCHILLA.frame({"N": effective, "D": frame.raw["D"]}, frame.centre | {"M": 0.0, "C": 0.0})
            near = CHINCHILLA.starts(plain, log_loss, max(16, count // 8))
            found.append(np.column_stack([near, np.tile(np.log(gammas), (len(near), 1))]))
        return within(np.concatenate(found), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        gammas = {f"gamma_{x}": np.exp(theta[..., 5 + place]) for place, x in enumerate(("w", "a", "kv"))}
        return {**CHINCHILLA.named(theta[..., :5], frame), **gammas}


def _saturated(ratio: jets.Jet, log_half: jets.Jet) -> jets.Jet:
    """ln(1 + R* (1 - exp(-R / R*))) of the ratio R / R* and ln R*. expm1 keeps it right where R* is huge."""
    return jets.log1p(-(jets.exp(log_half) * jets.expm1(-ratio)))
