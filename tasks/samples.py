"""A table of samples as training proceeds: what the model says at every evaluation, in `log/samples.jsonl`.

It changes nothing of what is trained, so the code below and models/samples.py stay out of a step's key.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.live import SAMPLES

if TYPE_CHECKING:
    import numpy as np

    from models.objectives import Examples
    from models.samples import Objective


def continuing(folder: Path, tokenizer: Any, documents: "Mapping[str, np.ndarray]", *, begin: int, longest: int) -> Any:
    """The callback for a causal model, which continues the first documents of each stream of tokens by its name.

    `begin` is the token that begins a document in training.
    """
    from models.samples import openings

    opened = openings(documents, tokenizer.eos_token_id)
    prompts = [[begin, *(token for token in each["input_ids"] if token != begin)] for each in opened]
    return sampler(folder, tokenizer, [{"input_ids": prompt} for prompt in prompts], longest=longest)


def filling(
    folder: Path, tokenizer: Any, held_out: "Examples", *, longest: int, objective: "Objective", gaps: Sequence[int],
) -> Any:  # fmt: skip
    """The callback for a model that fills gaps: those of the first held-out windows."""
    from models.samples import PROMPTS

    examples = [held_out[i] for i in range(min(PROMPTS, len(held_out)))]
    return sampler(folder, tokenizer, examples, longest=longest, objective=objective, gaps=gaps)


def sampler(
    folder: Path, tokenizer: Any, examples: Sequence[Mapping[str, Any]], *, longest: int,
    objective: "Objective" = "causal", gaps: Sequence[int] = (),
) -> Any:  # fmt: skip
    """The callback of a Trainer that writes them; `examples`, `longest` and `gaps` as in `models.samples.samples`.

    Every process of a training samples, since a model that is divided among them answers only to all; the first writes.
    """
    from transformers import TrainerCallback

    from models.samples import samples

    path = folder / "log" / SAMPLES

    class Sampler(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            lines = _lines_until(path, state.global_step)
            self.last = _step_of(lines[-1]) if lines else -1
            if state.is_world_process_zero and path.exists():
                _rewrite(path, lines)

        def on_evaluate(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
            if state.global_step == self.last:  # the last step is evaluated once more when the training has ended
                return
            self.last = state.global_step
            made = samples(model, tokenizer, objective, examples, longest=longest, gaps=gaps)
            if state.is_world_process_zero:
                _append(path, [{"step": state.global_step, **sample._asdict()} for sample in made])

    return Sampler()


def written(folder: Path) -> list[dict[str, Any]]:
    """The rows of a training by step, oldest first: `step`, `prompt`, `kind`, `text`; none where it made none."""
    path = folder / "log" / SAMPLES
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(row) + "\n" for row in rows))


def _lines_until(path: Path, step: int) -> list[str]:
    """Without the rows after `step`, and a torn one: a resumed training writes them again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [line for line in lines if _step_of(line) <= step]


def _rewrite(path: Path, lines: Sequence[str]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return float("inf")
