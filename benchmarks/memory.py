"""The peak memory of real training steps beside what finds it beforehand: error and seconds of each way.

python benchmarks/memory.py [--savings | --bases] [--json]

Truth is the third step of a CPU run, every allocation counted. `accelerate` is what `accelerate estimate-memory` prints
for training with Adam: its own functions, given the model on meta. --savings measures one model with one thing changed
at a time, memory and tokens per second; --bases trains LoRA on it in each precision that a frozen base is held in.
"""

import argparse
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))
WAYS = ("fake step", "closed form", "accelerate")


def compared() -> list[dict[str, Any]]:
    """Every configuration of the tests: bytes and seconds by way; None where a way does not know it."""
    from models.fake_step import peak_of, timeline
    from models.measured_step import measured_peak
    from models.memory_forms import training_peak, unknown
    from tests.models.steps_to_measure import CASES, config_of, name_of, step_of

    found = []
    for family, options in CASES:
        config, step = config_of(family), step_of(options)
        ways: dict[str, Callable[[], int]] = {
            "truth": lambda c=config, s=step: measured_peak(c, s),
            "fake step": lambda c=config, s=step: peak_of(timeline(c, s)).total,
            "accelerate": lambda c=config, s=step: estimated(c, s.precision),
        }
        if not unknown(config, step):
            ways["closed form"] = lambda c=config, s=step: training_peak(c, s).total
        found.append({"name": name_of((family, options)), **{way: timed(run) for way, run in ways.items()}})
    return found


def estimated(config: Any, precision: str) -> int:
    """What `accelerate estimate-memory` gives as the memory of training with Adam."""
    import torch
    from accelerate.commands.estimate import estimate_training_usage
    from accelerate.utils.modeling import calculate_maximum_sizes
    from transformers import AutoModel

    with torch.device("meta"):
        model = AutoModel.from_config(config)
    total, _ = calculate_maximum_sizes(model)
    mixed = "float32" if precision == "fp32" else "bfloat16"
    return max(estimate_training_usage(total, mixed).values())


BASE = {"batch": 8, "sequence": 256, "precision": "fp32"}
CHANGES: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {"precision": "bf16"},
    "bf16-autocast": {"precision": "bf16-autocast"},
    "fp32, eager attention": {"attention": "eager"},
    "checkpointing": {"checkpointing": True},
    "2 micro-batches of 4": {"batch": 4, "accumulated": True},
    "LoRA, rank 8": {"lora": 8},
    "LoRA, checkpointing": {"lora": 8, "checkpointing": True},
    "SGD": {"optimizer": "sgd"},
    "AdamW, foreach": {"optimizer": "adamw-foreach"},
}
LLAMA = {"vocab_size": 4096, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6,
         "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": True}  # fmt: skip


def savings() -> list[dict[str, Any]]:
    """Measured bytes and seconds of a step of 8 x 256 tokens of a model of six million parameters."""
    from transformers import AutoConfig

    from models.measured_step import measured_peak, step_seconds
    from models.training_step import Step

    found = []
    for name, change in CHANGES.items():
        config, step = AutoConfig.for_model("llama", **LLAMA), Step(**{**BASE, **change})
        found.append({"name": name, "bytes": measured_peak(config, step), "seconds": step_seconds(config, step)})
    return found


def savings_table(found: list[dict[str, Any]]) -> str:
    base = found[0]
    lines = ["| step | peak memory | against fp32 | time of a step |", "|---|---|---|---|"]
    for each in found:
        ratios = f"{each['bytes'] / base['bytes'] - 1:+.0%} | x {each['seconds'] / base['seconds']:.2f}"
        lines.append(f"| {each['name']} | {each['bytes'] / 1e6:.1f} MB | {ratios} |")
    return "\n".join(lines)


