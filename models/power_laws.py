"""Laws that are sums of powers: their logarithm is a log-sum-exp of linear functions, so derivatives are cheap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

import numpy as np

from models.forms import EXPONENT, LEAST_SHARE, Columns, Frame, Law, Local, nonnegative, within


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
        return (*(f"ln {term.factor}" if term.powers else term.factor for term in self.terms), *self.slopes)

    def frame(self, columns: Columns, centre: Mapping[str, float] | None = None) -> Frame:
        raw = {name: np.asarray(columns[name], np.float64) for name in self.inputs}
        logs = {name: np.log(column) for name, column in raw.items()}
        if {"N", "D"} <= raw.keys():
            logs |= {"M": logs["D"] - logs["N"], "C": np.log(6) + logs["N"] + logs["D"]}
        centre = dict(centre) if centre else {name: float(column.mean()) for name, column in logs.items()}
        centred = {name: column - centre[name] for name, column in logs.items()}
        return Frame(centred, centre, raw, self._features(centred))

    def _features(self, logs: Mapping[str, np.ndarray]) -> np.ndarray:
        """ln of term k is features[k] @ theta, and of a constant its exponential: shape (terms, n, p)."""
        runs = len(next(iter(logs.values())))
        made = np.zeros((len(self.terms), runs, len(self.theta)))
        for place, term in enumerate(self.terms):
            made[place, :, place] = 1
            for symbol, powers in term.powers.items():
                column = self.theta.index(symbol)
                made[place, :, column] = sum(power * logs[name] for name, power in powers.items())
        return made

    def at(self, theta: np.ndarray, frame: Frame) -> Local:
        return _Sum(theta, frame.features, [not term.powers for term in self.terms])

    def bounds(self, frame: Frame, log_loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        low, high = float(log_loss.min()), float(log_loss.max())
        # a term may outgrow the loss at the mean of the runs only as far as its steepest exponent lets it
        factor = low + np.log(LEAST_SHARE), high + 3
        ranges = [factor if term.powers else (0.0, np.exp(low)) for term in self.terms]
        pairs = np.array([*ranges, *([EXPONENT] * len(self.slopes))])
        return pairs[:, 0], pairs[:, 1]

    def starts(self, frame: Frame, log_loss: np.ndarray, count: int) -> np.ndarray:
        each = max(4, int(np.ceil(count ** (1 / max(1, len(self.slopes))))))
        grid = np.geomspace(0.03, 1.5, each)
        exponents = np.array(list(product(grid, repeat=len(self.slopes)))).reshape(-1, len(self.slopes))
        linear = np.exp(frame.features[:, :, len(self.terms) :] @ exponents.T)  # (terms, n, starts)
        factors = nonnegative(linear.transpose(2, 1, 0) / np.exp(log_loss)[:, None])
        first = [np.log(column) if term.powers else column for term, column in zip(self.terms, factors.T, strict=True)]
        return within(np.column_stack([*first, exponents]), self.bounds(frame, log_loss))

    def named(self, theta: np.ndarray, frame: Frame) -> dict[str, np.ndarray]:
        slopes = {name: theta[..., self.theta.index(name)] for name in self.slopes}
        found = dict(slopes)
        for place, term in enumerate(self.terms):
            if not term.powers:
                found[term.factor] = theta[..., place]
                continue
            shift = sum(
                (slopes[symbol] * sum(power * frame.centre[name] for name, power in powers.items())
                 for symbol, powers in term.powers.items()), start=np.zeros(())
            )  # fmt: skip
            log_factor = theta[..., place] - shift
            if self.critical:
                log_factor = log_factor / slopes[next(iter(term.powers))]
            with np.errstate(over="ignore"):
                found[term.factor] = np.exp(log_factor)
        return {symbol: found[symbol] for symbol in self.symbols}


class _Sum(Local):
    """ln of a sum of exponentials of linear functions, features (terms, n, p), and of constants as they are."""

    def __init__(self, theta: np.ndarray, features: np.ndarray, constant: Sequence[bool]) -> None:
        self.features, self.constant = features, constant
        with np.errstate(divide="ignore"):
            logs = np.stack([np.log(np.maximum(theta @ each.T, 0)) if flat else theta @ each.T
                             for each, flat in zip(features, constant, strict=True)])  # fmt: skip
        highest = logs.max(axis=0)
        np.exp(np.subtract(logs, highest, out=logs), out=logs)
        total = logs.sum(axis=0)
        self.log_loss = highest + np.log(total)
        # by how much ln L moves with the logarithm of a term, and with a constant itself
        self.shares = np.divide(logs, total, out=logs)
        for place in np.flatnonzero(constant):
            self.shares[place] = np.exp(-self.log_loss)

    def rows(self) -> np.ndarray:
        return np.einsum("kbn,knp->bnp", self.shares, self.features)

    def gradient(self, slope: np.ndarray) -> np.ndarray:
        parts = [(slope * share) @ each for share, each in zip(self.shares, self.features, strict=True)]
        return np.sum(parts, axis=0)

    def hessian(self, slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
        """With shares s and features f: sum_k slope s_k f_k f_k^T + (bend - slope) (sum_k s_k f_k)(sum_k s_k f_k)^T.

        The first sum is over the exponentials: a constant is linear.
        """
        terms, _, width = self.features.shape
        batch = len(slope)
        flat = np.zeros((batch, width * width))
        mixed = [(bend - slope) * share for share in self.shares]
        for k in range(terms):
            own = mixed[k] * self.shares[k]
            if not self.constant[k]:
                own += self.shares[k] * slope
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


CHINCHILLA = PowerLaw(
    "chinchilla", "L = E + A / N^alpha + B / D^beta", "Hoffmann et al. 2022, 2203.15556, equation 2",
    ("N", "D"), ("E", "A", "B", "alpha", "beta"),
    (Term("A", {"alpha": {"N": -1}}), Term("B", {"beta": {"D": -1}}), Term("E")),
)  # fmt: skip
KAPLAN_N = PowerLaw(
    "kaplan-n", "L = (Nc / N)^alpha_N", "Kaplan et al. 2020, 2001.08361, equation 1.1 (N without embeddings)",
    ("N",), ("Nc", "alpha_N"), (Term("Nc", {"alpha_N": {"N": -1}}),), critical=True,
)  # fmt: skip
KAPLAN_D = PowerLaw(
    "kaplan-d", "L = (Dc / D)^alpha_D", "Kaplan et al. 2020, 2001.08361, equation 1.2",
    ("D",), ("Dc", "alpha_D"), (Term("Dc", {"alpha_D": {"D": -1}}),), critical=True,
)  # fmt: skip
KAPLAN_C = PowerLaw(
    "kaplan-c", "L = (Cc / C)^alpha_C", "Kaplan et al. 2020, 2001.08361, equation 1.3 (here in FLOPs)",
    ("C",), ("Cc", "alpha_C"), (Term("Cc", {"alpha_C": {"C": -1}}),), critical=True,
)  # fmt: skip
COMPUTE = PowerLaw(
    "compute", "L = E + A / C^alpha", "Henighan et al. 2020, 2010.14701, equation 1.1 (in C)",
    ("C",), ("E", "A", "alpha"), (Term("A", {"alpha": {"C": -1}}), Term("E")),
)  # fmt: skip
OVER_TRAINING = PowerLaw(
    "over-training", "L = E + (a M^eta + b M^-eta) C^-eta, M = D / N, C = 6 N D",
    "Gadre et al. 2024, 2403.08540, equation 4", ("N", "D"), ("E", "a", "b", "eta"),
    (Term("a", {"eta": {"M": 1, "C": -1}}), Term("b", {"eta": {"M": -1, "C": -1}}), Term("E")),
)  # fmt: skip
