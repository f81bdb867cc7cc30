"""`evergreen memory`: its options, and what they ask of a config."""

import argparse
from typing import Any

from flows import memory_table
from tasks.errors import UsageError

Rows = list[tuple[str, str]]
PRECISIONS = ("fp32", "bf16", "bf16-autocast", "int8", "int4")
OPTIMIZERS = ("adamw", "adamw-foreach", "adamw-8bit", "sgd", "muon")
SHARDINGS = ("none", "zero1", "zero2", "zero3", "fsdp")
SIZES = {"": 1, "b": 1, "k": 1e3, "kb": 1e3, "m": 1e6, "mb": 1e6, "g": 1e9, "gb": 1e9, "t": 1e12, "tb": 1e12,
         "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}  # fmt: skip
TRAINING = {"optimizer": "", "checkpointing": False, "accumulated": False, "lora": "", "embeddings": False,
            "sharding": "", "tokens": "", "exact": False}  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", metavar="CONFIG", required=True,
                        help="a folder with config.json, such a file, a registered model, or a dial: size:4, "
                             "llama:hidden=512,layers=8")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    parser.add_argument(
        "--batch",
        metavar="N",
        default="1",
        help="sequences in the micro-batch of a device, or served at once (default: %(default)s)",
    )
    parser.add_argument("--sequence", metavar="T", default="",
                        help="tokens of each (default: 1024, or as many as the model has positions)")  # fmt: skip
    parser.add_argument("--precision", choices=PRECISIONS, default="",
                        help="bf16-autocast: weights and states in fp32, products in bf16 (default: bf16-autocast; to "
                             "serve: bf16)")  # fmt: skip
    parser.add_argument("--devices", metavar="N", default="1", help="that share the work (default: %(default)s)")
    parser.add_argument(
        "--fits",
        metavar="BYTES",
        default="",
        help="find the largest micro-batch within so much memory of a device, as in 24GB",
    )
    parser.add_argument("--serve", action="store_true", help="plan serving: weights and KV cache")
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--exact", action="store_true", help="take a step on tensors without content, whatever the family")
    way.add_argument("--quick", action="store_true", help="take the closed form alone")
    _training_options(parser.add_argument_group("training"))
    _time_options(parser.add_argument_group("time"))


def memory(options: argparse.Namespace) -> tuple[Any, Rows]:
    """What `--json` prints, and the lines of the table. Raises UsageError for what cannot be planned."""
    from tasks import memory_plan

    if options.serve:
        _refuse_training(options)
    batch = _whole("--batch", options.batch, memory_plan.MOST_BATCH)
    sequence = _whole("--sequence", options.sequence, 10**7) if options.sequence else 0
    if batch * max(1, sequence) > memory_plan.MOST_TOKENS:
        raise UsageError(f"--batch {batch} of --sequence {sequence} is more than {memory_plan.MOST_TOKENS:,} tokens: "
                         "give fewer for one device")  # fmt: skip
    asked = memory_plan.Request(
        model=options.model,
        sequence=sequence,
        batch=batch,
        step=_step(options),
        serve=options.serve,
        fits=_bytes("--fits", options.fits) if options.fits else None,
        exact=options.exact,
        quick=options.quick,
        flops_per_second=_rate(options),
        tokens=_amount("--tokens", options.tokens, "D") if options.tokens else None,
    )
    found = memory_plan.answer(asked)
    return found, memory_table.rows(found)


def _training_options(group: Any) -> None:
    group.add_argument("--optimizer", choices=OPTIMIZERS, default="", help="(default: adamw, fused)")
    group.add_argument("--checkpointing", action="store_true", help="keep the inputs of layers, compute the rest again")
    group.add_argument("--accumulated", action="store_true", help="more than one micro-batch to a step")
    group.add_argument("--lora", metavar="RANK", default="", help="train adapters on all linear layers only")
    group.add_argument("--embeddings", action="store_true", help="with --lora: train the token embeddings, too")
    group.add_argument("--sharding", choices=SHARDINGS, default="", help="what the devices divide: states (zero1), and "
                       "gradients (zero2), and weights (zero3, fsdp) (default: none)")  # fmt: skip


