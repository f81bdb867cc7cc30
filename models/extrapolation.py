"""Which form to believe: fitted to the runs below a compute cut-off, held against the runs above it.

A law with more coefficients fits better and may predict worse; only the second matters to whoever plans a run.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from models import laws
from models.estimators import Estimator
from models.forms import Columns
from models.scaling_laws import fit


def compare(
    columns: Columns, names: Sequence[str] = (), *, cut: float | None = None, estimator: Estimator | None = None
) -> list[dict[str, Any]]:
    """Every form that the runs can fix, the best forecaster first.

    `cut` is in FLOPs; by default two thirds of the runs lie below it. Each entry has `law`, `cut`, `runs_below`,
    `runs_above`, `reach` (largest compute above the cut over the largest below), `error` and `error_within` (root mean
    square of ln L_hat - ln L above and below) and `bias` (mean above). A form that the runs below cannot fix has
    `reason` instead, and comes last. Raises ValueError where nothing lies above the cut, or too little below.
    """
    arrays = {name: np.asarray(column, np.float64) for name, column in columns.items()}
    compute = arrays["C"] if "C" in arrays else 6 * arrays["N"] * arrays["D"]
    at = float(np.quantile(compute, 2 / 3)) if cut is None else cut
    below = compute <= at
    if below.all() or not below.any():
        raise ValueError(
            f"{below.sum()} of {len(below)} runs take {at:.3g} FLOPs or less (the runs: {compute.min():.3g} to "
            f"{compute.max():.3g}): give a cut-off with runs on both sides"
        )
    found = [_held_out(name, arrays, compute, below, estimator) for name in names or _possible(arrays)]
    return sorted(({"cut": at, **each} for each in found), key=lambda each: each.get("error", np.inf))


def _possible(columns: Columns) -> list[str]:
    known = {*columns, "C"} if {"N", "D"} <= columns.keys() else set(columns)
    return [name for name, law in laws.LAWS.items() if set(law.inputs) <= known]


def _held_out(
    name: str, columns: Columns, compute: np.ndarray, below: np.ndarray, estimator: Estimator | None
) -> dict[str, Any]:
    counts = {"law": name, "runs_below": int(below.sum()), "runs_above": int((~below).sum())}
    try:
        fitted = fit({key: column[below] for key, column in columns.items()}, name, estimator=estimator)
    except ValueError as error:
        return {**counts, "reason": str(error)}
    full = columns if "C" in columns else {**columns, "C": compute}
    above = {key: column[~below] for key, column in full.items()}
    errors = np.log(fitted.predict(above)) - np.log(above["L"])
    return {
        **counts,
        "reach": float(compute[~below].max() / compute[below].max()),
        "error": float(np.sqrt((errors**2).mean())),
        "error_within": float(np.sqrt((fitted.residuals**2).mean())),
        "bias": float(errors.mean()),
    }
