"""What the processes of a training on several devices do in tests."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from tasks import parallel, pretrain, pretrain_worker, training
from tasks.artifacts import Tokenizer
from tasks.errors import TrainingDivergedError
from tasks.settings import Execution

ONE = Execution(threads=1, processes=1, device="cpu")
TWO = ONE.model_copy(update={"devices": 2, "threads": 2})
# 33 held-out windows: neither two processes nor batches of 32 divide them
RECIPE = pretrain.PretrainRecipe(
    size=1, tokens=24 * 4 * 32, context=32, batch=4, mixture={"encyclopaedia": 1.0}, validation_tokens=33 * 32,
    evaluations=2,
)  # fmt: skip
PRECISIONS = ("fp32", "bf16")
Losses = list[tuple[float, float]]


def tokens(folder: Path) -> Tokenizer:
    """A tokenizer and streams in which a model finds something to learn: each token tells much of the next."""
    from models.packing import write_stream
    from models.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a small river in the north"] * 9, vocabulary=300, context=64)
    tokenizer.save_pretrained(folder / "tokenizer")
    draw, lengths = np.random.default_rng(0), {"train": 4096, "validation": 1200}
    for split, length in lengths.items():
        (folder / "tokens" / split).mkdir(parents=True)
        steps = np.where(draw.random(length) < 0.8, 7, draw.integers(1, 250, length))
        write_stream(folder / "tokens" / split / "encyclopaedia.bin", np.cumsum(steps) % 250)
    counts = {split: {"encyclopaedia": length} for split, length in lengths.items()}
    summary = {"tokens": counts, "context": tokenizer.model_max_length}
    return Tokenizer(stage="tokenizer", name="bpe", key="t", digest="t", path=folder, summary=summary)


def train(source: Path, folder: Path, execution: Execution, *, bf16: bool) -> dict[str, Any]:
    """One pre-training in this process, or in each of those that run together, at a precision of our choice."""
    chosen = training._has_bf16
    training._has_bf16 = lambda on_cpu: bf16
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return pretrain_worker.train(source, folder, RECIPE, execution, None)
    finally:
        training._has_bf16 = chosen


def everything(source: Path, folder: Path) -> dict[str, Any]:
    """All that two processes are asked in one start of them."""
    places = {precision: folder / f"ddp-{precision}" for precision in PRECISIONS}
    found = {path.name: train(source, path, TWO, bf16=precision == "bf16") for precision, path in places.items()}
    return {
        **found,
        "addresses": _listening(),
        "silent": _silent_fallback(folder / "silent"),
        "adamw": _fully_sharded(_adamw),
        "muon": _fully_sharded(_muon),
        "trainer": _trainer_under_fsdp(folder / "fsdp"),
    }


def _listening() -> list[str]:
    """The addresses on which this process, its siblings and the agent above wait for connections."""
    import psutil

    agent = psutil.Process().parent()
    assert agent is not None
    family = [agent, *agent.children()]
    return [c.laddr.ip for process in family for c in process.net_connections("inet") if c.status == "LISTEN"]


class Windows:
    """A map-style dataset of random windows."""

    def __init__(self, count: int, seed: int):
        import torch

        self.ids = torch.randint(0, 96, (count, 32), generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"input_ids": self.ids[index], "labels": self.ids[index]}


def _trainer(model: Any, folder: Path, **more: Any) -> Any:
    from transformers import Trainer, TrainingArguments

    arguments = training.arguments(
        folder, seed=1, device="cpu", steps=4, batch=2, learning_rate=2e-2, **parallel.arguments(TWO), **more
    )
    held = TrainingArguments(**{**arguments, "bf16": True, "logging_steps": 1, "save_steps": 2})
    trainer = Trainer(model, held, train_dataset=Windows(20, 0))
    trainer.optimizer = _muon(model)
    return trainer


def _silent_fallback(folder: Path) -> tuple[str, int]:
    """What is said when the Trainer makes DDP of FSDP, and after how many steps."""
    trainer = _trainer(_model(), folder, **parallel.FSDP)
    try:
        training.run(trainer, folder)
    except Exception as error:
        return f"{type(error).__name__}: {error}", trainer.state.global_step
    return "nothing", trainer.state.global_step


def _trainer_under_fsdp(folder: Path) -> dict[str, Any]:
    """A Trainer's history under DDP, under FSDP2, and under FSDP2 gone on with from the middle; and what it wrote."""
    ddp, fsdp = folder / "ddp", folder / "fsdp"
    training.run(_trainer(_model(), ddp), ddp)
    figures, model = _run_under_fsdp(fsdp)
    found = {"execution": figures["execution"], "whole": training.history(fsdp), "ddp": training.history(ddp)}
    local = model.model.layers[0].self_attn.q_proj.weight.to_local().shape
    _first_removes(fsdp / "checkpoints" / "checkpoint-4")
    again, _ = _run_under_fsdp(fsdp)
    resumed = {"resumed": training.history(fsdp), "from": again["execution"]["resumed_from"]}
    return {**found, **resumed, "local": tuple(local)}


