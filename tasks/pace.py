"""How fast a training goes: tokens per second, model FLOPs utilisation, time left.

What is computed here is how a step runs and not what it makes: it stays out of the code that decides a step's key.
"""

import logging
import time
from typing import Any

logger = logging.getLogger("evergreen.pace")
_said: set[str] = set()


class Pace:
    """Measures between two log entries; evaluations, samples and checkpoints are left out. It starts with a training.

    `tokens_per_step` and `flops_per_token` are those of all devices together, `peak` is their FLOP/s. What is None or 0
    gives no figure.
    """

    def __init__(self, *, tokens_per_step: float | None, flops_per_token: float | None, peak: float | None):
        self.tokens_per_step, self.flops_per_token, self.peak = tokens_per_step, flops_per_token, peak
        self.seconds = 0.0

    def start(self, step: int) -> None:
        self.first = self.logged = step
        self.started = self.mark = self.ended = time.monotonic()
        self.seconds = 0.0

    def step_ended(self) -> None:
        self.ended = time.monotonic()

    def paused(self) -> None:
        """What happened since the end of the last step was no training."""
        now = time.monotonic()
        self.mark += now - self.ended
        self.ended = now

    def entry(self, step: int, steps: int, *, trained: bool) -> dict[str, float]:
        """What a log entry says of the stretch since the one before, and of the time left, which is from the whole.

        `trained`: the entry follows a step at once, and not an evaluation. Only now a GPU has done what it was given.
        """
        if trained:
            self.step_ended()
        done, since = step - self.first, time.monotonic() - self.started
        if done <= 0:
            return {}
        left = {"seconds_left": round(since / done * (steps - step), 1)}
        stretch, seconds = step - self.logged, self.ended - self.mark
        if stretch <= 0 or seconds <= 0:
            return left
        self.logged, self.mark = step, self.ended
        self.seconds += seconds
        return {**left, **self._figures(stretch, seconds)}

    def summary(self) -> dict[str, float]:
        """The figures of all that was logged."""
        figures = self._figures(self.logged - self.first, self.seconds) if self.seconds else {}
        return {**figures, **({"peak_flops_per_second": self.peak} if self.peak else {})}

    def _figures(self, steps: int, seconds: float) -> dict[str, float]:
        if not self.tokens_per_step:
            return {}
        rate = steps * self.tokens_per_step / seconds
        figures = {"tokens_per_second": round(rate, 1)}
        if self.flops_per_token and self.peak:
            figures["mfu"] = round(self.flops_per_token * rate / self.peak, 4)
        return figures


def of(args: Any, bf16: bool, *, tokens_per_step: float | None, flops_per_token: float | None) -> Pace:
    """The pace of a training with these TrainingArguments, whose products are in `bf16` or in fp32."""
    best = peak(args, bf16) if flops_per_token else None
    return Pace(tokens_per_step=tokens_per_step, flops_per_token=flops_per_token, peak=best)


def follower(pace: Pace) -> Any:
    """The callback that tells it of steps and pauses; the last one added, so that what others do counts as a pause."""
    from transformers import TrainerCallback

    class Follower(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pace.start(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pace.step_ended()

        def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pace.paused()

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            pace.paused()

    return Follower()


def peak(args: Any, bf16: bool) -> float | None:
    """The FLOP/s of all devices of a training; None, with the reason in the log once, where they are not known."""
    from models.utilisation import device_peak

    try:
        each = device_peak(args.device, bf16=bf16)
    except ValueError as error:
        if str(error) not in _said:
            logger.warning("no MFU is logged: %s", error)
        _said.add(str(error))
        return None
    return each * args.world_size


def flops_per_token(model: Any, *, inputs: int, targets: int = 0) -> float | None:
    """As `models.utilisation.token_flops`; None, with the reason in the log once, for a model that is not known."""
    from models.utilisation import token_flops

    try:
        return token_flops(model, inputs=inputs, targets=targets)
    except ValueError as error:
        if str(error) not in _said:
            logger.warning("no MFU is logged: %s", error)
        _said.add(str(error))
        return None
