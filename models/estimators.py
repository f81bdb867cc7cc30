"""What a fit minimises: a loss of the residuals r = ln L_hat - ln L, summed over the runs.

Published laws were fitted with different ones, and the coefficients differ with them: always say which was used.
"""

from dataclasses import dataclass, replace

import numpy as np

SMOOTHING = (1e-2, 1e-3, 1e-4, 1e-5)  # of the corner of |r|, in units of ln L, one after the other


@dataclass(frozen=True)
class Estimator:
    """sum_i side(r_i) rho(r_i), with rho(r) = r^2 / 2 up to |r| = `delta` and `delta` (|r| - `delta` / 2) beyond.

    `delta` = inf is least squares. Where `corner` is set, rho(r) = |r|, which is fitted as the limit of rho / delta
    for a vanishing delta. side(r) is `over` for r > 0, a law above the run, and `under` else.
    """

    name: str
    description: str
    delta: float
    over: float = 1.0
    under: float = 1.0
    corner: bool = False

    @property
    def smoothed(self) -> tuple["Estimator", ...]:
        """What is minimised, one after the other, each from the last one's result. One, if nothing has a corner."""
        if not self.corner:
            return (self,)
        return tuple(replace(self, delta=delta) for delta in SMOOTHING)

    def objective(self, residuals: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        """The sum over the last axis, each run counted `weights` times."""
        size = np.abs(residuals)
        if self.corner and self.delta == 0:
            value = size
        elif np.isinf(self.delta):
            value = 0.5 * size * size
        else:
            within = np.minimum(size, self.delta)
            value = within * (size - 0.5 * within)
            value = value / self.delta if self.corner else value
        value = value * self._side(residuals)
        return (value if weights is None else value * weights).sum(axis=-1)

    def nothing(self, runs: int) -> float:
        """An objective that is the rounding of ln L alone: what a law that fits exactly leaves."""
        return runs * (1e-13 if self.corner else 1e-26)

    def slopes(self, residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The first derivative, the second, and the weight that makes least squares of it: first / r."""
        scale = self._side(residuals) / (self.delta if self.corner else 1.0)
        if np.isinf(self.delta):
            scale = np.broadcast_to(scale, residuals.shape)
            return scale * residuals, scale, scale
        size = np.abs(residuals)
        first = np.clip(residuals, -self.delta, self.delta) * scale
        second = np.where(size <= self.delta, scale, 0.0)
        return first, second, scale * self.delta / np.maximum(size, self.delta)

    def _side(self, residuals: np.ndarray) -> np.ndarray | float:
        if self.over == self.under:
            return self.over
        return np.where(residuals > 0, self.over, self.under)


def huber(delta: float = 1e-3) -> Estimator:
    """Huber's loss; 1e-3 is what Hoffmann et al. 2022 (2203.15556, section 3.3) took for hundreds of runs."""
    _positive("delta", delta)
    return Estimator("huber", f"sum of Huber(delta = {delta:g}) of ln L_hat - ln L", delta)


def lad() -> Estimator:
    """Least absolute deviation: the limit of Huber / delta for a vanishing delta."""
    return Estimator("lad", "sum of |ln L_hat - ln L|", 0.0, corner=True)


def least_squares() -> Estimator:
    """Half the sum of squares of the log residuals."""
    return Estimator("least-squares", "half the sum of (ln L_hat - ln L)^2", np.inf)


def quantile(q: float) -> Estimator:
    """The pinball loss: a law that a share `q` of the runs lies below (Koenker and Bassett 1978)."""
    if not 0 < q < 1:
        raise ValueError(f"quantile is {q}; give a share between 0 and 1, such as 0.5 for the median")
    return Estimator(
        "quantile", f"sum of the pinball loss of ln L - ln L_hat at quantile {q:g}", 0.0, 1 - q, q, corner=True
    )


def named(name: str, *, delta: float = 1e-3, q: float = 0.5) -> Estimator:
    """The estimator of a name: huber, lad, least-squares or quantile."""
    made = {"huber": lambda: huber(delta), "lad": lad, "least-squares": least_squares, "quantile": lambda: quantile(q)}
    if name not in made:
        raise ValueError(f"no estimator is called {name!r}; there are {', '.join(made)}")
    return made[name]()


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; give a number above 0, such as 0.001")
