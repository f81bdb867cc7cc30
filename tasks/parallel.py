"""What a Trainer needs on several devices: its share of a batch, the wrapper asked for, the whole model saved."""

import os
from pathlib import Path
from typing import Any

from tasks.errors import UsageError
from tasks.settings import Execution

FULL_WEIGHTS = "pytorch_model_fsdp.bin"  # in a checkpoint that the Trainer wrote under FSDP


def world() -> int:
    """The number of processes that train together; torchrun's agent sets it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def on_gpu(device: str) -> bool:
    """Whether a training runs on a GPU. Raises UsageError where one is asked for and none is there."""
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UsageError(
            "execution.device is cuda, and torch sees no GPU: set it to auto or cpu, or install a driver and a torch "
            "that is built for CUDA"
        )
    return there and device != "cpu"


def share(batch: int, devices: int) -> int:
    """Windows of a step for each of the devices: the batch belongs to the recipe and stays as it is.

    Raises UsageError where it does not divide.
    """
    if batch % devices:
        fitting = [n for n in range(1, min(batch, devices) + 1) if batch % n == 0]
        raise UsageError(
            f"pretrain.batch is {batch} and execution.devices {devices}: {batch} windows do not divide into {devices} "
            f"equal parts. Set execution.devices to {fitting[-1]}, or pretrain.batch to a multiple of {devices}"
        )
    return batch // devices


def require_shards(execution: Execution, devices: int, gpu: bool) -> None:
    """Raises UsageError for FSDP without several GPUs."""
    if execution.sharding == "fsdp" and (devices == 1 or not gpu):
        raise UsageError(
            f"execution.sharding is fsdp and this training runs on {'one GPU' if gpu else 'the CPU'}: it needs two "
            "GPUs or more. Set execution.sharding to none"
        )


def evaluation_batch(windows: int, *, most: int = 32) -> int:
    """Held-out windows that a device reads at once.

    A last batch that is not full is filled up with windows from the start, and its mean loss counts them. So with
    several devices the batch divides the windows; then only whole batches are repeated, which the Trainer leaves out.
    """
    if world() == 1:
        return most
    return max(size for size in range(1, most + 1) if windows % size == 0)


def arguments(execution: Execution) -> dict[str, Any]:
    """What TrainingArguments take beyond those of one device. Raises UsageError for FSDP without several GPUs."""
    gpu = on_gpu(execution.device)
    require_shards(execution, world(), gpu)
    if world() == 1:
        return {}
    shared = {"ddp_backend": None if gpu else "gloo", "ddp_find_unused_parameters": False}
    return {**shared, **(FSDP if execution.sharding == "fsdp" else {})}


# The whole state is gathered for a checkpoint: it can go on with another number of devices.
FSDP = {"fsdp": True, "fsdp_config": {"version": 2, "state_dict_type": "FULL_STATE_DICT"}}


def prepare(trainer: Any, resume: Path | None) -> None:
    """Holds a Trainer to what was asked for: at its start it raises UsageError if its model is wrapped otherwise.

    One process trains on one device. Raises UsageError too for a checkpoint that was saved under another sharding.
    """
    from transformers import TrainerCallback

    # beside other GPUs the Trainer would take them all (DataParallel), and as many times the batch
    trainer.args._n_gpu = min(1, trainer.args.n_gpu)
    trainer._train_batch_size = trainer.args.train_batch_size

    class Check(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            wrapper(trainer)

    trainer.add_callback(Check())
    _require_same_sharding(trainer, resume)
    if trainer.is_fsdp_enabled:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        # autocast over fp32 weights, as without sharding: accelerate would cast weights, sums of gradients and logits
        trainer.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy()


def _require_same_sharding(trainer: Any, resume: Path | None) -> None:
    if resume is None:
        return
    saved, now = ("fsdp" if (resume / FULL_WEIGHTS).exists() else "none"), "fsdp" if trainer.args.fsdp else "none"
    if saved != now:
        raise UsageError(
            f"{resume} was saved with execution.sharding {saved} and cannot go on with {now}: set it to {saved}, "
            f"or remove {resume.parent} to start over"
        )


def wrapper(trainer: Any) -> str:
    """The class that holds the model together across devices; empty on one. To be asked once training has begun.

    Raises UsageError where it is not the one asked for: on a CPU the Trainer's FSDP becomes DDP without a word.
    """
    if world() == 1 and not trainer.args.fsdp:
        return ""
    from torch.distributed.fsdp import FSDPModule
    from torch.nn.parallel import DistributedDataParallel

    asked = FSDPModule if trainer.args.fsdp else DistributedDataParallel
    model = trainer.model_wrapped
    for held in (model, model._orig_mod) if _is_compiled(model) else (model,):
        if isinstance(held, asked) and trainer.args.world_size == world():
            return asked.__name__
    raise UsageError(
        f"{asked.__name__} over {world()} processes was asked for (execution.sharding "
        f"{'fsdp' if trainer.args.fsdp else 'none'}), and the model became {type(model).__name__} over "
        f"{trainer.args.world_size}: set execution.sharding to none on a CPU, or execution.devices to 1"
    )


def _is_compiled(model: Any) -> bool:
    from accelerate.utils import is_compiled_module

    return is_compiled_module(model)


def save(trainer: Any, model: Any, folder: Path) -> None:
    """Writes the whole model once, gathered from its shards where it has some. To be called in every process."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) if trainer.is_fsdp_enabled else None
    if state is None:
        model.float()  # what follows trains in fp32 or autocast
    if trainer.is_world_process_zero():
        # gathered, the two names of a tied weight hold a copy each
        whole = state and {name: state[name] for name in state if name not in model.all_tied_weights_keys}
        model.save_pretrained(folder, state_dict=whole)
