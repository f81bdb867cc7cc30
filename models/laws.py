"""The forms that a scaling law can take, each with its derivatives, its bounds and where a fit may start.

L is the loss in nats per token, N the parameters, D the training tokens, C = 6 N D the training FLOPs. Whether N
counts the embeddings is the runs' choice, but it must be one: the convention moves the exponents.

Inside a fit, logarithms are centred on the runs, so that a factor and its exponent do not move together.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np

from models import jets

Columns = Mapping[str, np.ndarray]
EXPONENT = (1e-3, 5.0)
LEAST_SHARE = 1e-7  # of the lowest loss: below it a term is nearly nothing
FIRST_FLOOR = 0.3  # of the lowest loss, at least, when a fit starts
MEANINGS = {
    "N": "parameters", "D": "training tokens", "C": "training FLOPs", "U": "unique training tokens",
    "Pw": "bits of a weight", "Pa": "bits of an activation", "Pkv": "bits of the KV cache",
}  # fmt: skip


@dataclass(frozen=True)
class Frame:
    """Runs as a law wants them: centred logarithms of its inputs, each of shape (n,), and what they were centred on."""

    logs: dict[str, np.ndarray]
    centre: dict[str, float]
    raw: dict[str, np.ndarray]
    features: np.ndarray = field(default_factory=lambda: np.empty(0), repr=False)

    @property
    def runs(self) -> int:
        return len(next(iter(self.raw.values())))


class Local(ABC):
    """A law at coefficients theta (B, p): ln L_hat (B, n), and sums over the runs of its derivatives."""

    log_loss: np.ndarray

    @abstractmethod
    def rows(self) -> np.ndarray:
        """d ln L_i of each run, shape (B, n, p)."""

    @abstractmethod
    def gradient(self, slope: np.ndarray) -> np.ndarray:
        """sum_i slope_i d ln L_i, shape (B, p)."""

    @abstractmethod
    def hessian(self, slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
        """sum_i bend_i (d ln L_i) (d ln L_i)^T + slope_i d^2 ln L_i, shape (B, p, p)."""


class Law(ABC):
    """A form: what it is called, what it needs, and how its coefficients are named and found."""

    name: str
    formula: str
    source: str
    inputs: tuple[str, ...]  # columns that it needs beside L
    symbols: tuple[str, ...]  # its coefficients, as they are reported
    theta: tuple[str, ...]  # its coefficients, as they are fitted: logarithms of factors, exponents as they are
    quick = True  # whether second derivatives are nearly free, so that every fit of a batch may use them

    @abstractmethod
    def frame(self, columns: Columns, centre: Mapping[str, float] | None = None) -> Frame: ...

    @abstractmethod
    def at(self, theta: np.ndarray, frame: Frame) -> Local: ...

    @abstractmethod
    def bounds(self, frame: Frame, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The lowest and the highest value of each coefficient, each of shape (p,)."""

    @abstractmethod
    def starts(self, frame: Frame, log_loss: np.ndarray, count: int) -> np.ndarray:
        """About `count` starting points, or more: a grid over what is not linear, the rest by least squares."""

    @abstractmethod
    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        """theta (..., p) as the coefficients that are reported, by symbol."""

    def log_loss(self, theta: np.ndarray, frame: Frame) -> np.ndarray:
        return self.at(theta, frame).log_loss

    def require(self, raw: Columns) -> None:
        """Raises ValueError where the runs cannot tell what the law asks of them."""
        for name in self.inputs:
            if np.unique(raw[name]).size < 2:
                raise ValueError(
                    f"all runs have the same {name} ({MEANINGS[name]}), {raw[name][0]:g}: a law in {name} needs runs "
                    "at two values of it or more"
                )

    def exponents(self) -> list[int]:
        """Which coefficients of theta are exponents of a size or a count."""
        return [place for place, name in enumerate(self.theta) if name in EXPONENTS]


EXPONENTS = ("alpha", "beta", "eta", "alpha_N", "alpha_D", "alpha_C")


