"""A frozen base in the precision in which an adapter is trained on it, and that adapter on the base in fp32."""

import importlib.util
import json
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tasks.errors import StartError, UsageError

Load: TypeAlias = Literal["fp32", "bf16", "int8", "int4"]
QUANTISED = ("int8", "int4")


def require(load: Load) -> None:
    """Raises UsageError where bitsandbytes is needed and not installed."""
    if load in QUANTISED and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            f"sft.load is {load}, and bitsandbytes is not installed: pip install 'evergreen[quantised]', "
            "or leave sft.load at fp32"
        )


def base_model(folder: Path, load: Load, device: str) -> Any:
    """The model of a folder; what is not quantised of an int8 or int4 one, embeddings and RMS norms, is in bf16.

    int8 is LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339), int4 the NormalFloat of QLoRA with products in bf16
    (Dettmers et al. 2023, arXiv 2305.14314); both are frozen, and rounded while the file is read.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from tasks.generation import pick_device

    options: dict[str, Any] = {"dtype": torch.float32 if load == "fp32" else torch.bfloat16}
    if load in QUANTISED:
        kind = {"load_in_8bit": True} if load == "int8" else {
            "load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16,
        }  # fmt: skip
        options |= {"quantization_config": BitsAndBytesConfig(**kind), "device_map": {"": pick_device(device)}}
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", **options)
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):  # in bf16 a CPU refuses its input from an embedding that is trained
            module.float()
    return model


def require_chat_template(tokenizer: Any, base: Path) -> None:
    """Raises StartError for an imported base without one: its users know which it should have, if any."""
    if not tokenizer.chat_template:
        raise StartError(
            f"the tokenizer of the base model in {base} has no chat template, so instructions cannot be written: "
            "put a chat_template.jinja with {% generation %} around the answer beside the model that was imported, and "
            "continue pre-training from it again"
        )


def save_adapter(model: Any, folder: Path, base: str) -> None:
    """The adapter in bytes that depend on nothing but its training: the base by its key, modules in order."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"base_model_name_or_path": base, "target_modules": sorted(config["target_modules"])}
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def adapted(base: Path, adapter: Path) -> Any:
    """The adapter of a folder on the base in fp32: merged into rounded weights it would be rounded with them."""
    from peft import PeftModel

    return PeftModel.from_pretrained(base_model(base, "fp32", "cpu"), adapter).eval()
