"""Functions with their first and second derivatives by the coefficients, carried along through the arithmetic.

A law that is no sum of powers is then written as its formula alone. Shapes: B fits at once, n runs, p coefficients.
"""

from typing import Union

import numpy as np

Number = Union["Jet", np.ndarray, float]


class Jet:
    """value (B, n), gradient (B, n, p) and Hessian (B, n, p, p): second-order forward-mode differentiation."""

    __array_ufunc__ = None  # array * jet is the jet's business

    def __init__(self, value: np.ndarray, gradient: np.ndarray, hessian: np.ndarray) -> None:
        self.value, self.gradient, self.hessian = value, gradient, hessian

    def __add__(self, other: Number) -> "Jet":
        if isinstance(other, Jet):
            return Jet(self.value + other.value, self.gradient + other.gradient, self.hessian + other.hessian)
        return Jet(self.value + other, self.gradient, self.hessian)

    def __mul__(self, other: Number) -> "Jet":
        if isinstance(other, Jet):
            crossed = _outer(self.gradient, other.gradient)
            return Jet(
                self.value * other.value,
                _by(self.gradient, other.value) + _by(other.gradient, self.value),
                _by(self.hessian, other.value) + _by(other.hessian, self.value) + crossed + crossed.swapaxes(-1, -2),
            )
        factor = np.asarray(other)
        return Jet(self.value * factor, _by(self.gradient, factor), _by(self.hessian, factor))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Jet":
        return self * -1.0

    def __sub__(self, other: Number) -> "Jet":
        return self + (-other)

    def __rsub__(self, other: Number) -> "Jet":
        return -self + other

    def through(self, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> "Jet":
        """f(self), from f, f' and f'' at its value."""
        hessian = _by(self.hessian, first) + _by(_outer(self.gradient, self.gradient), second)
        return Jet(value, _by(self.gradient, first), hessian)


def variables(theta: np.ndarray, runs: int) -> list[Jet]:
    """The coefficients themselves, theta (B, p), as jets over so many runs."""
    batch, count = theta.shape
    unit = np.eye(count)
    flat = np.zeros((1, 1, count, count))
    return [
        Jet(np.broadcast_to(theta[:, i : i + 1], (batch, runs)), unit[i][None, None], flat) for i in range(count)
    ]


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
    return Jet(np.where(taken, jet.value, other), _by(jet.gradient, taken * 1.0), _by(jet.hessian, taken * 1.0))


def logsumexp(*jets: Jet) -> Jet:
    """ln of the sum of exponentials; the shares of the terms are their weights in the derivatives."""
    highest = np.max([jet.value for jet in jets], axis=0)
    terms = [np.exp(jet.value - highest) for jet in jets]
    total = np.sum(terms, axis=0)
    shares = [term / total for term in terms]
    gradient = sum(_by(jet.gradient, share) for jet, share in zip(jets, shares, strict=True))
    hessian = sum(
        _by(jet.hessian + _outer(jet.gradient, jet.gradient), share) for jet, share in zip(jets, shares, strict=True)
    )
    assert isinstance(gradient, np.ndarray) and isinstance(hessian, np.ndarray)
    return Jet(highest + np.log(total), gradient, hessian - _outer(gradient, gradient))


def _by(array: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Multiplies an array that has one or two axes of coefficients more than the factor."""
    factor = np.asarray(factor)
    return array * factor.reshape(factor.shape + (1,) * (array.ndim - 2))


def _outer(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    return first[..., :, None] * second[..., None, :]
