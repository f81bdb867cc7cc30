"""What few bits cost, in training and after it: the forms of Kumar et al. 2024, 2411.04330, without their constants.

L = E + A / N_eff^alpha + B / D^beta + delta_PTQ. Every sensitivity comes from a fit to one's own runs.
"""

from collections.abc import Mapping

import numpy as np

from models.quantities import plain, positive, symbols


def effective_parameters(
    N: float | np.ndarray, bits: Mapping[str, float | np.ndarray], gamma: Mapping[str, float | np.ndarray]
) -> float | np.ndarray:
    """N_eff = N prod_x (1 - exp(-P_x / gamma_x)), the parameters that training at few bits leaves of N.

    `bits` P_x and `gamma` by the same names, such as weights, activations, kv. Raises ValueError for names that differ.
    """
    _same("gamma", gamma, bits)
    left = positive("N", N, "give parameters, such as 1e9")
    for name, P in bits.items():
        scale = positive(f"gamma of {name}", gamma[name], "fit it to runs at several precisions")
        left = left * -np.expm1(-positive(f"bits of {name}", P, "give bits, such as 16") / scale)
    return plain(N=left)["N"]


def post_training_degradation(
    N_eff: float | np.ndarray,
    D: float | np.ndarray,
    *,
    post_bits: float | np.ndarray,
    bits: Mapping[str, float | np.ndarray],
    sensitivity: Mapping[str, float | np.ndarray],
    coefficients: Mapping[str, float | np.ndarray],
) -> float | np.ndarray:
    """delta_PTQ in nats, what quantising a trained model to `post_bits` P_post adds to its loss.

    C_T (D^gamma_D / N_eff^gamma_N) exp(-P_post / gamma_post) prod_x (1 - exp(-C_x (P_x - P_post))), with C_T, gamma_D,
    gamma_N and gamma_post in `coefficients`, C_x in `sensitivity` and the training precision P_x in `bits`, by the same
    names. It grows with D: a model trained for longer loses more. Nothing is lost where P_post >= some P_x, for the
    form would turn negative there.
    """
    _same("sensitivity", sensitivity, bits)
    C_T, gamma_D, gamma_N, gamma_post = symbols(coefficients, ("C_T", "gamma_D", "gamma_N", "gamma_post"))
    size, tokens = positive("N_eff", N_eff, "give parameters"), positive("D", D, "give tokens")
    P_post = positive("post_bits", post_bits, "give bits, such as 4")
    lost = C_T * tokens**gamma_D / size**gamma_N * np.exp(-P_post / gamma_post)
    for name, value in bits.items():
        C_x = positive(f"sensitivity of {name}", sensitivity[name], "fit it to quantised models")
        above = np.maximum(positive(f"bits of {name}", value, "give bits, such as 16") - P_post, 0)
        lost = lost * -np.expm1(-C_x * above)
    return plain(loss=lost)["loss"]


def _same(name: str, given: Mapping[str, object], bits: Mapping[str, object]) -> None:
    if not bits or given.keys() != bits.keys():
        raise ValueError(f"{name} names {sorted(given)}, bits names {sorted(bits)}; give both for the same parts")
