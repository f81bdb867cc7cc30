"""LoRA adapters: which matrices have one, and what else is trained beside them."""

from typing import Any


def lora(model: Any, rank: int, *, embeddings: bool = False) -> Any:
    """peft's config of adapters of a rank on all linear layers but the head (Hu et al. 2021, arXiv 2106.09685).

    With `embeddings` a copy of the token embeddings is trained beside them, and the head with it where it is tied.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=rank, lora_alpha=rank, target_modules="all-linear", task_type="CAUSAL_LM",
        modules_to_save=[_embedding_of(model)] if embeddings else None, ensure_weight_tying=embeddings,
    )  # fmt: skip


def _embedding_of(model: Any) -> str:
    """What the family calls its token embedding: `embed_tokens`, `wte`, `word_embeddings`."""
    name = next(name for name, module in model.named_modules() if module is model.get_input_embeddings())
    return name.split(".")[-1]


def train_in_fp32(model: Any) -> None:
    """Puts what is trained into fp32: TRL has it in bf16 where the base is quantised, too coarse for small updates."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
