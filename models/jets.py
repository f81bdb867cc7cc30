"""Functions with their first and second derivatives by the coefficients, carried along through the arithmetic.

A law that is no sum of powers is then written as its formula alone. Shapes: B fits at once, n runs, p coefficients.
"""

from typing import Any, Union

import numpy as np

Part = np.ndarray | None
Number = Union["Jet", np.ndarray, float]


class Jet:
    """value (B, n), gradient (B, n, p) and Hessian (B, n, p, p): second-order forward-mode differentiation.

    The Hessian, or both, may be None: whoever needs fewer derivatives carries fewer.
    """

    __array_ufunc__ = None  # array * jet is the jet's business

    def __init__(self, value: np.ndarray, gradient: Part = None, hessian: Part = None) -> None:
        self.value, self.gradient, self.hessian = value, gradient, hessian

    def __add__(self, other: Number) -> "Jet":
        if isinstance(other, Jet):
            gradient, hessian = _sum(self.gradient, other.gradient), _sum(self.hessian, other.hessian)
            return Jet(self.value + other.value, gradient, hessian)
        return Jet(self.value + other, self.gradient, self.hessian)

    def __mul__(self, other: Number) -> "Jet":
        if not isinstance(other, Jet):
            factor = np.asarray(other)
            return Jet(self.value * factor, _by(self.gradient, factor), _by(self.hessian, factor))
        gradient = _sum(_by(self.gradient, other.value), _by(other.gradient, self.value))
        hessian = None
        if self.hessian is not None:
            crossed = _outer(self.gradient, other.gradient)
            hessian = (
                _by(self.hessian, other.value) + _by(other.hessian, self.value) + crossed + crossed.swapaxes(-1, -2)
            )
        return Jet(self.value * other.value, gradient, hessian)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Jet":
        return self * -1.0

    def __sub__(self, other: Number) -> "Jet":
        return self + (-other)

    def __rsub__(self, other: Number) -> "Jet":
        return -self + other

    def through(self, value: np.ndarray, first: np.ndarray, second: np.ndarray) -> "Jet":
        """f(self), from f, f' and f'' at its value."""
        hessian = None
        if self.hessian is not None:
            hessian = _by(self.hessian, first) + _by(_outer(self.gradient, self.gradient), second)
        return Jet(value, _by(self.gradient, first), hessian)


def variables(theta: np.ndarray, runs: int, order: int = 2) -> list[Jet]:
    """The coefficients themselves, theta (B, p), as jets over so many runs with so many derivatives."""
    batch, count = theta.shape
    unit, flat = np.eye(count), np.zeros((1, 1, count, count))
    return [
        Jet(
            np.broadcast_to(theta[:, i : i + 1], (batch, runs)),
            unit[i][None, None] if order > 0 else None, flat if order > 1 else None,
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
    return Jet(np.where(taken, jet.value, other), _by(jet.gradient, taken * 1.0), _by(jet.hessian, taken * 1.0))


def logsumexp(*jets: Jet) -> Jet:
    """ln of the sum of exponentials; the shares of the terms are their weights in the derivatives."""
    highest = np.max([jet.value for jet in jets], axis=0)
    terms = [np.exp(jet.value - highest) for jet in jets]
    total = np.sum(terms, axis=0)
    shares = [term / total for term in terms]
    value = highest + np.log(total)
    if jets[0].gradient is None:
        return Jet(value)
    pairs = list(zip(jets, shares, strict=True))
    gradient = np.sum(
        [np.broadcast_to(_by(j.gradient, share), (*value.shape, _width(j))) for j, share in pairs], axis=0
    )
    if jets[0].hessian is None:
        return Jet(value, gradient)
    hessian = -_outer(gradient, gradient)
    for jet, share in pairs:
        hessian += _by(jet.hessian + _outer(jet.gradient, jet.gradient), share)
    return Jet(value, gradient, hessian)


def _width(jet: Jet) -> int:
    assert jet.gradient is not None
    return jet.gradient.shape[-1]


def _sum(first: Part, second: Part) -> Part:
    return None if first is None or second is None else first + second


def _by(array: Any, factor: np.ndarray) -> Any:
    """Multiplies derivatives, which have one or two axes of coefficients more than the factor."""
    if array is None:
        return None
    factor = np.asarray(factor)
    return array * factor.reshape(factor.shape + (1,) * (array.ndim - 2))


def _outer(first: Any, second: Any) -> np.ndarray:
    return first[..., :, None] * second[..., None, :]
