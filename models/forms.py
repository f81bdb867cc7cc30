"""What a scaling law is to a fit: derivatives, bounds, where a fit may start, and how its coefficients are named.

L is the loss in nats per token, N the parameters, D the training tokens, C = 6 N D the training FLOPs. Whether N
counts the embeddings is the runs' choice, but it must be one: the convention moves the exponents.

Inside a fit, logarithms are centred on the runs, so that a factor and its exponent do not move together.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product

import numpy as np

EXPONENTS = ("alpha", "beta", "eta", "alpha_N", "alpha_D", "alpha_C")
Columns = Mapping[str, np.ndarray]
EXPONENT = (1e-3, 5.0)
LEAST_SHARE = 1e-7  # of the lowest loss: below it a term is nearly nothing
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
    theta: tuple[str, ...]  # its coefficients, as they are fitted: logarithms of factors, the rest as they are
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


def nonnegative(basis: np.ndarray) -> np.ndarray:
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


def within(theta: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return np.clip(theta, *bounds)
