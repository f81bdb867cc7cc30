"""What every Hugging Face and TRL trainer here shares: arguments, history, resume, and an end to what diverges."""

import json
import math
import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tasks import checkpoints, notes, pace, parallel
from tasks.errors import SourceError, TrainingDivergedError
from tasks.progress import HISTORY

EXPORT = "export.json"  # what the model said when its training ended
RISE = 1.0  # nats above the first logged loss
PATIENCE = 3  # log entries in a row


def arguments(
    folder: Path, *, seed: int, device: str, steps: int, batch: int, learning_rate: float, **more: Any
) -> dict[str, Any]:
    """Arguments for any Trainer: bf16 autocast where the processor has it, quiet, resumable, nothing sent anywhere."""
    quiet()
    on_cpu = not parallel.on_gpu(device)
    shared = {
        "output_dir": str(folder / "checkpoints"),
        "seed": seed,
        "max_steps": steps,
        "per_device_train_batch_size": batch,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "linear",
        "warmup_steps": max(1, round(0.05 * steps)),
        "adam_beta2": 0.98,
        "weight_decay": 0.01,
        "max_grad_norm": 1.0,
        "bf16": _has_bf16(on_cpu),
        "use_cpu": on_cpu,
        "gradient_checkpointing": False,
        "save_strategy": "steps",
        "save_steps": max(1, steps // 8),
        "save_total_limit": None,  # `checkpoints.rotate` instead
        "logging_steps": max(1, min(10, steps // 20)),
        "logging_nan_inf_filter": False,  # it would log the mean of the losses before in place of a NaN
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
    }
    return {**shared, **more}


def _has_bf16(on_cpu: bool) -> bool:
    """Processors without bf16 instructions emulate it, many times slower than fp32."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported(including_emulation=False)


def without_control_tokens(
    rows: list[dict[str, Any]], tokenizer: Any, folder: Path, *,
    messages: Callable[[dict[str, Any]], Sequence[Mapping[str, str]]],
) -> list[dict[str, Any]]:  # fmt: skip
    """The rows without the letters of a control token in their messages: TRL would train on the token in their place.

    Notes how many are left out. Raises SourceError when none is left.
    """
    from models.tokenizer import control_tokens, held

    controls = control_tokens(tokenizer)
    tokens = [held(controls, messages(row)) for row in rows]
    kept = [row for row, token in zip(rows, tokens, strict=True) if not token]
    if len(kept) == len(rows):
        return rows
    row, token = next((row, token) for row, token in zip(rows, tokens, strict=True) if token)
    first = f"the letters of a control token, the first of them {row['id']!r} those of {token}"
    if not kept:
        raise SourceError(f"all {len(rows)} rows hold {first}: take such letters out of the data")
    notes.note(folder, f"left out {len(rows) - len(kept)} of {len(rows)} rows: they hold {first}")
    return kept


def run(
    trainer: Any, folder: Path, *, tokens_per_step: float | None = None, flops_per_token: float | None = None,
    bf16: bool | None = None, likelihood: bool = True,
) -> dict[str, Any]:  # fmt: skip
    """Trains from the newest intact checkpoint, or from the start; returns the steps and how they were executed.

    Writes `log/history.jsonl`, with the MFU where `flops_per_token` are given; `bf16` says that products are in it
    where the trainer's arguments do not. Raises StoreError when the disk does not take a checkpoint, and
    TrainingDivergedError when loss, gradient or weights stop being finite or, for a loss that is a `likelihood` in
    nats, by `last_good_step`.
    """
    import torch
    import transformers

    quiet()
    saved = folder / "checkpoints"
    with trainer.args.main_process_first(local=False):
        resume = checkpoints.newest(saved)
    parallel.prepare(trainer, resume)
    in_bf16 = trainer.args.bf16 if bf16 is None else bf16
    speed = pace.of(trainer.args, in_bf16, tokens_per_step=tokens_per_step, flops_per_token=flops_per_token)
    trainer.add_callback(_recorder(folder / "log" / HISTORY, speed, likelihood))
    trainer.add_callback(pace.follower(speed))
    trainer.add_callback(_stop_at_the_end())
    trainer.pop_callback(transformers.PrinterCallback)
    started = time.time()
    with checkpoints.guarded(saved), suppress(_AlreadyTrainedError):
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    trainer.is_in_train = False
    return {
        "steps": trainer.state.global_step,
        "execution": {
            "training_seconds": round(time.time() - started, 1),
            "resumed_from": checkpoints.step_of(resume) if resume else 0,
            "threads": torch.get_num_threads(), "device": str(trainer.args.device), "bf16": in_bf16,
            "micro_batch": trainer.args.per_device_train_batch_size,
            "checkpointing": trainer.model.is_activation_checkpointing,
            "devices": parallel.world(), "wrapper": parallel.wrapper(trainer), **speed.summary(),
        },
    }  # fmt: skip


def last_good_step(losses: Sequence[tuple[int, float]]) -> int | None:
    """The last logged step before the training ran away; None while it has not. Takes (step, loss in nats), all so far.

    It has when the loss lies more than 1 nat above the first logged one in three log entries in a row: the right token
    is less than 1/e as likely as it was at the start. One bad batch or the bump of a warm-up passes.
    """
    high = [loss > losses[0][1] + RISE for _, loss in losses[-PATIENCE:]]
    return losses[-PATIENCE - 1][0] if len(losses) > PATIENCE and all(high) else None


def quiet() -> None:
    """No bars and no warnings of the libraries: what a person needs is in the history."""
    import datasets
    import transformers

    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()


def record_export(trainer: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], folder: Path) -> None:
    """`export.json`: what the trained model says, before it is merged and saved. Rows hold `prompt` and `answer`.

    In the precision of its weights, as an export runs, and not in the bf16 that accelerate wraps its forward in.
    """
    from models.exported import record

    model = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    said = json.dumps(record(model, tokenizer, rows), ensure_ascii=False, indent=1)
    (folder / EXPORT).write_text(said + "\n", encoding="utf-8")


def finish(folder: Path) -> None:
    """Removes what only a resume needs."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


class _AlreadyTrainedError(Exception):
    """The checkpoint is of the last step."""


def _stop_at_the_end() -> Any:
    """The callback, the last one, that ends what has nothing left to train.

    The Trainer looks for the end behind a step: gone on with from the last one, it trains one more where data are left.
    """
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step >= state.max_steps:
                raise _AlreadyTrainedError

    return Stop()


def _recorder(history: Path, speed: pace.Pace, likelihood: bool) -> Any:
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        """Writes one line per logged step, seals whole checkpoints, stops a run that diverged."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.rate = args.learning_rate
            lines = _lines_until(history, state.global_step)
            self.losses = [(entry["step"], entry["loss"]) for entry in map(json.loads, lines) if "loss" in entry]
            if state.is_world_process_zero:
                _rewrite(history, lines)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
        ) -> None:
            if not logs or "train_runtime" in logs:
                return
            self.rate = logs.get("learning_rate", self.rate)
            for name in ("loss", "eval_loss", "grad_norm"):
                if not math.isfinite(logs.get(name, 0.0)):
                    raise _diverged(f"{name} is {logs[name]}", args, state, self.rate, before=state.global_step)
            if state.is_world_process_zero:
                now = speed.entry(state.global_step, state.max_steps, trained="loss" in logs)
                at = {"step": state.global_step, "steps": state.max_steps, "time": round(time.time(), 3)}
                _append(history, {**at, **now, **logs})
            if "loss" in logs:
                self._watch(args, state, logs["loss"])

        def _watch(self, args: Any, state: Any, loss: float) -> None:
            self.losses.append((state.global_step, loss))
            good = last_good_step(self.losses) if likelihood else None
            if good is not None:
                first = f"{RISE:g} nat above its first value, {self.losses[0][1]:.3f}"
                what = f"loss is {loss:.3f} and lies more than {first}, in {PATIENCE} log entries in a row,"
                raise _diverged(what, args, state, self.rate, before=good + 1)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            PartialState().wait_for_everyone()
            if not state.is_world_process_zero:
                return
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            weight = checkpoints.non_finite(folder)
            if weight:
                what = f"{weight} has values that are not finite"
                raise _diverged(what, args, state, self.rate, before=state.global_step)
            if history.exists():
                checkpoints.sync(history)
            checkpoints.seal(folder)
            checkpoints.rotate(folder)

    return Recorder()


def _diverged(what: str, args: Any, state: Any, rate: float, *, before: int) -> TrainingDivergedError:
    # the first of several processes alone: to look is to remove damaged ones
    good = checkpoints.newest(Path(args.output_dir), before=before) if state.is_world_process_zero else None
    return TrainingDivergedError(
        f"{what} at step {state.global_step} of {state.max_steps} with learning rate {rate:.2e}. Last good checkpoint: "
        f"{good or 'none'}. Run again with the same recipe, it diverges at the same step: lower the recipe's "
        "learning_rate, which makes it another run."
    )


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _lines_until(path: Path, step: int) -> list[str]:
    """The lines up to `step`: a resumed run writes those after it again."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    return [line for line in lines if _step_of(line) <= step]


def _rewrite(path: Path, lines: Sequence[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    temporary.replace(path)


def _step_of(line: str) -> float:
    """Infinity for what is no whole entry."""
    try:
        return json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
        return math.inf


def history(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a training run, oldest first."""
    path = folder / "log" / HISTORY
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