def _time_options(group: Any) -> None:
    group.add_argument(
        "--peak", metavar="FLOPS", default="", help="FLOP/s of a device at best, or its name, as in A100"
    )
    group.add_argument("--utilisation", metavar="U", default="", help="the share of --peak that is reached, as in 0.4")
    group.add_argument("--tokens", metavar="D", default="", help="of the whole training, as in 300B")


def _step(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a step, but its batch and sequence."""
    lora = _whole("--lora", options.lora, 10**5) if options.lora else 0
    precision = options.precision or ("bf16" if options.serve else "bf16-autocast")
    if precision in ("int8", "int4") and not lora and not options.serve:
        raise UsageError(f"--precision {precision} cannot be trained: weights in {precision} stay as they are; give "
                         "--lora 16 to train adapters beside them, or --serve")  # fmt: skip
    if options.serve and precision == "bf16-autocast":
        raise UsageError("--precision bf16-autocast is of training; with --serve give fp32, bf16, int8 or int4")
    if options.embeddings and not lora:
        raise UsageError("--embeddings is of LoRA, which leaves them alone otherwise: give --lora 16 with it, or "
                         "leave it out to train all weights")  # fmt: skip
    devices = _whole("--devices", options.devices, 10**6)
    if options.sharding not in ("", "none") and devices == 1:
        raise UsageError(f"--sharding {options.sharding} needs more than one device: give --devices 8")
    return {
        "precision": precision, "lora": lora, "devices": devices, "optimizer": options.optimizer or "adamw",
        "checkpointing": options.checkpointing, "accumulated": options.accumulated,
        "sharding": options.sharding or "none", "embeddings": options.embeddings,
        "autocast": options.embeddings and precision in ("bf16", "int8", "int4"),  # what fine-tuning takes then
    }  # fmt: skip


def _refuse_training(options: argparse.Namespace) -> None:
    given = ["--" + name for name, empty in TRAINING.items() if getattr(options, name) != empty]
    if given:
        them = "it" if len(given) == 1 else "them"
        raise UsageError(f"{' and '.join(given)} cannot be used with --serve: leave {them} out, or plan the training "
                         "without --serve")  # fmt: skip


def _rate(options: argparse.Namespace) -> float | None:
    """FLOP/s of one device; None where nobody says it."""
    given = {name: getattr(options, name) for name in ("peak", "utilisation")}
    if not any(given.values()):
        if options.tokens:
            raise UsageError("--tokens asks for a time: give --peak and --utilisation too")
        return None
    if missing := [name for name, value in given.items() if not value]:
        raise UsageError(f"--{missing[0]} is missing: the time needs --peak and --utilisation")
    from models.budgets import peak_flops

    try:
        peak = peak_flops(options.peak)
    except ValueError as error:
        peak = _amount("--peak", options.peak, "C", str(error))
    share = _amount("--utilisation", options.utilisation)
    if share > 1:
        raise UsageError(f"--utilisation {options.utilisation} is more than all of it; give a share, as in 0.4")
    return peak * share


def _bytes(option: str, text: str) -> float:
    """Bytes as people write them: 24GB, 80 GiB, 2e10."""
    import re

    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?(?:e\d{1,2})?)\s*([a-z]*)\s*", text, re.IGNORECASE)
    unit = found and SIZES.get(found[2].lower())
    if not found or not unit or not 0 < float(found[1]) * unit < 1e18:
        raise UsageError(f"{option} {text!r} is no amount of memory; give one as in 24GB, 80GiB or 2e10")
    return float(found[1]) * unit


def _amount(option: str, text: str, symbol: str = "", else_: str = "") -> float:
    from math import isfinite

    from models.units import number

    try:
        value = number(text, symbol)
    except ValueError as error:
        raise UsageError(f"{option}: {else_ or error}") from None
    if not isfinite(value) or not 0 < value < 1e40:
        raise UsageError(f"{option} {text} must be above 0 and below 1e40")
    return value


def _whole(option: str, text: str, most: int) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= most:
        raise UsageError(f"{option} {text!r} is no whole number from 1 to {most:,}")
    return int(text)
