"""Muon for the matrices, AdamW for the rest, as one optimizer that a Trainer can drive and checkpoint."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn


class MuonAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` on the hidden matrices, AdamW on embeddings, head and norms (Jordan et al. 2024).

    Few steps are all that a small budget has; here Muon needs about half of AdamW's for the same loss. The embedding
    has a learning rate of its own: each of its rows gets a gradient only when its token occurs.
    """

    def __init__(self, model: nn.Module, *, lr: float, embedding_lr: float, weight_decay: float = 0.01):
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        matrices = [p for name, p in named if p.ndim == 2 and "embed" not in name and "lm_head" not in name]
        known = set(map(id, matrices))
        others = [p for _, p in named if id(p) not in known]
        self.parts: list[torch.optim.Optimizer] = [
            # match_rms_adamw scales the update so that an AdamW learning rate and weight decay carry over
            torch.optim.Muon(matrices, lr=lr, momentum=0.95, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
        ]
        if others:
            self.parts.append(
                torch.optim.AdamW(others, lr=embedding_lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
            )
        super().__init__([p for _, p in named], {})
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


def trainable(parameters: Iterable[nn.Parameter]) -> int:
    """Number of parameters that a step changes."""
    return sum(p.numel() for p in parameters if p.requires_grad)
