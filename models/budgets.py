"""From accelerator hours and money to FLOPs and back, and the batch and learning rate of a budget."""

import numpy as np

from models.quantities import plain, positive

# Peak dense FLOP/s of bf16 products summed in fp32. Data sheets that lead with 2:4 sparsity print twice as much.
PEAK_FLOPS = {
    "A10": 125e12,  # NVIDIA A10 data sheet
    "A100": 312e12,  # NVIDIA A100 data sheet, PCIe and SXM alike
    "A6000": 154.8e12,  # NVIDIA Ampere GA102 white paper
    "L4": 121e12,  # NVIDIA L4 data sheet: 242 with sparsity
    "L40S": 362e12,  # NVIDIA L40S data sheet
    "H100 PCIe": 756e12,  # NVIDIA H100 data sheet: 1,513 with sparsity
    "H100 NVL": 835e12,  # NVIDIA H100 data sheet: 1,671 with sparsity
    "H100 SXM": 989e12,  # NVIDIA H100 data sheet: 1,979 with sparsity
    "H200 SXM": 989e12,  # NVIDIA H200 data sheet: 1,979 with sparsity
    "B200": 2250e12,  # NVIDIA DGX B200 data sheet: 36 petaFLOP/s with sparsity by eight
    "RTX 3090": 71e12,  # NVIDIA Ampere GA102 white paper
    "RTX 4090": 165.2e12,  # NVIDIA Ada white paper 2.1, appendix A
    "RTX 5090": 209.5e12,  # NVIDIA RTX Blackwell white paper
    "MI250X": 383e12,  # AMD Instinct MI250X data sheet, both dies
    "MI300X": 1307.4e12,  # AMD Instinct MI300X data sheet
    "MI325X": 1307.4e12,  # AMD Instinct MI325X data sheet
}

_UTILISATION = "give the share of the peak that training reaches, such as 0.4"


def peak_flops(accelerator: str) -> float:
    """Peak dense bf16 FLOP/s of one accelerator, by its name in PEAK_FLOPS. Raises ValueError for any other."""
    names = {name.casefold(): peak for name, peak in PEAK_FLOPS.items()}
    if accelerator.casefold() not in names:
        raise ValueError(f"no accelerator {accelerator!r}; give its FLOP/s, or one of {', '.join(PEAK_FLOPS)}")
    return names[accelerator.casefold()]


def flops_of(
    gpu_hours: float | np.ndarray, *, peak_flops_per_second: float | np.ndarray, utilisation: float | np.ndarray
) -> float | np.ndarray:
    """The FLOPs of so many accelerator hours: 3600 hours x peak x utilisation (model FLOPs utilisation, MFU)."""
    hours = positive("gpu_hours", gpu_hours, "give hours summed over all accelerators")
    return plain(C=hours * _per_hour(peak_flops_per_second, utilisation))["C"]


def gpu_hours_of(
    compute: float | np.ndarray, *, peak_flops_per_second: float | np.ndarray, utilisation: float | np.ndarray
) -> float | np.ndarray:
    """The accelerator hours that so many FLOPs take; the inverse of `flops_of`."""
    C = positive("compute", compute, "give FLOPs, such as 1e21")
    return plain(hours=C / _per_hour(peak_flops_per_second, utilisation))["hours"]


def flops_of_money(
    money: float | np.ndarray,
    *,
    price_per_gpu_hour: float | np.ndarray,
    peak_flops_per_second: float | np.ndarray,
    utilisation: float | np.ndarray,
) -> float | np.ndarray:
    """The FLOPs that a sum buys; the price of an accelerator hour in the same currency."""
    sum_, price = positive("money", money, "give a sum"), _price(price_per_gpu_hour)
    return plain(C=sum_ / price * _per_hour(peak_flops_per_second, utilisation))["C"]


def money_of(
    compute: float | np.ndarray,
    *,
    price_per_gpu_hour: float | np.ndarray,
    peak_flops_per_second: float | np.ndarray,
    utilisation: float | np.ndarray,
) -> float | np.ndarray:
    """What so many FLOPs cost; the inverse of `flops_of_money`."""
    hours = gpu_hours_of(compute, peak_flops_per_second=peak_flops_per_second, utilisation=utilisation)
    return plain(money=hours * _price(price_per_gpu_hour))["money"]


def deepseek_hyperparameters(compute: float | np.ndarray) -> dict[str, float | np.ndarray]:
    """learning_rate = .3118 C^-.1250 and batch_tokens = .2920 C^.3271 (DeepSeek LLM 2024, 2401.02954, equation 1).

    Their C is M D with M the FLOPs per token without embeddings but with attention, and not 6 N D: for small models
    that differs by tens of percent. Fitted from 1e17 to 2e19 FLOPs with AdamW, their multi-step schedule and their
    initialisation; the best region is broad. A start for a search under another recipe, not its result.
    """
    C = positive("compute", compute, "give FLOPs, such as 1e21")
    return plain(learning_rate=0.3118 * C**-0.1250, batch_tokens=0.2920 * C**0.3271)


def _per_hour(peak_flops_per_second: float | np.ndarray, utilisation: float | np.ndarray) -> np.ndarray:
    peak = positive("peak_flops_per_second", peak_flops_per_second, "give FLOP/s, such as peak_flops('A100')")
    return 3600 * peak * positive("utilisation", utilisation, _UTILISATION, most=1)


def _price(price_per_gpu_hour: float | np.ndarray) -> np.ndarray:
    return positive("price_per_gpu_hour", price_per_gpu_hour, "give the price of one accelerator for one hour")
