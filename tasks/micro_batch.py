"""How much of a batch a device takes at once: an equal part of it that fits in memory; the gradients add up."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import parallel
from tasks.settings import Execution

if TYPE_CHECKING:
    from models.training_step import Step
    from tasks.speed import Settings

ROOM = 0.8  # of the free memory that a step may take: the framework and the loading of data need some too
Peak = Callable[[int, bool], int]


def chosen(batch: int, most: int, peak: Peak, free_bytes: int) -> int:
    """The most examples at once: the largest equal part of a batch that has at most `most`, 0 for any, and fits.

    `peak` gives the bytes of a step by its micro-batch and whether gradients add up; nothing is asked of it where
    `most` is given. 1 where no part fits. The largest part where nobody can tell, as for a model that cannot take a
    step on tensors without content.
    """
    if most:
        return part(batch, most)
    try:
        fitting = (size for size in parts(batch) if peak(size, size < batch) <= ROOM * free_bytes)
        return next(fitting, 1)
    except ValueError:
        return batch


def part(batch: int, most: int) -> int:
    """The largest equal part of a batch that has at most `most` examples; the whole of it for 0."""
    return next(size for size in parts(batch) if size <= (most or batch))


def parts(batch: int) -> list[int]:
    """What divides a batch, from the whole of it down to 1."""
    return [size for size in range(batch, 0, -1) if batch % size == 0]


def arguments(batch: int, micro_batch: int, *, checkpointing: bool) -> dict[str, Any]:
    """For TrainingArguments."""
    return {
        "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": batch // micro_batch,
        "gradient_checkpointing": checkpointing,
        "gradient_checkpointing_kwargs": {"use_reentrant": False} if checkpointing else None,
    }


def peak_of(model: Any, step: "Step") -> Peak:
    """Bytes of a step by its micro-batch: by formula where it knows the family, else by a step without content."""
    from models import fake_step
    from models.memory_forms import training_peak, unknown

    known = not unknown(model.config, step)

    def peak(size: int, accumulated: bool) -> int:
        change = {"batch": size, "accumulated": accumulated}
        if known:
            return training_peak(model.config, step.model_copy(update=change)).total
        foreseen = fake_step.timeline(model.config, step.model_copy(update=change), kind=type(model))
        return fake_step.peak_of(foreseen).total

    return peak


def step_of(settings: "Settings", context: int) -> "Step":
    """The step as the memory plan knows it."""
    step = step_with(settings.precision, settings.attention, settings.checkpointing, context)
    return step.model_copy(
        update={"batch": settings.micro_batch, "accumulated": settings.micro_batch < settings.batch}
    )  # fmt: skip


def step_with(precision: str, attention: str, checkpointing: bool, context: int) -> "Step":
    """That of a single example of `context` tokens."""
    from models.training_step import Step

    kernel = "auto" if attention == "no" else attention
    given = {"precision": precision, "attention": kernel, "checkpointing": checkpointing}
    return Step(**given, sequence=context, optimizer="muon")


def free_bytes(execution: Execution, *, on_cpu: bool) -> int:
    """What one training may take of what is free, where as many as `execution` says run at once."""
    sharing = execution.processes * (parallel.world() if on_cpu else 1)
    return (_free_on_cpu() if on_cpu else _free_on_gpu()) // sharing


def _free_on_gpu() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])


def _free_on_cpu() -> int:
    """Of the machine, or of the control group that holds this process."""
    try:
        return min(_available(), _left_in(Path("/sys/fs/cgroup")))
    except (OSError, ValueError):  # no such group, or "max"
        return _available()


def _left_in(group: Path) -> int:
    """Of a control group's limit. What it has read from files counts as used, and gives way when memory is needed."""
    limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    return limit - used + (int(cached[1]) if cached else 0)


def _available() -> int:
    """What Linux could hand out without swapping; elsewhere half of what is built in."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
