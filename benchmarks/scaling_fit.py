"""The Chinchilla fit beside what is usually done for it, L-BFGS-B from 4,500 starts: seconds, objective, reliability.

python benchmarks/scaling_fit.py [--quick]

One process, one thread, the same 240 simulated runs, the same objective: the SUM of Huber(1e-3) of ln L_hat - ln L
(Hoffmann et al. 2022, 2203.15556, appendix D.3).
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
LAW = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
RUNS, DELTA = 240, 1e-3
NOISE, TAIL = 0.01, 3  # of ln L: Student's t with so many degrees of freedom, scaled to this standard deviation
GRID = {  # Hoffmann's starts, in ln A, ln B, ln E, alpha, beta
    "a": np.arange(0, 26, 5.0), "b": np.arange(0, 26, 5.0), "e": np.arange(-1, 1.1, 0.5),
    "alpha": np.arange(0, 2.1, 0.5), "beta": np.arange(0, 2.1, 0.5),
}  # fmt: skip
STARTS = 4500
NEAR = 0.01  # of the best objective counts as having found it


class Found(NamedTuple):
    """What one way found: the seconds for all its starts, and the objectives they ended at."""

    seconds: float
    objective: float
    reached: float
    coefficients: dict[str, float]


def runs(seed: int = 0) -> dict[str, np.ndarray]:
    """N log-uniform from 44e6 to 16e9, 1 to 250 tokens per parameter, heavy-tailed noise in ln L."""
    rng = np.random.default_rng(seed)
    n = np.exp(rng.uniform(np.log(44e6), np.log(16e9), RUNS))
    d = n * np.exp(rng.uniform(np.log(1), np.log(250), RUNS))
    loss = LAW["E"] + LAW["A"] * n ** -LAW["alpha"] + LAW["B"] * d ** -LAW["beta"]
    noise = NOISE * rng.standard_t(TAIL, RUNS) / np.sqrt(TAIL / (TAIL - 2))
    return {"N": n, "D": d, "L": loss * np.exp(noise)}


def usual(columns: dict[str, np.ndarray], starts: int, seed: int = 0) -> Found:
    """L-BFGS-B with finite differences and scipy's defaults, from the grid or a sample of it.

    The defaults measure progress against max(|f|, 1): an objective of 1e-3 stops them some steps early.
    """
    from scipy.optimize import minimize
    from scipy.special import huber, logsumexp

    n, d, observed = (np.log(columns[name]) for name in ("N", "D", "L"))

    def objective(theta: np.ndarray) -> float:
        a, b, e, alpha, beta = theta
        predicted = logsumexp([a - alpha * n, b - beta * d, np.full_like(n, e)], axis=0)
        return float(huber(DELTA, predicted - observed).sum())

    grid = np.array(list(product(*GRID.values())))
    assert len(grid) == STARTS
    if starts < STARTS:
        grid = grid[np.random.default_rng(seed).choice(STARTS, starts, replace=False)]
    before = time.perf_counter()
    ends = [minimize(objective, start, method="L-BFGS-B") for start in grid]
    seconds = time.perf_counter() - before
    best = min(ends, key=lambda end: end.fun)
    a, b, e, alpha, beta = best.x.tolist()
    reached = float(np.mean([end.fun <= best.fun * (1 + NEAR) for end in ends]))
    found = {"E": np.exp(e), "A": np.exp(a), "B": np.exp(b), "alpha": alpha, "beta": beta}
    return Found(seconds, float(best.fun), reached, {name: float(value) for name, value in found.items()})


def ours(columns: dict[str, np.ndarray], starts: int, draws: int) -> tuple[Found, float]:
    """The fit of `models.scaling_laws`, the median of five, and the seconds of its bootstrap."""
    from models.estimators import huber

    from models.scaling_laws import fit

    seconds = []
    for _ in range(5):
        before = time.perf_counter()
        result = fit(columns, law="chinchilla", estimator=huber(DELTA), starts=starts)
        seconds.append(time.perf_counter() - before)
    before = time.perf_counter()
    result.bootstrap(draws=draws, seed=0)
    bootstrapped = time.perf_counter() - before
    found = Found(
        statistics.median(seconds), float(result.objective), float(result.starts_at_optimum), dict(result.coefficients)
    )
    return found, bootstrapped


def report(
    old: Found, old_starts: int, new: Found | None, new_starts: int, bootstrap: float, draws: int
) -> Iterator[str]:
    """The table and the verdict, line by line."""
    whole = old.seconds * STARTS / old_starts
    yield f"{RUNS} runs, sum of Huber({DELTA:g}) of ln L; the law that made them: {_text(LAW)}"
    yield f"{'':<24}{'starts':>8}{'seconds':>10}{'objective':>14}{'within 1%':>11}  coefficients"
    yield _row("L-BFGS-B", old_starts, old)
    if old_starts < STARTS:
        yield f"{'  all, extrapolated':<24}{STARTS:>8}{whole:>10.2f}"
    if new is None:
        return
    yield _row("models.scaling_laws", new_starts, new)
    yield f"{'  bootstrap':<24}{'':>8}{bootstrap:>10.3f}  {draws} refits, {1e3 * bootstrap / draws:.3f} ms each"
    how = " (extrapolated)" if old_starts < STARTS else ""
    yield f"ratio of times, {STARTS} starts{how} to the fit: {whole / new.seconds:,.0f}"
    both = new.seconds + bootstrap
    yield f"ratio of times, {STARTS} starts{how} to the fit and {draws} refits: {whole / both:,.1f}"
    yield _verdict(old.objective, new.objective)


def _verdict(old: float, new: float) -> str:
    difference = new / old - 1
    word = (
        "the same optimum" if abs(difference) <= 1e-6 else "a better optimum" if difference < 0 else "A WORSE OPTIMUM"
    )
    return f"verdict: {word} ({difference:+.1e} of the objective)"


def _row(name: str, starts: int, found: Found) -> str:
    return (
        f"{name:<24}{starts:>8}{found.seconds:>10.3f}{found.objective:>14.8f}{found.reached:>11.1%}"
        f"  {_text(found.coefficients)}"
    )


def _text(coefficients: dict[str, float]) -> str:
    return " ".join(f"{name}={coefficients[name]:.4g}" for name in LAW)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="200 of the 4,500 starts; the time of all is extrapolated")
    parser.add_argument("--starts", type=int, default=64, help="of models.scaling_laws")
    parser.add_argument("--draws", type=int, default=4000, help="of the bootstrap")
    parser.add_argument("--seed", type=int, default=0, help="of the simulated runs")
    parser.add_argument("--usual-only", action="store_true", help="only L-BFGS-B")
    options = parser.parse_args()
    columns = runs(options.seed)
    new, bootstrap = (None, 0.0) if options.usual_only else ours(columns, options.starts, options.draws)
    count = 200 if options.quick else STARTS
    old = usual(columns, count)
    sys.stdout.writelines(f"{line}\n" for line in report(old, count, new, options.starts, bootstrap, options.draws))
    if new is not None and new.objective > old.objective * (1 + 1e-6):
        sys.exit(1)


if __name__ == "__main__":
    if ONE_THREAD.items() <= os.environ.items():
        main()
    else:  # numpy reads them when it is imported
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | ONE_THREAD)
