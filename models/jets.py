"""Functions with their first and second derivatives by the coefficients, carried along through the arithmetic.

A law that is no sum of powers is then written as its formula alone. Shapes: B fits at once, n runs, p coefficients.
"""

from typing import Union

import numpy as np

Gradient = dict[int, np.ndarray]  # by coefficient; what is absent is nothing
Hessian = dict[tuple[int, int], np.ndarray]  # by pair of coefficients, the lower first
Number = Union["Jet", np.ndarray, float]


class Jet:
    """value (B, n), and its derivatives by each coefficient and pair that it depends on, shapes that broadcast to it.

    Second-order forward-mode differentiation. The Hessian, or both, may be None: whoever needs fewer derivatives
    carries fewer.
    """

    __array_ufunc__ = None  # array * jet is the jet's business

    def __init__(self, value: np.ndarray, gradient: Gradient | None = None, hessian: Hessian | None = None) -> None:
        self.value, self.gradient, self.hessian = value, gradient, hessian

    def __add__(self, other: Number) -> "Jet":
        if isinstance(other, Jet):
            return _weighted([(self, np.ones(())), (other, np.ones(()))], self.value + other.value)
        return Jet(self.value + other, self.gradient, self.hessian)

    def __mul__(self, other: Number) -> "Jet":
        if not isinstance(other, Jet):
            factor = np.asarray(other)
            return _weighted([(self, factor)], self.value * factor)
        product = _weighted([(self, other.value), (other, self.value)], self.value * other.value)
        if product.hessian is not None and self.gradient is not None and other.gradient is not None:
            for i, first in self.gradient.items():
                for j, second in other.gradient.items():
                    crossed = first * second
                    _add(product.hessian, _pair(i, j), 2 * crossed if i == j else crossed)
        return product

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Jet":
        return self * -1.0

    def __sub__(self, other: Number) -> "Jet":
        return self + (-other)

    def __rsub__(self, other: Number) -> "Jet":
        return -self + other

    def through(self, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> "Jet":
        """f(self), from f, f' and f'' at its value."""
        found = _weighted([(self, first)], value)
        _add_squares(found, self, second)
        return found

    def dense_gradient(self, count: int) -> np.ndarray:
        """(B, n, p)."""
        assert self.gradient is not None
        made = np.zeros((*self.value.shape, count))
        for i, each in self.gradient.items():
            made[..., i] = each
        return made

    def dense_hessian(self, count: int) -> np.ndarray:
        """(B, n, p, p)."""
        assert self.hessian is not None
        made = np.zeros((*self.value.shape, count, count))
        for (i, j), each in self.hessian.items():
            made[..., i, j] = made[..., j, i] = each
        return made


def variables(theta: np.ndarray, runs: int, order: int = 2) -> list[Jet]:
    """The coefficients themselves, theta (B, p), as jets over so many runs with so many derivatives."""
    batch, count = theta.shape
    return [
        Jet(
            np.broadcast_to(theta[:, i : i + 1], (batch, runs)),
            {i: np.ones(())} if order > 0 else None, {} if order > 1 else None,
        )
        for i in range(count)
    ]  # fmt: skip


def exp(jet: Jet) -> Jet:
    value = np.exp(jet.value)
    return jet.through(value, value, value)


def log(jet: Jet) -> Jet:
    return jet.through(np.log(jet.value), 1 / jet.value, -1 / jet.value**2)


def log1p(jet: Jet) -> Jet:
    return jet.through(np.log1p(jet.value), 1 / (1 + jet.value), -1 / (1 + jet.value) ** 2)


def expm1(jet: Jet) -> Jet:
    value = np.expm1(jet.value)
    return jet.through(value, value + 1, value + 1)


def minimum(jet: Jet, other: np.ndarray) -> Jet:
    """The smaller of a jet and a constant, with the derivatives of the one that is taken."""
    taken = jet.value <= other
    return _weighted([(jet, taken * 1.0)], np.where(taken, jet.value, other))


def logsumexp(*jets: Jet, floor: Jet | None = None) -> Jet:
    """ln(sum of exponentials + floor), a floor >= 0; what each moves is its weight in the derivatives."""
    highest = np.max([jet.value for jet in jets], axis=0)
    terms = [np.exp(jet.value - highest) for jet in jets]
    total = np.sum(terms, axis=0) + (0 if floor is None else floor.value * np.exp(-highest))
    value = highest + np.log(total)
    shares = [(jet, term / total) for jet, term in zip(jets, terms, strict=True)]
    found = _weighted(shares + ([] if floor is None else [(floor, np.exp(-value))]), value)
    for jet, share in shares:
        _add_squares(found, jet, share)
    _add_squares(found, found, -np.ones(()))
    return found


def _weighted(parts: list[tuple[Jet, np.ndarray]], value: np.ndarray) -> Jet:
    """A value whose derivatives are sums of those of jets, each times its weight."""
    found = Jet(value)
    if all(jet.gradient is not None for jet, _ in parts):
        found.gradient = {}
    if all(jet.hessian is not None for jet, _ in parts):
        found.hessian = {}
    for jet, weight in parts:
        for i, each in (jet.gradient or {}).items():
            if found.gradient is not None:
                _add(found.gradient, i, each * weight)
        for pair, each in (jet.hessian or {}).items():
            if found.hessian is not None:
                _add(found.hessian, pair, each * weight)
    return found


def _add_squares(found: Jet, jet: Jet, weight: np.ndarray) -> None:
    """Adds weight (d jet) (d jet)^T to a Hessian that is carried."""
    if found.hessian is None or jet.gradient is None:
        return
    for i, first in jet.gradient.items():
        for j, second in jet.gradient.items():
            if i <= j:
                _add(found.hessian, (i, j), weight * first * second)


def _add(parts: dict, key: object, more: np.ndarray) -> None:
    parts[key] = parts[key] + more if key in parts else more


def _pair(i: int, j: int) -> tuple[int, int]:
    return (i, j) if i <= j else (j, i)
