"""How a training is executed: precision, attention kernel, compilation, micro-batch; chosen from facts and said."""

import os
import shutil
import sysconfig
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tasks import micro_batch, parallel
from tasks.errors import UsageError
from tasks.settings import Execution

Chosen: TypeAlias = Literal["auto", "fp32", "bf16", "bf16-autocast"]
PRECISIONS = {"fp32": "fp32", "bf16": "bf16 weights", "bf16-autocast": "bf16 autocast"}
EAGER_TOKENS = 256  # up to which eager attention is the faster on a CPU in bf16, whose fused backward is slow there
# A cold compilation takes a CPU half a minute, which a million tokens win back; so far beyond it the gain is plain.
COMPILE_TOKENS = 5_000_000


@dataclass(frozen=True)
class Facts:
    """What of a machine and its load decides. `free_bytes` is this training's share of the memory."""

    device: str
    bf16: bool
    compiler: bool
    threads: int
    free_bytes: int


@dataclass(frozen=True)
class Settings:
    """How a training is executed. `batch` is one device's part of a step, `micro_batch` what it takes at once."""

    device: str
    precision: str
    attention: str
    compiled: bool
    because: str
    threads: int
    batch: int
    micro_batch: int
    checkpointing: bool

    def __str__(self) -> str:
        """One line for the log."""
        parts = (
            self.device, PRECISIONS[self.precision], f"{self.attention} attention", "fused AdamW and Muon",
            f"{'compiled' if self.compiled else 'no compile'} ({self.because})",
            *(["checkpointing"] if self.checkpointing else []),
            f"{self.threads} thread{'s' * (self.threads > 1)}", f"micro-batch {self.micro_batch} of {self.batch}",
        )  # fmt: skip
        return ", ".join(parts)

    def record(self) -> dict[str, Any]:
        """For the figures of a step, under `execution`: what differs there may explain other bits."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("because", "batch")}
        return {**kept, "bf16": self.precision != "fp32"}

    def arguments(self) -> dict[str, Any]:
        """For TrainingArguments. Autocast is the trainer's own (`trainer_class`), not accelerate's."""
        return {
            "bf16": False,
            **micro_batch.arguments(self.batch, self.micro_batch, checkpointing=self.checkpointing),
            "torch_compile": self.compiled,
        }

    def prepare(self, model: Any) -> Any:
        """The model with its weights in the precision and the attention kernel, before an optimizer sees it."""
        import torch

        if model._supports_sdpa:
            model.set_attn_implementation(self.attention)
        return model.to(torch.bfloat16 if self.precision == "bf16" else torch.float32)


def choose(
    model: Any, facts: Facts, execution: Execution, *, precision: Chosen, batch: int, context: int, tokens: int,
) -> Settings:  # fmt: skip
    """The settings for a model, `batch` windows of `context` tokens a step and `tokens` in all.

    What recipe and execution give stands; the rest follows from the facts. Raises UsageError for a compilation that was
    asked for where nothing can compile.
    """
    found = precision_of(facts, precision)
    attention = attention_of(model, facts, found, context)
    compiled, because = compilation(facts, execution, tokens)
    step = micro_batch.step_with(found, attention, execution.checkpointing, context)
    at_once = micro_batch.chosen(batch, execution.micro_batch, micro_batch.peak_of(model, step), facts.free_bytes)
    return Settings(
        facts.device, found, attention, compiled, because, facts.threads, batch, at_once, execution.checkpointing
    )


def facts_of(execution: Execution) -> Facts:
    """The facts of this process, which has its threads already. Raises UsageError for a GPU that is not there."""
    import torch

    from tasks.training import _has_bf16

    on_cpu = not parallel.on_gpu(execution.device)
    free, threads = micro_batch.free_bytes(execution, on_cpu=on_cpu), torch.get_num_threads()
    return Facts("cpu" if on_cpu else "cuda", _has_bf16(on_cpu), not on_cpu or _compiles(), threads, free)


def precision_of(facts: Facts, asked: Chosen) -> str:
    """bf16 autocast where the processor has the instructions: a CPU without them emulates it, many times slower."""
    if asked != "auto":
        return asked
    return "bf16-autocast" if facts.bf16 else "fp32"


def attention_of(model: Any, facts: Facts, precision: str, context: int) -> str:
    """The faster of the two kernels that every device has; `no` for a recurrent model."""
    from torch.nn import RNNBase

    if any(isinstance(module, RNNBase) for module in model.modules()):
        return "no"
    short_in_bf16 = facts.device == "cpu" and precision != "fp32" and context <= EAGER_TOKENS
    return "eager" if short_in_bf16 or not model._supports_sdpa else "sdpa"


def compilation(facts: Facts, execution: Execution, tokens: int) -> tuple[bool, str]:
    """Whether to compile, and why. Raises UsageError where it was asked for and no C++ compiler is there."""
    if execution.compile == "off":
        return False, "execution.compile is off"
    if execution.compile == "on" and not facts.compiler:
        raise UsageError(
            "execution.compile is on, and torch.compile finds no C++ compiler with Python's headers (c++ or $CXX, "
            "Python.h): install g++ and python3-dev, or set execution.compile to auto"
        )
    if execution.compile == "on":
        return True, "execution.compile is on"
    if not facts.compiler:
        return False, "no C++ compiler"
    if facts.device != "cpu":
        return True, "on a GPU"
    side = "below" if tokens < COMPILE_TOKENS else "from"
    return tokens >= COMPILE_TOKENS, f"{side} {COMPILE_TOKENS / 1e6:.1f} M tokens"


def trainer_class(settings: Settings, parent: Any = None) -> Any:
    """Hugging Face's Trainer, or another one built on it, without what it loses in each step."""
    import torch
    from transformers import Trainer

    above: Any = parent or Trainer

    class LeanTrainer(above):
        """accelerate's autocast copies the logits to fp32 after the loss, for nobody, and stays on the model's forward.

        The Trainer also counts all weights anew in each step, for a number that nobody reads.
        """

        def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
            autocast = settings.precision == "bf16-autocast"
            return torch.autocast(settings.device, torch.bfloat16, enabled=autocast, cache_enabled=cache_enabled)

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

    return LeanTrainer


def _compiles() -> bool:
    """Whether torch.compile can build its kernels for the CPU: it needs a C++ compiler and Python's headers."""
    compiler = os.environ.get("CXX") or "g++"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(map(shutil.which, (compiler, "clang++"))) and header.exists()
