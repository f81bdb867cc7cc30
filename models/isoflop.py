"""How the best N and D grow with compute, read off the runs without a law: approaches 1 and 2 of Chinchilla.

N_opt = k_N C^a and D_opt = k_D C^b (Hoffmann et al. 2022, 2203.15556, section 3): N parameters, D tokens, C training
FLOPs, L nats per token. Columns are arrays by name; C is 6 N D where it is not given, D is C / 6 N.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from models.compute_optimal import optimum, predict
from models.frontier import Frontier, Point, enough, logs, through
from models.quantities import plain, positive, symbols

PARABOLA = 3  # coefficients


def isoflop(
    columns: Mapping[str, np.ndarray],
    *,
    tolerance: float = 0.1,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Frontier:
    """Approach 2: per budget a parabola of L in ln N, and power laws through the vertices.

    Columns N, L and C or D, in any order. Runs whose C is within `tolerance` of the least of them share a budget. A
    budget with fewer than three sizes, with a parabola that opens downwards, or with a vertex outside its sizes is
    left out, with a warning. Raises ValueError where fewer than two remain.

    Intervals: parametric bootstrap. Each draw takes a noise level from its posterior (scaled inverse chi-squared, from
    what the parabolas leave, relative to L), disturbs the parabolas and fits again. Resampling runs would do worse: of
    a handful of sizes it drops those that hold the parabola, and intervals come out twice as wide as need be.

    The vertex is biased, since the loss is no parabola: `bias` says how much. With equally wide grids that are centred
    alike that is the same factor for every budget and leaves a and b alone; centres that drift away from the optimum
    as C grows bend them.
    """
    x, log_C, loss, log_D = logs(columns)
    budgets, warnings = [], []
    for rows in _groups(log_C, float(positive("tolerance", tolerance, "give a share of C, such as 0.1"))):
        budget = _Budget.of(x[rows], loss[rows], float(log_C[rows].mean()), float((x + log_D)[rows].mean()))
        if isinstance(budget, str):
            warnings.append(budget)
        else:
            budgets.append(budget)
    enough(len(budgets), "budgets", warnings, "run three sizes or more, on both sides of the best one, at two budgets")
    return through(
        [budget.point for budget in budgets], *_disturbed(budgets, draws, np.random.default_rng(seed)), level, warnings
    )


def envelope(
    columns: Mapping[str, np.ndarray], *, bins: int = 100, draws: int = 1000, seed: int = 0, level: float = 0.95
) -> Frontier:
    """Approach 1: at each of `bins` log-spaced C the run of least loss, and power laws through its N and D.

    Columns run, N, L and C or D: many rows per run, between which curves are interpolated in ln C. Where the best run
    is the smallest or the largest that got so far, a better one may lie beyond: such a C is left out, with a warning.
    Raises ValueError where fewer than two remain. Intervals: bootstrap over runs, which thins the sizes and so errs on
    the wide side. In mid-schedule a run has a higher loss than one that ends there: give each horizon runs of its own.
    """
    if "run" not in columns:
        raise ValueError(f"no column run among {sorted(columns)}; name the run of each row")
    x, log_C, loss, log_D = logs(columns)
    if bins < 2:
        raise ValueError(f"bins is {bins}; a power law needs 2 or more")
    curves = _Curves.of(np.asarray(columns["run"]), x, log_C, loss, log_D, bins)
    levels, best = curves.frontier(np.arange(len(curves.x)))
    warnings = []
    if reached := int(np.isfinite(curves.loss).any(axis=0).sum()) - len(levels):
        warnings.append(f"{reached} of {bins} C are left out: their best run is the smallest or largest that got there")
    enough(len(levels), "C", warnings, "train more sizes, for as long")
    points = [curves.point(i, r) for i, r in zip(levels, best, strict=True)]
    return through(points, *curves.resampled(levels, draws, np.random.default_rng(seed)), level, warnings)


def bias(
    coefficients: Mapping[str, float | np.ndarray],
    widths: float | np.ndarray,
    *,
    sizes: int = 9,
    offset: float | np.ndarray = 0.0,
) -> dict[str, float | np.ndarray]:
    """What approach 2 makes of noiseless runs of L = E + A/N^alpha + B/D^beta: the factors on N, D and L_min - E.

    A grid of log-spaced `sizes` whose largest is `widths` times its smallest, centred at exp(`offset`) N*. The factors
    are the same for every C, for L - E is proportional to e^(-alpha x)/alpha + e^(beta x)/beta in x = ln(N/N*). With
    offset 0 the vertex lies near x = (alpha - beta) ln(width)^2 / 40: too large a model where alpha > beta. If offset
    changes along the budgets, a is wrong by the change of ln N per change of ln C. nan: the parabola opens downwards.
    """
    alpha, beta = (value[..., None] for value in symbols(coefficients, ("alpha", "beta")))
    width = np.asarray(positive("widths", widths, "give the largest size over the smallest, such as 16"))[..., None]
    if sizes < PARABOLA or not (width > 1).all():
        raise ValueError(f"{sizes} sizes over widths of {widths}; give 3 or more, and widths above 1")
    centre, u = np.asarray(offset, np.float64)[..., None], np.linspace(-1, 1, sizes)
    x = centre + np.log(width) / 2 * u
    parabola = _parabola(u, np.exp(-alpha * x) / alpha + np.exp(beta * x) / beta)
    vertex, least = _vertex(parabola)
    shift = (centre + np.log(width) / 2 * vertex[..., None])[..., 0]
    whole = (1 / alpha + 1 / beta)[..., 0]
    up = np.where(parabola[..., 2] > 0, 1, np.nan)
    return plain(N=np.exp(shift) * up, D=np.exp(-shift) * up, loss=least / whole * up)


def bias_at(columns: Mapping[str, np.ndarray], coefficients: Mapping[str, float]) -> dict[str, float]:
    """What approach 2 makes of these very runs were L = E + A/N^alpha + B/D^beta exact, whatever their grids.

    Answers N, the factor on the best size (mean of its logarithm over the budgets), and a and b, by how much the
    exponents are off. `bias` is the same for one regular grid. Raises ValueError where no two budgets are left.
    """
    x, _, _, log_D = logs(columns)
    found = isoflop({**columns, "L": np.asarray(predict(coefficients, np.exp(x), np.exp(log_D)))}, draws=1)
    best = optimum(coefficients, compute=np.array([6 * point.N * point.D for point in found.points]))
    lines = np.polyfit(np.log([point.C for point in found.points]), np.log(np.stack([best["N"], best["D"]], axis=1)), 1)
    return {
        "N": float(np.exp(np.mean(np.log(np.array([point.N for point in found.points]) / best["N"])))),
        "a": found.coefficients["a"] - float(lines[0, 0]),
        "b": found.coefficients["b"] - float(lines[0, 1]),
    }


@dataclass(frozen=True)
class _Budget:
    """One budget's runs, whose sizes are u = (ln N - middle) / scale, with ln C and ln N D in the middle of them."""

    u: np.ndarray
    loss: np.ndarray
    middle: float
    scale: float
    c: float
    nd: float

    @classmethod
    def of(cls, x: np.ndarray, loss: np.ndarray, log_C: float, log_ND: float) -> "_Budget | str":
        """The budget, or why it has no use."""
        name, sizes = f"the budget of {np.exp(log_C):.3g} FLOPs is left out:", np.unique(x).size
        if sizes < PARABOLA:
            return f"{name} {sizes} of the 3 sizes that a parabola needs"
        middle, scale = (x.max() + x.min()) / 2, (x.max() - x.min()) / 2
        budget = cls((x - middle) / scale, loss, float(middle), float(scale), log_C, log_ND)
        parabola = _parabola(budget.u, loss)
        if parabola[2] <= 0:
            return f"{name} its parabola opens downwards; the losses have no least one within its sizes"
        vertex = float(_vertex(parabola)[0])
        if abs(vertex) >= 1:
            side = "small" if vertex < 0 else "large"
            where = f"{np.exp(x.min()):.3g} to {np.exp(x.max()):.3g}"
            return f"{name} its vertex {np.exp(middle + scale * vertex):.3g} is too {side} for its sizes of {where}"
        return budget

    @property
    def curve(self) -> np.ndarray:
        return _parabola(self.u, self.loss) @ _powers(self.u).T

    @property
    def point(self) -> Point:
        vertex, least = _vertex(_parabola(self.u, self.loss))
        log_N = self.middle + self.scale * vertex
        N, D = np.exp([log_N, self.nd - log_N]).tolist()
        return Point(float(np.exp(self.c)), N, D, least.item(), len(self.u))


