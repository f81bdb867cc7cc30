"""One step of training as the memory plan knows it: its options, its model, and the step itself, real or on fakes."""

from typing import Any, Literal, TypeAlias

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from models.corruption import counts_of

Precision: TypeAlias = Literal["fp32", "bf16", "bf16-autocast", "int8", "int4"]
Optimizer: TypeAlias = Literal["adamw", "adamw-foreach", "adamw-8bit", "sgd", "muon"]
Sharding: TypeAlias = Literal["none", "zero1", "zero2", "zero3", "fsdp"]
Attention: TypeAlias = Literal["auto", "sdpa", "eager"]  # auto: what transformers takes for the model
QUANTISED = ("int8", "int4")  # weights that stay frozen: they need LoRA


class Step(BaseModel):
    """What decides the memory of a step. `batch` is the micro-batch of one device, `lora` the rank, 0 for none.

    bf16 is weights, gradients and states in bf16; bf16-autocast keeps them in fp32. int8 and int4 are frozen weights
    beside bf16 ones. `embeddings` says that the token embeddings are trained beside LoRA, `autocast` that products are
    under autocast whatever the weights are in, `accumulated` that a step sums the gradients of more than one
    micro-batch, `documents` that positions start anew within a sequence, so that transformers builds a mask which keeps
    its documents apart.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch: int = Field(default=1, ge=1)
    sequence: int = Field(default=512, ge=1)
    precision: Precision = "fp32"
    optimizer: Optimizer = "adamw"
    checkpointing: bool = False
    accumulated: bool = False
    lora: int = Field(default=0, ge=0)
    embeddings: bool = False
    autocast: bool = False
    devices: int = Field(default=1, ge=1)
    sharding: Sharding = "none"
    attention: Attention = "auto"
    documents: bool = False


def assembled(config: Any, step: Step, kind: Any = None) -> nn.Module:
    """The model of a config, ready for the step: attention, LoRA on all linear layers, checkpointing.

    `kind` is its class, by default the family's causal language model. Build it under `torch.device("meta")` for a
    model without memory. Raises ValueError for a config that is of no such model, or has values that its family cannot
    build.
    """
    import copy

    from transformers import AutoModelForCausalLM

    dtype = torch.float32 if step.precision in ("fp32", "bf16-autocast") else torch.bfloat16
    attention = None if step.attention == "auto" else step.attention
    try:
        build = kind._from_config if kind else AutoModelForCausalLM.from_config
        model = build(copy.deepcopy(config), dtype=dtype, attn_implementation=attention)
    except Exception as error:  # whatever the code of a family raises for values that it cannot build
        raise ValueError(f"transformers cannot build a language model of this {config.model_type}: {error}") from error
    model.config.use_cache = False  # as the Trainer sets it
    if step.lora:
        from peft import get_peft_model

        from models import adapters

        model = get_peft_model(model, adapters.lora(model, step.lora, embeddings=step.embeddings))
        adapters.train_in_fp32(model)
    if step.precision in QUANTISED and step.autocast:
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.requires_grad:
                module.register_forward_hook(_as_it_came)
    if step.checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _as_it_came(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    """bitsandbytes gives products in the precision of their input, whatever autocast says."""
    return output.to(inputs[0].dtype)


def optimizer_of(model: nn.Module, step: Step) -> torch.optim.Optimizer:
    """The optimizer of the step; AdamW in 8 bits is plain AdamW here, whose states are counted as smaller."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if step.optimizer == "sgd":
        return torch.optim.SGD(trained, lr=1e-3)
    if step.optimizer == "muon":
        from models.optimizers import MuonAdamW

        return MuonAdamW(model, lr=1e-3, embedding_lr=1e-3)
    foreach = step.optimizer == "adamw-foreach"
    return torch.optim.AdamW(trained, lr=1e-3, foreach=foreach, fused=not foreach)


def forward_backward(model: nn.Module, ids: torch.Tensor, step: Step) -> None:
    more: dict[str, torch.Tensor] = {"position_ids": _positions(ids)} if step.documents else {}
    if step.documents and type(model).__name__.endswith("ForMaskedLM"):  # it reads its mask from nowhere else
        more["attention_mask"] = torch.zeros(step.batch, 1, step.sequence, step.sequence, dtype=model.dtype)
    labels = ids
    if model.config.is_encoder_decoder:  # of a window, it reads what is left and writes what was taken out
        counts = counts_of(step.sequence)
        ids, labels = ids[:, : counts.inputs].contiguous(), ids[:, : counts.targets].contiguous()
        more["decoder_input_ids"] = labels
    autocast = step.autocast or step.precision == "bf16-autocast"
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        if type(model).__name__.endswith(("ForMaskedLM", "ForConditionalGeneration")):
            # in fp32, as models.objectives takes it: these classes take theirs in the precision of the logits
            loss = nn.functional.cross_entropy(
                model(input_ids=ids, **more).logits.flatten(0, 1).float(), labels.flatten()
            )
        else:
            loss = model(input_ids=ids, labels=labels, **more).loss
    loss.backward()


def _positions(ids: torch.Tensor) -> torch.Tensor:
    """Those of two documents of the same length in each row."""
    return (torch.arange(ids.shape[1]) % -(-ids.shape[1] // 2)).expand(ids.shape)
