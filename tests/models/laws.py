"""Runs of known laws, written out independently of `models.laws`."""

import numpy as np

Columns = dict[str, np.ndarray]

# Published coefficients where there are some, of the size that such sweeps have.
TRUTHS: dict[str, dict[str, float]] = {
    "chinchilla": {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
    "kaplan-n": {"Nc": 8.8e13, "alpha_N": 0.076},
    "kaplan-d": {"Dc": 5.4e13, "alpha_D": 0.095},
    "kaplan-c": {"Cc": 3.1e8 * 8.64e19, "alpha_C": 0.050},
    "kaplan-nd": {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "compute": {"E": 1.5, "A": 300.0, "alpha": 0.16},
    "data-constrained": {
        "E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.35, "beta": 0.35, "R_D": 15.4, "R_N": 5.3,
    },
    "over-training": {"E": 1.6, "a": 3.0, "b": 900.0, "eta": 0.12},
    "precision-aware": {
        "E": 1.8, "A": 450.0, "B": 1000.0, "alpha": 0.35, "beta": 0.33, "gamma_w": 2.7, "gamma_a": 2.2, "gamma_kv": 0.9,
    },
}  # fmt: skip


def runs(count: int = 80, seed: int = 0) -> Columns:
    """Sizes from 1 M to 1 B, 2 to 300 tokens per parameter, data read up to 33 times, 3 to 16 bits."""
    rng = np.random.default_rng(seed)
    N = np.exp(rng.uniform(np.log(1e6), np.log(1e9), count))
    D = N * np.exp(rng.uniform(np.log(2), np.log(300), count))
    U = np.minimum(D, D / np.exp(rng.uniform(-1, 3.5, count)))
    bits = {name: rng.choice([3.0, 4.0, 6.0, 8.0, 12.0, 16.0], count) for name in ("Pw", "Pa", "Pkv")}
    return {"N": N, "D": D, "C": 6 * N * D, "U": U, **bits}


def loss(law: str, c: dict[str, float], columns: Columns) -> np.ndarray:
    """The law as its paper writes it."""
    N, D, C, U = (columns.get(name, np.ones(1)) for name in "NDCU")
    match law:
        case "chinchilla":
            return c["E"] + c["A"] / N ** c["alpha"] + c["B"] / D ** c["beta"]
        case "kaplan-n":
            return (c["Nc"] / N) ** c["alpha_N"]
        case "kaplan-d":
            return (c["Dc"] / D) ** c["alpha_D"]
        case "kaplan-c":
            return (c["Cc"] / C) ** c["alpha_C"]
        case "kaplan-nd":
            return ((c["Nc"] / N) ** (c["alpha_N"] / c["alpha_D"]) + c["Dc"] / D) ** c["alpha_D"]
        case "compute":
            return c["E"] + c["A"] / C ** c["alpha"]
        case "over-training":
            M = D / N
            return c["E"] + (c["a"] * M ** c["eta"] + c["b"] * M ** -c["eta"]) * (6 * N * D) ** -c["eta"]
        case "data-constrained":
            return _constrained(c, N, D, U)
        case "precision-aware":
            gammas = {"Pw": c["gamma_w"], "Pa": c["gamma_a"], "Pkv": c["gamma_kv"]}
            effective = N * np.prod([1 - np.exp(-columns[x] / gamma) for x, gamma in gammas.items()], axis=0)
            return c["E"] + c["A"] / effective ** c["alpha"] + c["B"] / D ** c["beta"]
    raise AssertionError(law)


def _constrained(c: dict[str, float], N: np.ndarray, D: np.ndarray, U: np.ndarray) -> np.ndarray:
    """Muennighoff et al., with their G and with 1 - exp as they write it."""
    G = (c["alpha"] * c["A"] / (c["beta"] * c["B"])) ** (1 / (c["alpha"] + c["beta"]))
    unique = np.minimum(D, U)
    tokens = unique + unique * c["R_D"] * (1 - np.exp(-(D / unique - 1) / c["R_D"]))
    enough = np.minimum(N, (unique * G) ** (c["beta"] / c["alpha"]) * G)
    size = enough + enough * c["R_N"] * (1 - np.exp(-(N / enough - 1) / c["R_N"]))
    return c["E"] + c["A"] / size ** c["alpha"] + c["B"] / tokens ** c["beta"]