@dataclass(frozen=True)
class _Curves:
    """The runs by x = ln N at the same c = ln C: loss and d = ln D (runs, bins), nan where a run has not been."""

    x: np.ndarray
    c: np.ndarray
    loss: np.ndarray
    d: np.ndarray

    @classmethod
    def of(
        cls, run: np.ndarray, x: np.ndarray, log_C: np.ndarray, loss: np.ndarray, log_D: np.ndarray, bins: int
    ) -> "_Curves":
        if run.shape != x.shape:
            raise ValueError(f"column run has shape {run.shape}, N has {x.shape}; give one row per measurement")
        at = np.linspace(log_C.min(), log_C.max(), bins)
        rows = [np.flatnonzero(run == name) for name in np.unique(run)]
        rows = sorted((r[np.argsort(log_C[r], kind="stable")] for r in rows), key=lambda r: x[r[0]])
        for r in rows:
            if np.ptp(x[r]) > 1e-9:
                raise ValueError(f"run {run[r[0]]} has more than one N; name every model's run apart")
        curve = [[np.interp(at, log_C[r], y[r], np.nan, np.nan) for r in rows] for y in (loss, log_D)]
        return cls(np.array([x[r[0]] for r in rows]), at, np.array(curve[0]), np.array(curve[1]))

    def frontier(self, runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The bins whose best run, of those given in the order of their size, has smaller and larger ones beside it."""
        loss = np.where(np.isnan(self.loss[runs]), np.inf, self.loss[runs])
        best, there = runs[loss.argmin(axis=0)], np.isfinite(loss)
        size = self.x[runs][:, None]
        small = np.where(there, size, np.inf).min(axis=0)
        large = np.where(there, size, -np.inf).max(axis=0)
        levels = np.flatnonzero((self.x[best] > small) & (self.x[best] < large))
        return levels, best[levels]

    def point(self, level: int, run: int) -> Point:
        C, N, D = np.exp([self.c[level], self.x[run], self.d[run, level]]).tolist()
        return Point(C, N, D, self.loss[run, level].item(), int(np.isfinite(self.loss[:, level]).sum()))

    def resampled(
        self, levels: np.ndarray, draws: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """ln N and ln D of the best at `levels` for resampled runs, and which of them there are: (draws, levels)."""
        log_N, log_D = np.zeros((2, draws, len(levels)))
        there = np.zeros((draws, len(levels)), bool)
        place = np.full(len(self.c), -1)
        place[levels] = np.arange(len(levels))
        for i in range(draws):
            found, best = self.frontier(np.unique(rng.integers(len(self.x), size=len(self.x))))
            kept = place[found] >= 0
            at = place[found[kept]]
            log_N[i, at], log_D[i, at] = self.x[best[kept]], self.d[best[kept], found[kept]]
            there[i, at] = True
        return log_N, log_D, there


def _disturbed(
    budgets: list[_Budget], draws: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ln N and ln D of the vertices of disturbed parabolas, and which of them are good: (draws, budgets)."""
    freedom = sum(len(budget.u) - PARABOLA for budget in budgets)
    if not freedom:
        return (*np.zeros((2, draws, len(budgets))), np.zeros((draws, len(budgets)), bool))
    squares = sum(float(((budget.loss / budget.curve - 1) ** 2).sum()) for budget in budgets)
    noise = np.sqrt(squares / rng.chisquare(freedom, draws))[:, None]
    log_N, good = [], []
    for budget in budgets:
        losses = budget.curve * (1 + noise * rng.standard_normal((draws, len(budget.u))))
        parabola = _parabola(budget.u, losses)
        vertex, _ = _vertex(parabola)
        log_N.append(budget.middle + budget.scale * vertex)
        good.append((parabola[:, 2] > 0) & (np.abs(vertex) < 1))
    log_ND = np.array([budget.nd for budget in budgets])
    return np.array(log_N).T, log_ND - np.array(log_N).T, np.array(good).T


def _powers(u: np.ndarray) -> np.ndarray:
    return u[..., None] ** np.arange(PARABOLA)


def _parabola(u: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Least-squares c0, c1, c2 of y (..., runs) on u (runs,): (..., 3)."""
    return y @ np.linalg.pinv(_powers(u)).T


def _vertex(parabola: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a parabola is level, and its value there."""
    c0, c1, c2 = np.moveaxis(parabola, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return -c1 / (2 * c2), c0 - c1**2 / (4 * c2)


def _groups(log_C: np.ndarray, tolerance: float) -> Iterable[np.ndarray]:
    """Rows of each budget, from the least to the largest."""
    order = np.argsort(log_C, kind="stable")
    while order.size:
        near = log_C[order] <= log_C[order[0]] + np.log1p(tolerance)
        yield order[near]
        order = order[~near]
