"""What a model of any Hugging Face config holds and computes: parameters by use, FLOPs of a step, bytes on disk."""

from typing import Any, NamedTuple

from torch import nn

from models.optimizers import hidden_matrices
from models.training_step import QUANTISED, Step

EIGHT_BIT = 2 * (1 + 4 / 256)  # bytes per weight: two moments of a byte, an fp32 scale for 256 of each


class Counts(NamedTuple):
    """Numbers of parameters. `multiplied` are those that a token is multiplied with, tied head included."""

    total: int
    trained: int
    multiplied: int
    head: int
    adapters: int
    quantisable: int
    rows: int  # of the quantisable matrices
    layer: int  # of the largest layer
    last: int  # of the last matrices of all layers
    matrices: int  # trained hidden matrices, which Muon takes


class Attention(NamedTuple):
    """L layers of H heads with Q dimensions each, `kv` of them with keys and values of their own."""

    layers: int
    heads: int
    dimensions: int
    kv: int


def counts(model: nn.Module, config: Any) -> Counts:
    """Counts of a model, which may be on meta. Of experts, a token meets only those that the router picks."""
    parameters = dict(model.named_parameters())
    head = model.get_output_embeddings()
    linear = {id(m.weight): m.weight for m in model.modules() if _multiplies(m)}
    tied = () if head is None else (id(head.weight),)
    frozen = [p for key, p in linear.items() if key not in tied and not p.requires_grad]
    experts = {id(p): p for p in parameters.values() if p.ndim == 3}
    layers = config.get_text_config().num_hidden_layers
    blocks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == layers]
    adapters = sum(p.numel() for name, p in parameters.items() if ".lora_" in name)
    return Counts(
        total=sum(p.numel() for p in parameters.values()),
        trained=sum(p.numel() for p in parameters.values() if p.requires_grad),
        multiplied=sum(p.numel() for p in linear.values())
        + round(_share(config) * sum(p.numel() for p in experts.values())),
        head=0 if head is None else head.weight.numel(),
        adapters=adapters,
        quantisable=sum(p.numel() for p in frozen),
        rows=sum(p.shape[0] for p in frozen),
        layer=max((sum(p.numel() for p in block.parameters()) for each in blocks for block in each), default=0),
        last=sum(_last(block) for each in blocks for block in each),
        matrices=sum(p.numel() for p in hidden_matrices(model)),
    )  # fmt: skip


def attention(config: Any) -> Attention:
    """Raises ValueError for a config without heads and layers, such as that of an LSTM or a state-space model."""
    known = config.get_text_config()
    missing = [name for name in ("num_hidden_layers", "num_attention_heads", "hidden_size") if not hasattr(known, name)]
    if missing:
        raise ValueError(f"a {config.model_type} has no {', '.join(missing)} in its config: no plan can be made for it")
    heads = known.num_attention_heads
    # what a family does not have, its config does not name
    dimensions = getattr(known, "head_dim", None) or known.hidden_size // heads
    kv = getattr(known, "num_key_value_heads", None) or (1 if getattr(known, "multi_query", False) else heads)
    return Attention(known.num_hidden_layers, heads, dimensions, kv)


def training_flops(config: Any, found: Counts, step: Step) -> int:
    """FLOPs of one token of training: 6 N + 12 L H Q T (Chowdhery et al. 2022, 2204.02311, appendix B).

    N without the input embedding, with the head. Frozen weights need no gradient: 4 N of them beside 6 N of the
    adapters. Checkpointing computes the layers forward once more, but neither the head nor the last matrix of a layer,
    whose product nothing needs again: + 2 (N - head - last) + 4 L H Q T.
    """
    L, H, Q, _ = attention(config)
    scores = L * H * Q * step.sequence
    frozen = found.multiplied - found.adapters - step.embeddings * found.head if found.adapters else 0
    flops = 6 * found.multiplied - 2 * frozen + 12 * scores
    again = 2 * (found.multiplied - found.head - found.last) + 4 * scores if step.checkpointing else 0
    return flops + again


def serving_flops(config: Any, found: Counts, context: int) -> int:
    """FLOPs of one generated token after `context` others: 2 N + 4 L H Q T."""
    L, H, Q, _ = attention(config)
    return 2 * found.multiplied + 4 * L * H * Q * context


def weight_bytes(found: Counts, precision: str) -> int:
    """int8: a byte and an fp32 scale a row; int4: half a byte and an fp32 scale for 64 weights (as in bitsandbytes).

    Both leave embeddings, head and norms in bf16; adapters are always in fp32.
    """
    adapters, rest = 4 * found.adapters, found.total - found.adapters
    if precision not in QUANTISED:
        return adapters + (4 if precision in ("fp32", "bf16-autocast") else 2) * rest
    packed = found.quantisable + 4 * found.rows if precision == "int8" else found.quantisable * (1 / 2 + 4 / 64)
    return adapters + round(packed + 2 * (rest - found.quantisable))


def state_bytes(found: Counts, step: Step) -> int:
    """Bytes of the optimizer's states: two moments in the precision of the trained weights, unless it keeps fewer."""
    if step.optimizer == "adamw-8bit":
        return round(EIGHT_BIT * found.trained)
    size = trained_size(step)
    if step.optimizer == "muon":  # one moment for hidden matrices, two of AdamW for the rest
        return size * (2 * found.trained - found.matrices)
    return 0 if step.optimizer == "sgd" else 2 * size * found.trained


def trained_size(step: Step) -> int:
    """Bytes of a trained weight: peft keeps adapters in fp32 beside weights in bf16."""
    return 2 if step.precision == "bf16" and not step.lora else 4


def disk_bytes(found: Counts, step: Step) -> dict[str, int]:
    """Bytes of the saved weights, of LoRA the adapters alone, and of a checkpoint with the optimizer's states."""
    weights = trained_size(step) * found.trained if step.lora else weight_bytes(found, step.precision)
    return {"weights": weights, "checkpoint": weights + state_bytes(found, step)}


def _last(block: nn.Module) -> int:
    found = [m.weight.numel() for name, m in block.named_modules() if _multiplies(m) and ".lora_" not in name]
    return found[-1] if found else 0


def _multiplies(module: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, nn.Linear | Conv1D)


def _share(config: Any) -> float:
    """The share of the experts that a token meets."""
    known = config.get_text_config()
    of = getattr(known, "num_local_experts", None) or getattr(known, "num_experts", None) or 1
    return (getattr(known, "num_experts_per_tok", None) or of) / of
