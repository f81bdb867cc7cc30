"""The peak memory of a training step that runs, from the allocations and releases of torch's CPU profiler."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from models.training_step import Step, assembled, forward_backward, optimizer_of

WARM = 2  # steps before the one that counts


def measured_peak(config: Any, step: Step) -> int:
    """The most bytes that tensors took at once on the CPU in the third step, kernels' scratch buffers included."""
    model, optimizer, ids, run = _prepared(config, step)
    states = [part.state for part in getattr(optimizer, "parts", [optimizer])]
    standing = tree_leaves(
        [list(model.parameters()), list(model.buffers()), ids, [list(each.values()) for each in states]]
    )
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in standing
                if isinstance(each, torch.Tensor)}  # fmt: skip
    held = highest = sum(storages.values())
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    for event in profiled.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    return highest


def step_seconds(config: Any, step: Step, repeats: int = 5) -> float:
    """CPU seconds of a step, the least of some: what other programs take away does not count."""
    *_, run = _prepared(config, step)
    found = []
    for _ in range(repeats):
        before = time.process_time()
        run()
        found.append(time.process_time() - before)
    return min(found)


def _prepared(config: Any, step: Step) -> tuple[Any, Any, torch.Tensor, Callable[[], None]]:
    """Model, optimizer and tokens after the warm steps, and the step itself."""
    model = assembled(config, step)
    optimizer = optimizer_of(model, step)
    ids = torch.randint(0, config.get_text_config().vocab_size, (step.batch, step.sequence))

    def run() -> None:
        for _ in range(2 if step.accumulated else 1):
            forward_backward(model, ids, step)
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(WARM):
        run()
    return model, optimizer, ids, run