def _run_under_fsdp(folder: Path) -> tuple[dict[str, Any], Any]:
    model = _model()
    trainer = _trainer(model, folder, **parallel.FSDP)
    with _processors_as_gpus(trainer):
        figures = training.run(trainer, folder)
        parallel.save(trainer, model, folder / "model")
    return figures, model


@contextmanager
def _processors_as_gpus(trainer: Any) -> Iterator[None]:
    """accelerate shards on GPUs only; the rest of its FSDP2, and the Trainer's, works on a CPU as it is."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin

    shared, before = PartialState._shared_state, PartialState._shared_state["distributed_type"]
    plugin = FullyShardedDataParallelPlugin(**trainer.args.fsdp_plugin_args)
    plugin.set_mixed_precision("bf16")  # as accelerate does
    trainer.accelerator.state.fsdp_plugin, trainer.is_fsdp_enabled = plugin, True
    trainer.accelerator.state.distributed_type = shared["distributed_type"] = DistributedType.FSDP
    try:
        yield
    finally:
        shared["distributed_type"] = before


def _first_removes(folder: Path) -> None:
    import torch.distributed as dist

    dist.barrier()
    if dist.get_rank() == 0:
        shutil.rmtree(folder)
    dist.barrier()


def _model() -> Any:
    from models.architectures import build, dimensions

    return build(dimensions(1), vocabulary=96, context=32, special={"bos": 0, "eos": 1, "pad": 2}, seed=1)


def _adamw(model: Any) -> Any:
    import torch

    return torch.optim.AdamW(model.parameters(), lr=1e-2)


def _muon(model: Any) -> Any:
    from models.optimizers import MuonAdamW

    return MuonAdamW(model, lr=2e-2, embedding_lr=2e-2)


def _fully_sharded(optimizer: Callable[[Any], Any]) -> dict[str, Any]:
    """Six steps on the whole model here, and on its shards: losses and gradient norms, weights, shape of a shard."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_model_state_dict,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    plain, sharded = _model(), _model()
    alone = _steps(plain, optimizer(plain), rank=0, count=1)
    mesh = init_device_mesh("cpu", (2,))
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    held = optimizer(sharded)
    together = _steps(sharded, held, rank=int(os.environ["RANK"]), count=2)
    options = StateDictOptions(full_state_dict=True)
    weights = get_model_state_dict(sharded, options=options)
    state = get_optimizer_state_dict(sharded, held, options=options)
    set_optimizer_state_dict(sharded, held, state, options=options)
    apart = distance(plain.state_dict(), weights) / distance(plain.state_dict(), _model().state_dict())
    local = tuple(sharded.model.layers[0].self_attn.q_proj.weight.to_local().shape)
    return {"alone": alone, "together": together, "apart": apart, "local": local, "states": len(state["state"])}


def distance(a: Mapping[str, Any], b: Mapping[str, Any]) -> float:
    """Euclidean, over all weights."""
    assert a.keys() == b.keys()
    return sum(float((a[name] - b[name]).square().sum()) for name in a) ** 0.5


def _steps(model: Any, optimizer: Any, *, rank: int, count: int) -> Losses:
    import torch
    import torch.distributed as dist

    draw, seen = torch.Generator().manual_seed(0), []
    for _ in range(6):
        batch = torch.randint(0, 96, (4, 32), generator=draw).chunk(count)[rank]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach() / count
        if count > 1:
            dist.all_reduce(mean)
            norm = norm.full_tensor()
        seen.append((float(mean), float(norm)))
    return seen


def diverge_in_the_second() -> None:
    """The first process waits for the second, which fails."""
    import torch.distributed as dist

    if dist.get_rank() == 1:
        raise TrainingDivergedError("loss is nan at step 3")
    dist.barrier()
