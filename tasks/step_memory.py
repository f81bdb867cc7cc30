"""The memory of a training's step: forecast before it runs, measured while it runs, and one held against the other."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks import micro_batch, notes

if TYPE_CHECKING:
    from models.training_step import Step
    from tasks.speed import Settings

WARM = 2  # steps before the one that is measured: the states exist then
INDEX = 8  # bytes of an id
Foreseen = Callable[[int], tuple[int | None, int]]  # of a step by its number: the most bytes, those of its inputs


def forecast(model: Any, step: "Step") -> int | None:
    """The most bytes that tensors will take in a step, from one on tensors without content.

    `model` without its adapter, which the step names. None for a model that cannot take such a step: one that decides
    by content, or reads other inputs than tokens.
    """
    from models.fake_step import peak_of, timeline

    try:
        return peak_of(timeline(model.config, step, kind=type(model))).total
    except (ValueError, TypeError):
        return None


def of_windows(model: Any, settings: "Settings", *, context: int, documents: bool = False) -> Foreseen:
    """What a pre-training foresees: of all its steps the same. `documents`: positions start anew within a window."""
    step = micro_batch.step_of(settings, context).model_copy(update={"documents": documents})
    peak, held = forecast(model, step), loaded(settings, context)
    return lambda _: (peak and peak + held - INDEX * step.batch * context, held)


def loaded(settings: "Settings", context: int) -> int:
    """Bytes of inputs and labels of a whole step and of the micro-batch that the loader reads ahead."""
    return 2 * INDEX * (settings.batch + settings.micro_batch) * context


def watch(model: Any, folder: Path, foreseen: Foreseen, *, device: str) -> Any:
    """A callback that measures the third step of a training and notes it beside what was foreseen of it.

    `figures()` has both afterwards.
    """
    from transformers import TrainerCallback

    class Watched(TrainerCallback):
        """On a CPU by torch's profiler, for one step; it reads nothing and changes no bit."""

        measured: int | None = None
        stop: Callable[[], int] | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.at = state.global_step + WARM
            self.expected, self.held = foreseen(self.at)

        def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
            if state.global_step == self.at:
                self.stop = _on_gpu() if device == "cuda" else _on_cpu(model, optimizer.optimizer, self.held)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.stop is not None:
                self.measured, self.stop = self.stop(), None
                if state.is_world_process_zero:
                    notes.note(folder, sentence(self.expected, self.measured))

        def figures(self) -> dict[str, Any]:
            """For the figures of a step, under `execution`; empty where the training had fewer than three steps."""
            return {"memory": compared(self.expected, self.measured)} if self.measured is not None else {}

    return Watched()


def compared(expected: int | None, measured: int) -> dict[str, Any]:
    """Both in bytes, and the error of the forecast as a share of what was measured."""
    if expected is None:
        return {"measured_bytes": measured}
    return {"forecast_bytes": expected, "measured_bytes": measured, "error": expected / measured - 1}


def sentence(expected: int | None, measured: int) -> str:
    if expected is None:
        return f"memory measured {measured / 1e6:.1f} MB; no forecast: the model takes no step on empty tensors"
    error = expected / measured - 1
    return f"memory forecast {expected / 1e6:.1f} MB, measured {measured / 1e6:.1f} MB ({error:+.1%})"


def _on_cpu(model: Any, optimizer: Any, held: int) -> Callable[[], int]:
    from models.measured_step import Watch, standing

    counting = Watch()
    counting.start(standing(model, optimizer) + held)
    return counting.stop


def _on_gpu() -> Callable[[], int]:
    import torch

    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated
