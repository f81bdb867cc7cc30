"""What every Hugging Face and TRL trainer here shares: arguments, intact checkpoints, history, resume."""

import json
import math
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks import parallel
from tasks.errors import TrainingDivergedError
from tasks.progress import HISTORY

EXPORT = "export.json"  # what the model said when its training ended
COMPLETE = "complete.json"  # written last: a checkpoint folder without it, or of other sizes, is torn


def arguments(
    folder: Path, *, seed: int, device: str, steps: int, batch: int, learning_rate: float, **more: Any
) -> dict[str, Any]:
    """Arguments for any Trainer: bf16 autocast where the processor has it, quiet, resumable, nothing sent anywhere."""
    import torch

    quiet()
    on_cpu = device == "cpu" or (device == "auto" and not torch.cuda.is_available())
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
        "save_total_limit": 2,
        "logging_steps": max(1, min(10, steps // 20)),
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": not on_cpu,
    }
    return {**shared, **more}


def _has_bf16(on_cpu: bool) -> bool:
    """CPUs without bf16 instructions emulate it, many times slower than fp32."""
    import torch

    return torch.cpu._is_avx512_bf16_supported() if on_cpu else torch.cuda.is_bf16_supported()


def run(trainer: Any, folder: Path, *, tokens_per_step: float | None = None) -> dict[str, Any]:
    """Trains from the newest intact checkpoint, or from the start; returns the steps and how they were executed.

    Writes `log/history.jsonl`. Raises TrainingDivergedError when the loss stops being finite.
    """
    import torch
    import transformers

    quiet()
    checkpoints = folder / "checkpoints"
    with trainer.args.main_process_first(local=False):
        resume = newest_checkpoint(checkpoints)
    parallel.prepare(trainer, resume)
    trainer.add_callback(_recorder(folder / "log" / HISTORY, resume, tokens_per_step))
    trainer.pop_callback(transformers.PrinterCallback)
    started = time.time()
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    first = int(resume.name.split("-")[1]) if resume else 0
    return {
        "steps": trainer.state.global_step,
        "execution": {
            "training_seconds": round(time.time() - started, 1), "resumed_from": first,
            "threads": torch.get_num_threads(), "device": str(trainer.args.device), "bf16": trainer.args.bf16,
            "devices": parallel.world(), "wrapper": parallel.wrapper(trainer),
        },
    }  # fmt: skip


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


def newest_checkpoint(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written whole; torn ones are removed (the Trainer would die on them)."""
    found = sorted(checkpoints.glob("checkpoint-*"), key=lambda p: int(p.name.split("-")[1]), reverse=True)
    for folder in found:
        if _intact(folder):
            return folder
        shutil.rmtree(folder)
    return None


def _sizes(folder: Path) -> dict[str, int]:
    files = (p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != COMPLETE)
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in files}


def _intact(folder: Path) -> bool:
    try:
        return json.loads((folder / COMPLETE).read_text()) == _sizes(folder)
    except (OSError, ValueError):
        return False


def _recorder(history: Path, resume: Path | None, tokens_per_step: float | None) -> Any:
    from accelerate import PartialState
    from transformers import TrainerCallback

    class Recorder(TrainerCallback):
        """Writes one line per logged step, marks whole checkpoints, stops a run that diverged."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started, self.first = time.monotonic(), state.global_step
            if state.is_world_process_zero:
                history.parent.mkdir(parents=True, exist_ok=True)
                _keep_until(history, state.global_step if resume else 0)

        def on_log(
            self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any
        ) -> None:
            if not logs or "train_runtime" in logs:
                return
            for name in ("loss", "eval_loss"):
                if name in logs and not math.isfinite(logs[name]):
                    raise TrainingDivergedError(
                        f"{name} is {logs[name]} at step {state.global_step} of {state.max_steps} with learning rate "
                        f"{logs.get('learning_rate', args.learning_rate):.2e}; lower the recipe's learning_rate. "
                        f"Last good checkpoint: {newest_checkpoint(Path(args.output_dir)) or 'none'}"
                    )
            if state.is_world_process_zero:
                _append(history, {"step": state.global_step, "steps": state.max_steps, **self._speed(state), **logs})

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            PartialState().wait_for_everyone()
            if not state.is_world_process_zero:
                return
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            (folder / COMPLETE).write_text(json.dumps(_sizes(folder)))

        def _speed(self, state: Any) -> dict[str, float]:
            done, seconds = state.global_step - self.first, time.monotonic() - self.started
            if done <= 0:
                return {}
            speed = {"seconds_left": round(seconds / done * (state.max_steps - state.global_step), 1)}
            if tokens_per_step:
                speed["tokens_per_second"] = round(done * tokens_per_step / seconds, 1)
            return speed

    return Recorder()


def _append(path: Path, entry: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _keep_until(path: Path, step: int) -> None:
    """Drops the lines after `step`: a resumed run writes them again."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if _step_of(line) <= step]
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in lines))
        temporary.replace(path)


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:
        return math.inf


def history(folder: Path) -> list[dict[str, Any]]:
    """The logged steps of a training run, oldest first."""
    path = folder / "log" / HISTORY
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
