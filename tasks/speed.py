"""How a pre-training is executed: precision, attention kernel, compilation, micro-batch; chosen from facts and said."""

import os
import re
import shutil
import sysconfig
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tasks import parallel
from tasks.errors import UsageError
from tasks.settings import Execution

if TYPE_CHECKING:
    from models.training_step import Step

Chosen: TypeAlias = Literal["auto", "fp32", "bf16", "bf16-autocast"]
PRECISIONS = {"fp32": "fp32", "bf16": "bf16 weights", "bf16-autocast": "bf16 autocast"}
EAGER_TOKENS = 256  # up to which eager attention is the faster on a CPU in bf16, whose fused backward is slow there
# A cold compilation takes a CPU half a minute, which a million tokens win back; so far beyond it the gain is plain.
COMPILE_TOKENS = 5_000_000
ROOM = 0.8  # of the free memory that a step may take: the framework and the loading of data need some too


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
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.batch // self.micro_batch,
            "gradient_checkpointing": self.checkpointing,
            "gradient_checkpointing_kwargs": {"use_reentrant": False} if self.checkpointing else None,
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

    What recipe and execution give stands; the rest follows from the facts. Raises UsageError for a micro-batch that is
    no equal part of the batch, and for a compilation that was asked for where nothing can compile.
    """
    found = precision_of(facts, precision)
    attention = attention_of(model, facts, found, context)
    compiled, because = compilation(facts, execution, tokens)
    step = _step(found, attention, execution.checkpointing, context)
    return Settings(
        facts.device, found, attention, compiled, because, facts.threads, batch,
        micro_batch(model, step, facts, batch, execution.micro_batch), execution.checkpointing,
    )  # fmt: skip


def facts_of(execution: Execution) -> Facts:
    """The facts of this process, which has its threads already. Raises UsageError for a GPU that is not there."""
    import torch

    from tasks.training import _has_bf16

    if execution.device == "cuda" and not torch.cuda.is_available():
        raise UsageError(
            "execution.device is cuda, and torch sees no GPU: set it to auto or cpu, or install a driver and a torch "
            "that is built for CUDA"
        )
    on_cpu = execution.device == "cpu" or not torch.cuda.is_available()
    free = (
        _free_bytes() // (execution.processes * parallel.world()) if on_cpu else _free_on_gpu() // execution.processes
    )
    threads = torch.get_num_threads()
    return Facts("cpu" if on_cpu else "cuda", _has_bf16(on_cpu), not on_cpu or _compiles(), threads, int(free))


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


def micro_batch(model: Any, step: "Step", facts: Facts, batch: int, asked: int) -> int:
    """The most windows at once: the largest equal part of a batch whose step fits; 1 where none does.

    The whole batch where nobody can tell, as for a model that cannot take a step on tensors without content. Raises
    UsageError for an `asked` one that is no equal part.
    """
    parts = [size for size in range(batch, 0, -1) if batch % size == 0]
    if asked:
        if asked not in parts:
            raise UsageError(
                f"execution.micro_batch is {asked}, which does not divide the {batch} windows of a step into equal "
                f"parts: set it to one of {', '.join(map(str, parts))}, or to 0 for the most that fits"
            )
        return asked
    peak = _peak_of(model, step)
    try:
        fitting = (size for size in parts if peak(size, size < batch) <= ROOM * facts.free_bytes)
        return next(fitting, 1)
    except ValueError:
        return batch


def _peak_of(model: Any, step: "Step") -> Callable[[int, bool], int]:
    """Bytes of a step by its micro-batch: by formula where it knows the family, else by a step without content."""
    from models.fake_step import peak_of, timeline
    from models.memory_forms import training_peak, unknown

    known = not unknown(model.config, step)

    def peak(size: int, accumulated: bool) -> int:
        change = {"batch": size, "accumulated": accumulated}
        if known:
            return training_peak(model.config, step.model_copy(update=change)).total
        return peak_of(timeline(model.config, step.model_copy(update=change), kind=type(model))).total

    return peak


def step_of(settings: Settings, context: int) -> "Step":
    """The step as the memory plan knows it."""
    step = _step(settings.precision, settings.attention, settings.checkpointing, context)
    return step.model_copy(
        update={"batch": settings.micro_batch, "accumulated": settings.micro_batch < settings.batch}
    )  # fmt: skip


def _step(precision: str, attention: str, checkpointing: bool, context: int) -> "Step":
    from models.training_step import Step

    kernel = "auto" if attention == "no" else attention
    given = {"precision": precision, "attention": kernel, "checkpointing": checkpointing}
    return Step(**given, sequence=context, optimizer="muon")


def trainer_class(settings: Settings) -> Any:
    """Hugging Face's Trainer without what it loses in each step."""
    import torch
    from transformers import Trainer

    class LeanTrainer(Trainer):
        """accelerate's autocast copies the logits to fp32 after the loss, for nobody, and stays on the model's forward.

        The Trainer also counts all weights anew in each step, for a number that nobody reads.
        """

        def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> Any:
            autocast = settings.precision == "bf16-autocast"
            return torch.autocast(settings.device, torch.bfloat16, enabled=autocast, cache_enabled=cache_enabled)

        def floating_point_ops(self, inputs: Any) -> int:
            return 0

    return LeanTrainer


def _free_on_gpu() -> int:
    import torch

    return int(torch.cuda.mem_get_info()[0])


def _free_bytes() -> int:
    """Of the machine, or of the control group that holds this process."""
    try:
        return min(_available(), _left_in(Path("/sys/fs/cgroup")))
    except (OSError, ValueError):  # no such group, or "max"
        return _available()


def _left_in(group: Path) -> int:
    """Of a control group's limit. What it has read from files counts as used, and gives way when memory is needed."""
    limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
    cached = re.search(r"^inactive_file (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
    return limit - used + (int(cached[1]) if cached else 0)


def _available() -> int:
    """What Linux could hand out without swapping; elsewhere half of what is built in."""
    try:
        found = re.search(r"^MemAvailable:\s*(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return int(found[1]) * 1024 if found else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _compiles() -> bool:
    """Whether torch.compile can build its kernels for the CPU: it needs a C++ compiler and Python's headers."""
    compiler = os.environ.get("CXX") or "g++"
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    return any(map(shutil.which, (compiler, "clang++"))) and header.exists()