def bases() -> list[dict[str, Any]]:
    """A LoRA step of the same model and tokens by the precision of its base: what is held, the peak, the forecasts."""
    from unittest.mock import patch

    from transformers import AutoConfig

    from models import measured_step
    from models.fake_step import peak_of, timeline
    from models.memory_forms import training_peak
    from models.training_step import Step

    found = []
    for precision in ("fp32", "bf16", "int8", "int4"):
        config, step = AutoConfig.for_model("llama", **LLAMA), Step(batch=8, sequence=256, precision=precision, lora=8)
        with patch.object(measured_step, "assembled", adapted):
            beside = aside(adapted(config, step))
            peak, seconds = measured_step.measured_peak(config, step), measured_step.step_seconds(config, step)
        held = beside + sum(each.nbytes for each in adapted(config, step).parameters())
        forecast = training_peak(config, step)
        found.append({
            "name": precision, "held": held, "forecast held": forecast.parts["weights"], "bytes": peak + beside,
            "formula": forecast.total, "fake step": peak_of(timeline(config, step)).total, "seconds": seconds,
        })  # fmt: skip
    return found


def adapted(config: Any, step: Any) -> Any:
    """As `models.training_step.assembled`, with a base that bitsandbytes has really rounded."""
    import tempfile

    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from tasks.loading import base_model

    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
        model = base_model(Path(folder), step.precision, "cpu")
    model.set_attn_implementation("sdpa")
    model.config.use_cache = False
    adapter = LoraConfig(r=step.lora, lora_alpha=step.lora, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(model, adapter).train()


def aside(model: Any) -> int:
    """Bytes that bitsandbytes keeps beside its parameters: the scales, and the table of the 16 values of nf4."""
    from bitsandbytes.nn import Int8Params, Params4bit

    fours = [each.quant_state for each in model.parameters() if isinstance(each, Params4bit)]
    eights = [each.SCB for each in model.parameters() if isinstance(each, Int8Params)]
    return sum(each.absmax.nbytes + each.code.nbytes for each in fours) + sum(each.nbytes for each in eights)


def bases_table(found: list[dict[str, Any]]) -> str:
    lines = [
        "| base | weights held | forecast | peak memory | formula | fake step | time of a step |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found:
        held, peak = each["held"], each["bytes"]
        weights = f"{held / 1e6:.2f} MB | {each['forecast held'] / held - 1:+.1%}"
        errors = f"{each['formula'] / peak - 1:+.1%} | {each['fake step'] / peak - 1:+.1%}"
        slower = each["seconds"] / found[0]["seconds"]
        lines.append(f"| {each['name']} | {weights} | {peak / 1e6:.1f} MB | {errors} | x {slower:.2f} |")
    return "\n".join(lines)


def timed(run: Callable[[], int]) -> dict[str, float]:
    started = time.perf_counter()
    value = run()
    return {"bytes": value, "seconds": time.perf_counter() - started}


def table(found: list[dict[str, Any]]) -> str:
    lines = [f"{'step':<60}{'truth':>10}" + "".join(f"{way:>13}" for way in WAYS)]
    for each in found:
        errors = "".join(f"{_error(each, way):>+13.2%}" if way in each else f"{'-':>13}" for way in WAYS)
        lines.append(f"{each['name'][:59]:<60}{each['truth']['bytes'] / 1e6:>7.1f} MB{errors}")
    for name, summary in (("mean", statistics.mean), ("worst", max)):
        lines.append(f"{name + ' error':<70}" + "".join(f"{summary(_errors(found, way)):>13.2%}" for way in WAYS))
    counted = "".join(f"{len(_errors(found, way)):>13}" for way in WAYS)
    seconds = "".join(f"{statistics.median(each[way]['seconds'] for each in found if way in each):>11.4f} s"
                      for way in WAYS)  # fmt: skip
    return "\n".join([*lines, f"{'configurations':<70}{counted}", f"{'median time':<70}{seconds}"])


def _error(each: dict[str, Any], way: str) -> float:
    return each[way]["bytes"] / each["truth"]["bytes"] - 1


def _errors(found: list[dict[str, Any]], way: str) -> list[float]:
    return [abs(_error(each, way)) for each in found if way in each]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--savings", action="store_true", help="measure what each way to save memory saves and costs")
    parser.add_argument("--bases", action="store_true", help="measure LoRA on a base in each precision")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ways = ((options.savings, savings, savings_table), (options.bases, bases, bases_table), (True, compared, table))
    measure, shown = next(each[1:] for each in ways if each[0])
    found = measure()
    sys.stdout.write((json.dumps(found, indent=1) if options.json else shown(found)) + "\n")


if __name__ == "__main__":
    main()
