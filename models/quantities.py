"""Checks and shapes that the planning formulas share: symbols in, floats or arrays out, with NumPy's broadcasting."""

from collections.abc import Mapping

import numpy as np


def positive(name: str, value: object, remedy: str, *, zero: bool = False, most: float = np.inf) -> np.ndarray:
    """`value` as float64. Raises ValueError, with the remedy, unless it is finite, positive and at most `most`.

    `zero` lets 0 pass.
    """
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {value!r}, not a number; {remedy}") from None
    good = np.isfinite(array) & ((array >= 0) if zero else (array > 0)) & (array <= most)
    if not good.all():
        bound = f"{'not negative' if zero else 'above 0'}{'' if np.isinf(most) else f' and at most {most:g}'}"
        first = array[~good].flat[0]
        where = "" if array.ndim == 0 else f" in {np.count_nonzero(~good)} of {array.size} entries, first"
        raise ValueError(f"{name} is{where} {first:g}, but must be finite and {bound}; {remedy}")
    return array


def symbols(
    coefficients: Mapping[str, float | np.ndarray], names: tuple[str, ...], *, zero: tuple[str, ...] = ()
) -> list[np.ndarray]:
    """The named coefficients as arrays, all positive; those in `zero` may be 0. Raises ValueError for what lacks."""
    missing = [name for name in names if name not in coefficients]
    if missing:
        raise ValueError(
            f"no {', '.join(missing)} among the coefficients {sorted(coefficients)}; give {', '.join(names)}"
        )
    remedy = "fit the law again, or drop such bootstrap draws"
    return [positive(f"coefficient {name}", coefficients[name], remedy, zero=name in zero) for name in names]


def plain(**values: object) -> dict[str, float | np.ndarray]:
    """Named results, broadcast to one shape: floats if they are scalars, else arrays."""
    arrays = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in values.values()))
    return {name: array.item() if array.ndim == 0 else array.copy() for name, array in zip(values, arrays, strict=True)}
