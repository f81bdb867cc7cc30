"""The memory of serving a model: its weights, the KV cache of every conversation, and what one layer works in."""

from typing import Any

from models.fake_step import Peak
from models.model_counts import Counts, attention, weight_bytes
from models.training_step import Step


def serving_peak(config: Any, found: Counts, step: Step) -> Peak:
    """Bytes on one device while it reads `batch` prompts of `sequence` tokens at once, without gradients.

    Weights, KV cache, and beside them the widest moment of one layer: three vectors of the feed-forward width and
    four of the hidden one for each token. Sharding divides weights and cache (tensor parallelism) by the devices.
    """
    size = 4 if step.precision in ("fp32", "bf16-autocast") else 2
    known = config.get_text_config()
    wide = getattr(known, "intermediate_size", None) or getattr(known, "n_inner", None) or 4 * known.hidden_size
    working = size * step.batch * step.sequence * (3 * wide + 4 * known.hidden_size)
    parts = {
        "weights": weight_bytes(found, step.precision) // step.devices,
        "KV cache": kv_cache_bytes(config, tokens=step.sequence, batch=step.batch, size=size) // step.devices,
        "activations": working,
        "logits": 4 * step.batch * known.vocab_size,
    }
    return Peak(sum(parts.values()), parts)


def kv_cache_bytes(config: Any, *, tokens: int, batch: int, size: int = 2) -> int:
    """2 L n_kv d_head x bytes x tokens x batch: keys and values; a layer with a window keeps no more than that."""
    L, _, d, kv = attention(config)
    if getattr(config.get_text_config(), "kv_lora_rank", None):
        raise ValueError(f"a {config.model_type} compresses its keys and values, a cache that this plan does not know")
    known = config.get_text_config()
    window = getattr(known, "sliding_window", None) or tokens
    kinds = getattr(known, "layer_types", None) or (["full_attention"] * L)
    held = sum(min(tokens, window) if kind == "sliding_attention" else tokens for kind in kinds)
    return 2 * kv * d * size * held * batch