@dataclass(frozen=True)
class Term:
    """factor * product over symbols of (product over inputs of input^power)^symbol; no powers: a constant."""

    factor: str
    powers: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class PowerLaw(Law):
    """A sum of powers: ln L_hat is a log-sum-exp of linear functions of theta, whose derivatives are exact and cheap.

    `critical` names factors that are reported as the papers do, Nc in (Nc / N)^alpha_N.
    """

    name: str
    formula: str
    source: str
    inputs: tuple[str, ...]
    symbols: tuple[str, ...]
    terms: tuple[Term, ...]
    critical: bool = False

    @property
    def slopes(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(symbol for term in self.terms for symbol in term.powers))

    @property
    def theta(self) -> tuple[str, ...]:  # type: ignore[override]
        return (*(f"ln {term.factor}" for term in self.terms), *self.slopes)

    def frame(self, columns: Columns, centre: Mapping[str, float] | None = None) -> Frame:
        raw = {name: np.asarray(columns[name], np.float64) for name in self.inputs}
        logs = {name: np.log(column) for name, column in raw.items()}
        if {"N", "D"} <= raw.keys():
            logs |= {"M": logs["D"] - logs["N"], "C": np.log(6) + logs["N"] + logs["D"]}
        centre = dict(centre) if centre else {name: float(column.mean()) for name, column in logs.items()}
        centred = {name: column - centre[name] for name, column in logs.items()}
        return Frame(centred, centre, raw, self._features(centred))

    def _features(self, logs: Mapping[str, np.ndarray]) -> np.ndarray:
        """ln of term k is features[k] @ theta: shape (terms, n, p)."""
        runs = len(next(iter(logs.values())))
        made = np.zeros((len(self.terms), runs, len(self.theta)))
        for place, term in enumerate(self.terms):
            made[place, :, place] = 1
            for symbol, powers in term.powers.items():
                column = self.theta.index(symbol)
                made[place, :, column] = sum(power * logs[name] for name, power in powers.items())
        return made

    def at(self, theta: np.ndarray, frame: Frame) -> Local:
        return _Sum(theta, frame.features)

    def bounds(self, frame: Frame, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = float(log_loss.min()), float(log_loss.max())
        floor = low + np.log(LEAST_SHARE)
        # a term may outgrow the loss at the mean of the runs only as far as its steepest exponent lets it
        ranges = [(floor, low if not term.powers else high + 3) for term in self.terms]
        pairs = np.array([*ranges, *([EXPONENT] * len(self.slopes))])
        return pairs[:, 0], pairs[:, 1]

    def starts(self, frame: Frame, log_loss: np.ndarray, count: int) -> np.ndarray:
        each = max(4, int(np.ceil(count ** (1 / max(1, len(self.slopes))))))
        grid = np.geomspace(0.03, 1.5, each)
        exponents = np.array(list(product(grid, repeat=len(self.slopes)))).reshape(-1, len(self.slopes))
        linear = np.exp(frame.features[:, :, len(self.terms) :] @ exponents.T)  # (terms, n, starts)
        factors = _nonnegative(linear.transpose(2, 1, 0) / np.exp(log_loss)[:, None])
        # as a logarithm, a floor of nothing would be a place that no fit leaves
        floors = [0.0 if term.powers else FIRST_FLOOR * np.exp(log_loss.min()) for term in self.terms]
        factors = np.maximum(factors, floors)
        return _within(np.concatenate([np.log(factors), exponents], axis=1), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        slopes = {name: theta[..., self.theta.index(name)] for name in self.slopes}
        found = dict(slopes)
        for place, term in enumerate(self.terms):
            shift = sum(
                (slopes[symbol] * sum(power * frame.centre[name] for name, power in powers.items())
                 for symbol, powers in term.powers.items()), start=np.zeros(())
            )  # fmt: skip
            log_factor = theta[..., place] - shift
            if self.critical and term.powers:
                log_factor = log_factor / slopes[next(iter(term.powers))]
            with np.errstate(over="ignore"):
                found[term.factor] = np.exp(log_factor)
        return {symbol: found[symbol] for symbol in self.symbols}


class _Sum(Local):
    """The log-sum-exp of linear functions, features (terms, n, p)."""

    def __init__(self, theta: np.ndarray, features: np.ndarray) -> None:
        self.features = features
        logs = np.stack([theta @ each.T for each in features])  # (terms, B, n)
        highest = logs.max(axis=0)
        np.exp(np.subtract(logs, highest, out=logs), out=logs)
        total = logs.sum(axis=0)
        self.log_loss = highest + np.log(total)
        self.shares = np.divide(logs, total, out=logs)

    def rows(self) -> np.ndarray:
        return np.einsum("kbn,knp->bnp", self.shares, self.features)

    def gradient(self, slope: np.ndarray) -> np.ndarray:
        parts = [(slope * share) @ each for share, each in zip(self.shares, self.features, strict=True)]
        return np.sum(parts, axis=0)

    def hessian(self, slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
        """With shares s and features f: sum_k slope s_k f_k f_k^T + (bend - slope) (sum_k s_k f_k)(sum_k s_k f_k)^T."""
        terms, _, width = self.features.shape
        batch = len(slope)
        flat = np.zeros((batch, width * width))
        mixed = [(bend - slope) * share for share in self.shares]
        for k in range(terms):
            own = self.shares[k] * slope
            own += mixed[k] * self.shares[k]
            _add(flat, own, self.features[k], self.features[k])
            for other in range(k):
                _add(flat, mixed[k] * self.shares[other], self.features[k], self.features[other], both=True)
        return flat.reshape(batch, width, width)


def _add(flat: np.ndarray, weight: np.ndarray, first: np.ndarray, second: np.ndarray, *, both: bool = False) -> None:
    """flat += sum_i weight_i first_i second_i^T, by the columns that are not zero: one matrix product for all fits."""
    width = first.shape[1]
    for row in np.flatnonzero(first.any(axis=0)):
        columns = np.flatnonzero(second.any(axis=0))
        found = weight @ (first[:, row : row + 1] * second[:, columns])
        flat[:, row * width + columns] += found
        if both:
            flat[:, columns * width + row] += found


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
        second = self._carried(2).hessian
        assert second is not None
        return squares + np.einsum("bn,bnpq->bpq", slope, second)

    @cached_property
    def _first(self) -> np.ndarray:
        found = self._carried(1).gradient
        assert found is not None
        return np.broadcast_to(found, (*self.log_loss.shape, self.theta.shape[1]))

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
        factors = _nonnegative(basis / np.exp(log_loss / alpha)[..., None])
        return _within(np.concatenate([np.log(factors), grid], axis=1), self.bounds(frame, log_loss))

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
    theta = ("ln A", "ln B", "ln E", "alpha", "beta", "ln R_D", "ln R_N")

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
        return jets.logsumexp(
            a - alpha * (base + _saturated(excess * jets.exp(-half_n), half_n)), b - beta * tokens, e + 0 * alpha
        )

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
        return _within(np.concatenate(found), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        plain = CHINCHILLA.named(theta[..., :5], frame)
        return {**plain, "R_D": np.exp(theta[..., 5]), "R_N": np.exp(theta[..., 6])}


class PrecisionAware(Formula):
    """The Chinchilla law of N_eff = N (1 - exp(-Pw / gamma_w)) (1 - exp(-Pa / gamma_a)) (1 - exp(-Pkv / gamma_kv)).

    The form for training in low precision; what quantisation after training costs is
    `compute_optimal.post_training_degradation`.
    """

    name = "precision-aware"
    formula = "L = E + A / N_eff^alpha + B / D^beta, N_eff = N prod_x (1 - exp(-P_x / gamma_x)), x in w, a, kv"
    source = "Kumar et al. 2024, 2411.04330, section 4"
    inputs = ("N", "D", "Pw", "Pa", "Pkv")
    symbols = ("E", "A", "B", "alpha", "beta", "gamma_w", "gamma_a", "gamma_kv")
    theta = ("ln A", "ln B", "ln E", "alpha", "beta", "ln gamma_w", "ln gamma_a", "ln gamma_kv")

    def evaluate(self, theta: Sequence[Any], frame: Frame) -> jets.Jet:
        a, b, e, alpha, beta, *gammas = theta
        size = 0 * alpha + frame.logs["N"]
        for gamma, bits in zip(gammas, self.inputs[2:], strict=True):
            size = size + jets.log(-jets.expm1(-jets.exp(-gamma) * frame.raw[bits]))
        return jets.logsumexp(a - alpha * size, b - beta * frame.logs["D"], e + 0 * alpha)

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
        return _within(np.concatenate(found), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        gammas = {f"gamma_{x}": np.exp(theta[..., 5 + place]) for place, x in enumerate(("w", "a", "kv"))}
        return {**CHINCHILLA.named(theta[..., :5], frame), **gammas}


def _saturated(ratio: jets.Jet, log_half: jets.Jet) -> jets.Jet:
    """ln(1 + R* (1 - exp(-R / R*))) of the ratio R / R* and ln R*. expm1 keeps it right where R* is huge."""
    return jets.log1p(-(jets.exp(log_half) * jets.expm1(-ratio)))


def _nonnegative(basis: np.ndarray) -> np.ndarray:
    """The factors >= 0 of `basis` (starts, n, terms) whose sum is nearest to 1: the best of all subsets of terms.

    A factor of zero becomes small, so that its logarithm exists and a fit can bring it back.
    """
    starts, runs, terms = basis.shape
    best, found = np.full(starts, np.inf), np.full((starts, terms), LEAST_SHARE)
    gram, target = basis.swapaxes(1, 2) @ basis, basis.sum(axis=1)
    for chosen in (np.flatnonzero(mask) for mask in product((0, 1), repeat=terms) if any(mask)):
        part = gram[:, chosen[:, None], chosen]
        ridge = 1e-13 * np.trace(part, axis1=1, axis2=2)[:, None, None] * np.eye(len(chosen))
        factors = np.linalg.solve(part + ridge, target[:, chosen, None])[..., 0]
        errors = runs - (factors * target[:, chosen]).sum(axis=1)
        better = (factors > 0).all(axis=1) & (errors < best)
        best[better] = errors[better]
        found[better] = 1e-3 / np.maximum(target[better] / runs, 1e-300)
        found[better[:, None] & np.isin(np.arange(terms), chosen)] = factors[better].ravel()
    return found


def _within(theta: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.clip(theta, *bounds)


CHINCHILLA = PowerLaw(
    "chinchilla", "L = E + A / N^alpha + B / D^beta", "Hoffmann et al. 2022, 2203.15556, equation 2",
    ("N", "D"), ("E", "A", "B", "alpha", "beta"),
    (Term("A", {"alpha": {"N": -1}}), Term("B", {"beta": {"D": -1}}), Term("E")),
)  # fmt: skip
LAWS: Mapping[str, Law] = {
    law.name: law
    for law in (
        CHINCHILLA,
        PowerLaw(
            "kaplan-n", "L = (Nc / N)^alpha_N", "Kaplan et al. 2020, 2001.08361, equation 1.1 (N without embeddings)",
            ("N",), ("Nc", "alpha_N"), (Term("Nc", {"alpha_N": {"N": -1}}),), critical=True,
        ),
        PowerLaw(
            "kaplan-d", "L = (Dc / D)^alpha_D", "Kaplan et al. 2020, 2001.08361, equation 1.2",
            ("D",), ("Dc", "alpha_D"), (Term("Dc", {"alpha_D": {"D": -1}}),), critical=True,
        ),
        PowerLaw(
            "kaplan-c", "L = (Cc / C)^alpha_C", "Kaplan et al. 2020, 2001.08361, equation 1.3 (here in FLOPs)",
            ("C",), ("Cc", "alpha_C"), (Term("Cc", {"alpha_C": {"C": -1}}),), critical=True,
        ),
        KaplanND(),
        PowerLaw(
            "compute", "L = E + A / C^alpha", "Henighan et al. 2020, 2010.14701, equation 1.1 (in C)",
            ("C",), ("E", "A", "alpha"), (Term("A", {"alpha": {"C": -1}}), Term("E")),
        ),
        DataConstrained(),
        PowerLaw(
            "over-training", "L = E + (a M^eta + b M^-eta) C^-eta, M = D / N, C = 6 N D",
            "Gadre et al. 2024, 2403.08540, equation 4", ("N", "D"), ("E", "a", "b", "eta"),
            (Term("a", {"eta": {"M": 1, "C": -1}}), Term("b", {"eta": {"M": -1, "C": -1}}), Term("E")),
        ),
        PrecisionAware(),
    )
}  # fmt: skip


def named(name: str) -> Law:
    """The law of a name. Raises ValueError with the names that there are."""
    if name not in LAWS:
        raise ValueError(f"no law is called {name!r}; there are {', '.join(LAWS)}")
    return LAWS[name]
