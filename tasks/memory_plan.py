"""A plan of memory, FLOPs, time and disk for a config: read from a file, the registry or a dial; nothing is run."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import RegistryError, UsageError

if TYPE_CHECKING:
    from models.architectures import Shape
    from models.model_counts import Counts
    from models.training_step import Step

VOCABULARY = 4096  # of a dial that names none
DIALS = {
    "size": ("vocabulary",),
    "llama": ("hidden", "layers", "heads", "kv", "intermediate", "vocabulary"),
}
MOST_TOKENS = 10**9  # of a micro-batch
MOST_BATCH = 2**20


@dataclass(frozen=True)
class Request:
    """What is asked: the step or, with `serve`, the weights and `batch` conversations of `sequence` tokens."""

    model: str
    sequence: int
    batch: int
    step: Mapping[str, Any]
    serve: bool = False
    fits: float | None = None  # bytes of one device
    exact: bool = False
    quick: bool = False
    flops_per_second: float | None = None  # of one device, after utilisation
    tokens: float | None = None  # of the whole training


def answer(asked: Request) -> dict[str, Any]:
    """The plan as one document. Raises UsageError for what cannot be read, built or planned."""
    from models.training_step import Step

    started = time.perf_counter()
    config = config_of(asked.model)
    sequence = asked.sequence or min(1024, _longest(config) or 1024)
    _check_length(config, sequence)
    attention = "eager" if asked.model.startswith("size:") else "auto"
    try:
        step = Step(**{"attention": attention, **asked.step, "sequence": sequence, "batch": asked.batch})
        found = _serving(config, step, asked) if asked.serve else _training(config, step, asked)
    except (ValueError, ImportError) as error:
        raise UsageError(f"--model {asked.model}: {_first(error)}") from None
    head = {"model": asked.model, "family": config.model_type, "serve": asked.serve}
    return {**head, **found, "seconds": round(time.perf_counter() - started, 3)}


def config_of(reference: str) -> Any:
    """A folder with config.json, a config.json, a dial (size:N, llama:hidden=...) or a registered model."""
    kind = reference.partition(":")[0]
    if kind in DIALS and ":" in reference:
        return _dialled(kind, reference)
    path = Path(reference).expanduser()
    if not path.exists():
        path = _registered(reference)
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"--model {reference}: the folder has no config.json; give the folder of a model, or the file")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(file), trust_remote_code=False, local_files_only=True)
    except Exception as error:  # whatever is in the file: validators of each family raise their own
        raise UsageError(f"--model {reference}: {file} is no config of a model that transformers knows: "
                         f"{_first(error)}") from None  # fmt: skip


def _dialled(kind: str, reference: str) -> Any:
    """The config of a dial; what it leaves out follows from the width, as in models/architectures.py."""
    from transformers import LlamaConfig

    from models.architectures import HEAD, Dimensions, dimensions

    given = _numbers(kind, reference)
    if kind == "size":
        shape, kv = dimensions(given["size"]), 0
    else:
        hidden, heads = given["hidden"], given.get("heads", max(1, given["hidden"] // HEAD))
        wide = given.get("intermediate", max(32, round(hidden * 8 / 3 / 32) * 32))
        shape = Dimensions(hidden=hidden, layers=given["layers"], heads=heads, intermediate=wide)
        kv = given.get("kv", 0)
    kv = kv or shape.heads
    if shape.hidden % shape.heads or shape.heads % kv:
        raise UsageError(f"--model {reference}: hidden {shape.hidden} must be a multiple of heads {shape.heads}, "
                         f"and heads of kv {kv}")  # fmt: skip
    return LlamaConfig(
        vocab_size=given.get("vocabulary", VOCABULARY), hidden_size=shape.hidden,
        intermediate_size=shape.intermediate, num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=kv, max_position_embeddings=MOST_TOKENS, tie_word_embeddings=True,
    )  # fmt: skip


def _numbers(kind: str, reference: str) -> dict[str, int]:
    found: dict[str, int] = {}
    example = "size:4" if kind == "size" else "llama:hidden=512,layers=8"
    for word in reference.partition(":")[2].split(","):
        name, equals, value = (part.strip() for part in word.partition("="))
        if kind == "size" and not equals and not found:
            name, value = "size", name
        known = (*DIALS[kind], "size") if kind == "size" else DIALS[kind]
        if name not in known or name in found or not value.isdecimal() or not 0 < int(value) <= 10**7:
            raise UsageError(f"--model {reference}: {word!r} is no dial; give whole numbers above 0, as in {example}; "
                             f"there are {', '.join(DIALS[kind])}")  # fmt: skip
        found[name] = int(value)
    missing = {"size": ("size",), "llama": ("hidden", "layers")}[kind]
    if any(name not in found for name in missing):
        raise UsageError(f"--model {reference} needs {' and '.join(missing)}, as in {example}")
    return found


def _registered(reference: str) -> Path:
    from tasks.catalogue import resolve

    try:
        return resolve(reference)
    except RegistryError as error:
        raise UsageError(
            f"--model {reference} is no folder with a config.json, no such file, no dial (size:4, "
            f"llama:hidden=512,layers=8), and of the registered models {error}"
        ) from None


def _training(config: Any, step: "Step", asked: Request) -> dict[str, Any]:
    import torch

    from models.model_counts import counts, disk_bytes, training_flops
    from models.training_step import assembled

    with torch.device("meta"):
        found = counts(assembled(config, step), config)
    peak_at, method = _method(config, asked)
    peak = peak_at(step)
    per_token = training_flops(config, found, step)
    return {
        "step": step.model_dump(), "parameters": _parameters(found), "method": method,
        "peak_bytes": peak.total, "parts": peak.parts,
        "flops": {"per_token": per_token, "per_step": per_token * step.batch * step.sequence * step.devices},
        "time": _time(per_token, step, asked), "disk_bytes": disk_bytes(found, step),
        "fits": None if asked.fits is None else _largest(config, step, asked),
    }  # fmt: skip


def _serving(config: Any, step: "Step", asked: Request) -> dict[str, Any]:
    import torch

    from models.model_counts import counts, serving_flops, weight_bytes
    from models.serving_memory import serving_peak
    from models.training_step import assembled

    with torch.device("meta"):
        found = counts(assembled(config, step).requires_grad_(False), config)
    peak = serving_peak(config, found, step)
    per_token = serving_flops(config, found, step.sequence)
    rate = asked.flops_per_second
    return {
        "step": step.model_dump(include={"batch", "sequence", "precision"}), "parameters": _parameters(found),
        "method": "closed form", "peak_bytes": peak.total, "parts": peak.parts, "flops": {"per_token": per_token},
        "time": None if rate is None else {"tokens_per_second_at_most": rate / per_token},
        "disk_bytes": {"weights": weight_bytes(found, step.precision)},
        "fits": None if asked.fits is None else _fit(asked.fits, lambda batch: serving_peak(
            config, found, step.model_copy(update={"batch": batch})).total),
    }  # fmt: skip


def _method(config: Any, asked: Request) -> tuple[Callable[["Step"], Any], str]:
    """How peaks are found: the closed form where it knows the family and the step, else a step on fake tensors."""
    from models.memory_forms import unknown

    step = {"batch": asked.batch, "sequence": asked.sequence or 1, **asked.step}
    why = unknown(config, _step(step))
    if asked.quick and why:
        raise ValueError(f"the closed form does not know {why}: leave --quick out, and a step on tensors without "
                         "content finds the peak")  # fmt: skip
    if asked.exact or why:
        return lambda step: _exact(config, step), "fake step"
    return lambda step: _closed(config, step), "closed form"


def _step(given: Mapping[str, Any]) -> "Step":
    from models.training_step import Step

    return Step(**given)


def _exact(config: Any, step: "Step") -> Any:
    from models.fake_step import peak_of, timeline

    return peak_of(timeline(config, step))


def _closed(config: Any, step: "Step") -> Any:
    from models.memory_forms import training_peak

    return training_peak(config, step)


def _largest(config: Any, step: "Step", asked: Request) -> dict[str, Any]:
    """The largest micro-batch: bisection with the quick way, then steps on fake tensors until one fits."""
    assert asked.fits is not None
    peak_at, method = _method(config, asked)
    budget = asked.fits

    def at(batch: int) -> "Step":
        return step.model_copy(update={"batch": batch})

    found = _fit(budget, lambda batch: peak_at(at(batch)).total)
    if method == "fake step" or asked.quick:
        return {**found, "checked": method == "fake step"}
    batch, exact = found["batch"], {}

    def true(batch: int) -> int:
        if batch not in exact:
            exact[batch] = _exact(config, at(batch)).total
        return exact[batch]

    while batch > 0 and true(batch) > budget:
        batch -= max(1, round(batch * 0.01))
    while batch < MOST_BATCH and true(batch + 1) <= budget:
        batch += 1
    return {"bytes": budget, "batch": batch, "peak_bytes": true(batch) if batch else true(1), "checked": True}


def _fit(budget: float, peak_at: Callable[[int], int]) -> dict[str, Any]:
    """The largest batch whose peak is within the budget; 0, with the peak of 1, where none is."""
    low, high = 0, 1
    while high <= MOST_BATCH and peak_at(high) <= budget:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if peak_at(middle) <= budget else (low, middle)
    return {"bytes": budget, "batch": low, "peak_bytes": peak_at(max(1, low)), "checked": False}


def _time(per_token: int, step: "Step", asked: Request) -> dict[str, Any] | None:
    rate = asked.flops_per_second
    if rate is None:
        return None
    seconds = per_token * step.batch * step.sequence / rate
    found = {"step_seconds": seconds, "tokens_per_second": step.devices * rate / per_token}
    if asked.tokens:
        found["training_seconds"] = asked.tokens / found["tokens_per_second"]
    return found


def _parameters(found: "Counts") -> dict[str, int]:
    return {"total": found.total, "trained": found.trained, "multiplied": found.multiplied}


def _longest(config: Any) -> int | None:
    """The most positions that a config names; None where it names none."""
    return getattr(config.get_text_config(), "max_position_embeddings", None)  # maps what a family calls otherwise


def _check_length(config: Any, sequence: int) -> None:
    longest = _longest(config)
    if longest and sequence > longest:
        raise UsageError(f"--sequence {sequence} is more than the {longest:,} positions of the model: give {longest} "
                         "or fewer, or a config with more")  # fmt: skip


def _first(error: Exception) -> str:
    """The first sentence of what a library says, without what follows on other lines."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__


def training_peak(shape: "Shape", vocabulary: int, *, context: int, batch: int) -> int | None:
    """The most bytes that a step of pre-training takes: a dial's model, Muon, bf16 autocast, eager attention.

    None for an LSTM, whose kernels tell nobody what they work in.
    """
    import torch
    import transformers

    from models import architectures
    from models.fake_step import peak_of, timeline
    from models.memory_forms import unknown
    from models.training_step import Step

    transformers.utils.logging.set_verbosity_error()
    special = {"bos": 0, "eos": 0, "pad": 1}
    config = architectures.config_of(shape, vocabulary=vocabulary, context=context, special=special)
    step = Step(batch=batch, sequence=context, precision="bf16-autocast", optimizer="muon", attention="eager")
    if not unknown(config, step):
        return _closed(config, step).total
    with torch.device("meta"):
        kind = type(architectures.build(shape, vocabulary=vocabulary, context=context, special=special, seed=0))
    try:
        return peak_of(timeline(config, step, kind=kind)).total
    except ValueError:
        return None
