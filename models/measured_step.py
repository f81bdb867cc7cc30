"""The peak memory of a training step that runs, from the allocations and releases of torch's CPU profiler."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._pytree import tree_leaves

from models.training_step import Step, assembled, forward_backward, optimizer_of

WARM = 2  # steps before the one that counts


def measured_peak(config: Any, step: Step) -> int:
    """The most bytes that tensors took at once on the CPU in the third step, kernels' scratch buffers included."""
    model, optimizer, ids, run = _prepared(config, step)
    watch = Watch()
    watch.start(standing(model, optimizer, ids))
    run()
    return watch.stop()


class Watch:
    """Follows the bytes of all tensors on the CPU between two calls."""

    def start(self, held: int) -> None:
        """`held` is what stands already: the profiler sees changes alone."""
        self.held = held
        self.profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
        with _hushed():
            self.profile.__enter__()

    def stop(self) -> int:
        """The most bytes at once since `start`."""
        with _hushed():
            self.profile.__exit__(None, None, None)
        held = highest = self.held
        for event in self.profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                held += event.nbytes()
                highest = max(highest, held)
        return highest


@contextmanager
def _hushed() -> Iterator[None]:
    """The profiler's library writes a line to stderr when it starts and when it stops, at every level of its log."""
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def standing(model: nn.Module, optimizer: torch.optim.Optimizer, *others: torch.Tensor) -> int:
    """Bytes of weights, buffers, gradients and states, each storage once, and of the tensors beside them."""
    parameters = list(model.parameters())
    states = [state for part in getattr(optimizer, "parts", [optimizer]) for state in part.state.values()]
    found = tree_leaves([parameters, [p.grad for p in parameters], list(model.buffers()), states, others])
    storages = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in found
                if isinstance(each, torch.Tensor)}  # fmt: skip
    return sum(storages.values())


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
