"""Muon for the matrices, AdamW for the rest, as one optimizer that a Trainer can drive and checkpoint."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` on the hidden matrices, AdamW on embeddings, head and norms (Jordan et al. 2024).

    Few steps are all that a small budget has; here Muon needs about half of AdamW's for the same loss. The embedding
    has a learning rate of its own: each of its rows gets a gradient only when its token occurs.
    """

    def __init__(self, model: nn.Module, *, lr: float, embedding_lr: float, weight_decay: float = 0.01):
        trained = [p for p in model.parameters() if p.requires_grad]
        matrices = hidden_matrices(model)
        known = set(map(id, matrices))
        others = [p for p in trained if id(p) not in known]
        self.parts: list[torch.optim.Optimizer] = [
            # match_rms_adamw scales the update so that an AdamW learning rate and weight decay carry over
            torch.optim.Muon(matrices, lr=lr, momentum=0.95, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        ]
        if others:
            self.parts.append(
                torch.optim.AdamW(others, lr=embedding_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
            )
        super().__init__(trained, {})
        self._share()

    def _share(self) -> None:
        """Groups and state are one with the parts': a scheduler's rates reach them, and a checkpoint is a plain one."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]
        for part in self.parts:
            part.state = self.state

    def step(self, closure: Callable[[], float] | None = None) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        groups = iter(self.param_groups)
        for part in self.parts:
            part.param_groups = [next(groups) for _ in part.param_groups]
        self._share()


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The trained matrices that stand between embedding and head: neither a table that is looked up nor the head.

    In the order of the model. Of a model that peft has wrapped, the head is that of the model inside.
    """
    tables = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    inside = next((module for module in model.modules() if isinstance(module, PreTrainedModel)), None)
    head = inside.get_output_embeddings() if inside is not None else None
    apart = tables if head is None else tables | {id(head.weight)}
    return [p for p in model.parameters() if p.requires_grad and p.ndim == 2 and id(p) not in apart]
