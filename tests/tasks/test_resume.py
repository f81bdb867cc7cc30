"""Killed with SIGKILL at a random moment and started again, a training ends with the bits of an uninterrupted one."""

import multiprocessing
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

import pytest
import torch

from tasks import checkpoints, training
from tests import resumable, short_training
from tests.resumable import Case, Result

SEEDS = range(20)
CASES = [Case(accumulation=accumulation, dropout=dropout) for accumulation in (1, 2) for dropout in (0.0, 0.1)]
FILES = (  # in the order in which they are written
    "config.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json",
    checkpoints.COMPLETE,
)  # fmt: skip


@dataclass(frozen=True)
class Ending:
    """How a seed's training ended, and what its kill had left."""

    result: Result
    killed: bool
    torn: bool


@pytest.fixture(scope="module")
def apart() -> ForkServerContext:
    """Processes that are forked from one that has imported everything and computed nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.resumable", "transformers.trainer", "accelerate", "tasks.training"])
    return context


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_training_killed_at_twenty_moments_ends_with_the_bits_of_a_whole_one(
    apart: ForkServerContext, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(2) as pool:
        whole = list(pool.map(lambda n: _whole(apart, tmp_path / f"whole-{n}", CASES[n]), range(len(CASES))))
        endings = list(pool.map(lambda seed: _killed(apart, tmp_path / f"seed-{seed}", seed), SEEDS))
    assert len({result.weights for result in whole}) == len(CASES)
    same = [ending.result.bits == whole[seed % len(CASES)].bits for seed, ending in zip(SEEDS, endings, strict=True)]
    assert same == [True] * 20
    assert sum(ending.killed for ending in endings) == 20
    assert sum(ending.torn for ending in endings) >= 5
    assert sum(ending.result.resumed_from > 0 for ending in endings) >= 10


def _whole(apart: ForkServerContext, folder: Path, case: Case) -> Result:
    process = _start(apart, folder, case)
    process.join()
    assert process.exitcode == 0
    return resumable.result(folder)


def _killed(apart: ForkServerContext, folder: Path, seed: int) -> Ending:
    case = CASES[seed % len(CASES)]
    process = _start(apart, folder, case)
    reached, delay = _moment(folder, case, random.Random(seed))
    while process.is_alive() and not reached():
        time.sleep(0.0005)
    time.sleep(delay)
    process.kill()
    process.join()
    torn = any(checkpoints.damage(each) for each in checkpoints.numbered(folder / "checkpoints"))
    return Ending(_whole(apart, folder, case), killed=process.exitcode == -signal.SIGKILL, torn=torn)


def _start(apart: ForkServerContext, folder: Path, case: Case) -> ForkServerProcess:
    folder.mkdir(exist_ok=True)
    process = apart.Process(target=resumable.finish_apart, args=(folder, case))
    process.start()
    return process


def _moment(folder: Path, case: Case, draw: random.Random) -> tuple[Callable[[], bool], float]:
    """When to kill, and how many seconds later: two of three times while a checkpoint is written, else in between."""
    if draw.random() < 2 / 3:
        step = draw.randrange(case.save_steps, case.steps, case.save_steps)
        path = folder / "checkpoints" / f"checkpoint-{step}" / draw.choice(FILES)
        return path.exists, 0.0
    history, step = folder / "log" / "history.jsonl", draw.randrange(1, case.steps - 1)
    return lambda: history.exists() and history.read_bytes().count(b"\n") >= step, draw.uniform(0, 0.02)


@pytest.mark.parametrize(("optimiser", "tolerance"), [("sgd", 1e-6), ("muon", 2e-3)])
def test_a_batch_of_eight_trains_like_eight_accumulated_batches_of_one(
    optimiser: str, tolerance: float, one_thread: None, tmp_path: Path
) -> None:
    """Muon makes its matrices orthogonal in bf16, so there a last bit of a gradient grows to one of bf16."""
    ends = {}
    for accumulation in (1, 8):
        case = Case(steps=6, batch=8 // accumulation, accumulation=accumulation)
        made = resumable.trainer(tmp_path / str(accumulation), case)
        if optimiser == "sgd":
            made.optimizer = torch.optim.SGD(made.model.parameters(), lr=0.5)
        training.run(made, tmp_path / str(accumulation))
        losses = [entry["loss"] for entry in training.history(tmp_path / str(accumulation)) if "loss" in entry]
        ends[accumulation] = losses, torch.cat([weight.detach().flatten() for weight in made.model.parameters()])
    assert len(ends[1][0]) == 6 and ends[1][0][-1] < ends[1][0][0]
    assert ends[8][0] == pytest.approx(ends[1][0], abs=tolerance)
    assert (ends[8][1] - ends[1][1]).abs().max() < tolerance


def test_what_ended_after_its_last_step_trains_no_further(tmp_path: Path) -> None:
    first, again = (short_training.train(tmp_path, save_steps=2, spare=3) for _ in range(2))
    assert (again.figures["steps"], again.figures["execution"]["resumed_from"]) == (4, 4)
    assert again.losses == first.losses and short_training.same_weights(again.model, first.model)
