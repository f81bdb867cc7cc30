"""How long two models take to answer, side by side: a measurement of a machine, never part of a step's identity."""

import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tasks import workers
from tasks.rival import ITEMS
from tasks.rows import Row, read
from tasks.settings import Execution


class Latency(BaseModel):
    """Seconds an answer of two models on one machine, and the ratio of both."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    against: str = Field(description="Which model the candidate was measured beside: champion, or a row.")
    candidate: float = Field(description="Seconds an answer, the median round.")
    rival: float = Field(description="Likewise.")
    ratio: float = Field(description="The median over the rounds of candidate over rival.")
    low: float
    high: float
    rounds: int
    answers: int = Field(description="Of each model in each round.")
    device: str
    threads: int

    @property
    def sentence(self) -> str:
        return (
            f"{1000 * self.candidate:.1f} ms an answer against {1000 * self.rival:.1f} ms, {self.rounds} rounds of "
            f"{self.answers} answers on {self.device}, {self.threads} thread{'s' * (self.threads > 1)}"
        )


def measure_latency(
    candidate: Path,
    rival: Path,
    report: Path,
    execution: Execution,
    *,
    against: str = "champion",
    max_new_tokens: int = 24,
    rounds: int = 11,
    answers: int = 12,
) -> Latency:
    """Lets both model folders answer the first items of a report by turns, one at a time, in one worker process."""
    rows = list(islice(read(report / ITEMS), answers))
    seconds, device = workers.call(
        _measure, (candidate, rival), rows, max_new_tokens, rounds, execution.device,
        threads=execution.threads_each, processes=execution.processes, label="latency",
    )  # fmt: skip
    return summary(seconds, against=against, answers=len(rows), device=device, threads=execution.threads_each)


def summary(
    seconds: Sequence[tuple[float, float]], *, against: str, answers: int, device: str, threads: int
) -> Latency:
    """From the seconds that candidate and rival took in each round: the median ratio with its bootstrap interval.

    The rounds are paired, so what slows the machine for a while slows both; a median bears a few spoilt rounds.
    """
    import numpy as np

    taken = np.asarray(seconds, np.float64)
    ratios = taken[:, 0] / taken[:, 1]
    draws = np.random.default_rng(0).choice(ratios, (2000, ratios.size))
    low, high = np.quantile(np.median(draws, axis=1), [0.025, 0.975])
    mine, others = (np.median(taken, axis=0) / answers).tolist()
    return Latency(
        against=against, candidate=mine, rival=others, ratio=float(np.median(ratios)), low=float(low),
        high=float(high), rounds=ratios.size, answers=answers, device=device, threads=threads,
    )  # fmt: skip


def _measure(
    folders: tuple[Path, Path], rows: list[Row], max_new_tokens: int, rounds: int, device: str
) -> tuple[list[tuple[float, float]], str]:
    """The seconds of each round; a round before them warms up, and who is first changes from answer to answer."""
    from models.tokenizer import asked
    from tasks.generation import load, pick_device

    models, chats = [load(folder, device) for folder in folders], [asked(row) for row in rows]
    taken = []
    for number in range(rounds + 1):
        seconds = [0.0, 0.0]
        for at, chat in enumerate(chats):
            for which in (0, 1) if (number + at) % 2 else (1, 0):
                seconds[which] += _timed(*models[which], chat, max_new_tokens)
        taken.append((seconds[0], seconds[1]))
    return taken[1:], pick_device(device)


def _timed(model: Any, tokenizer: Any, chat: list[dict[str, str]], max_new_tokens: int) -> float:
    from models.generation import answer

    started = time.perf_counter()
    answer(model, tokenizer, [chat], max_new_tokens=max_new_tokens)
    return time.perf_counter() - started
