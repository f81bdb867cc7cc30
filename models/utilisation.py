"""Model FLOPs utilisation (MFU): the FLOPs that a training needs in a second, of those that its device can do.

Chowdhery et al. 2022, 2204.02311, appendix B: what is computed twice, as checkpointing does, counts once.
"""

import re
import time
from functools import cache
from typing import Any

import torch
from torch import nn

from models.budgets import PEAK_FLOPS
from models.model_counts import attention, counts, training_flops
from models.training_step import Step

# What torch.cuda.get_device_name says, whole: a part of a card (MIG), or a slower one of a like name, is another card.
DEVICE_NAMES = {
    r"NVIDIA A10": "A10",
    r"NVIDIA A100-(SXM4|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe": "A100",
    r"NVIDIA RTX A6000": "A6000",
    r"NVIDIA L4": "L4",
    r"NVIDIA L40S": "L40S",
    r"NVIDIA H100 PCIe": "H100 PCIe",
    r"NVIDIA H100 NVL": "H100 NVL",
    r"NVIDIA H100 80GB HBM3": "H100 SXM",
    r"NVIDIA H200": "H200 SXM",
    r"NVIDIA B200": "B200",
    r"NVIDIA GeForce RTX 3090": "RTX 3090",
    r"NVIDIA GeForce RTX 4090": "RTX 4090",
    r"NVIDIA GeForce RTX 5090": "RTX 5090",
    r"AMD Instinct MI300X": "MI300X",
    r"AMD Instinct MI325X": "MI325X",
}
SPANS = ("t5", "mt5", "umt5")  # encoder-decoders whose modules are named as `_encoder_decoder` reads them
MEASURED, LONGEST = 0.15, 0.05  # seconds that the peak of a CPU is measured for, and that one product may take


def row_flops(model: Any, *, inputs: int, targets: int = 0) -> float:
    """FLOPs of training on one row of `inputs` tokens: 6 N T + 12 L H Q T^2, N the weights that multiply.

    An LSTM has no attention: 6 N T. A masked model computes all its T tokens, those that it is not asked about too. An
    encoder-decoder reads E = `inputs` tokens and writes D = `targets`:

    6 (N_encoder + N_cross) E + 6 (N_decoder + N_head) D + 12 H Q (L_encoder E^2 + L_decoder D^2 + L_decoder E D),

    N_cross the keys and values that the decoder makes of what was read. Attention is counted in full, not halved for
    causality. Raises ValueError for a config that is not known to be counted right.
    """
    if model.config.is_encoder_decoder:
        return _encoder_decoder(model, inputs, targets)
    recurrent = [m for m in model.modules() if isinstance(m, nn.RNNBase)]
    if recurrent:
        matrices = [p for m in recurrent for p in m.parameters() if p.ndim == 2]
        linear = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Linear)}
        return 6.0 * inputs * sum(p.numel() for p in [*matrices, *linear.values()])
    return float(inputs * training_flops(model.config, counts(model, model.config), Step(sequence=inputs)))


def token_flops(model: Any, *, inputs: int, targets: int = 0) -> float:
    """FLOPs of training per token of a row, where those that are read and those that are written both count."""
    return row_flops(model, inputs=inputs, targets=targets) / (inputs + targets)


def device_peak(device: torch.device, *, bf16: bool) -> float:
    """The most FLOP/s of one device: of a GPU by its data sheet, of a CPU as measured with the threads that it has now.

    Raises ValueError for a GPU that is not in models/budgets.py, and for one that trains in another precision than
    bf16, of which the data sheets' figures are.
    """
    if device.type == "cpu":
        return cpu_peak(torch.bfloat16 if bf16 else torch.float32, torch.get_num_threads())
    name = torch.cuda.get_device_name(device)
    if not bf16:
        raise ValueError(f"{name} trains without bf16, and its peak is known in bf16 alone")
    return named_peak(name)


def named_peak(name: str) -> float:
    """The peak dense bf16 FLOP/s of a GPU by its whole name. Raises ValueError for one that is not known."""
    for pattern, accelerator in DEVICE_NAMES.items():
        if re.fullmatch(pattern, name):
            return PEAK_FLOPS[accelerator]
    raise ValueError(f"the peak FLOP/s of a {name!r} are not known; add it to models/utilisation.py")


@cache
def cpu_peak(dtype: torch.dtype, threads: int) -> float:
    """The best FLOP/s of square products, the larger the faster the machine, in about 0.2 s, measured once.

    `threads` are those that torch has: another number is measured anew. Beside a busy neighbour it comes out too low.
    """
    best, size, until = 0.0, 512, time.perf_counter() + MEASURED
    while time.perf_counter() < until:
        matrix = torch.ones(size, size, dtype=dtype)  # random numbers would move the state of the training's generator
        for _ in range(3):
            started = time.perf_counter()
            matrix @ matrix
            seconds = time.perf_counter() - started
            best = max(best, 2 * size**3 / seconds)
        if 8 * seconds < LONGEST:
            size *= 2
    return best


def _encoder_decoder(model: Any, inputs: int, targets: int) -> float:
    config = model.config
    if config.model_type not in SPANS:
        raise ValueError(f"the FLOPs of a {config.model_type} are not known; those of {', '.join(SPANS)} are")
    linear = {name: m.weight.numel() for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    head = linear.pop("lm_head", 0)
    read = sum(n for name, n in linear.items() if name.startswith("encoder.") or _cross(name))
    written = head + sum(n for name, n in linear.items() if name.startswith("decoder.") and not _cross(name))
    layers, heads, dimensions, _ = attention(config)
    scores = layers * inputs**2 + config.num_decoder_layers * (targets**2 + inputs * targets)
    return 6.0 * (read * inputs + written * targets) + 12.0 * heads * dimensions * scores


def _cross(name: str) -> bool:
    return name.endswith(("EncDecAttention.k", "EncDecAttention.v"))
