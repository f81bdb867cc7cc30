"""Brings a foreign model in: checked before the weights are read, then saved with its tokenizer as Evergreen does."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks import steps, weights
from tasks.errors import StartError

READ = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*.tiktoken")
PICKLED = "pytorch_model*.bin"  # read where there are no safetensors
CONFIG, INDEX = "config.json", "model.safetensors.index.json"
# tokens that a vocabulary keeps for padding, by how usual they are; a last resort is one that no text is encoded to
PADS = ("<|pad|>", "<pad>", "[PAD]", "<|finetune_right_pad_id|>", "<|endoftext|>")
OBJECTIVES = ("ForMaskedLM", "T5ForConditionalGeneration")  # heads beside the causal ones
WIDTHS = ("hidden_size", "n_embd", "d_model")
SHOWN = 5


def files(source: Path) -> dict[str, str]:
    """SHA-256 of each file that `convert` reads, by name; of a GGUF file under one name."""
    if source.is_file():
        return {"model.gguf": steps.file_digest(source)}
    patterns = READ if list(source.glob("*.safetensors")) else (*READ, PICKLED)
    found = {path for pattern in patterns for path in source.glob(pattern) if path.is_file()}
    return {path.name: steps.file_digest(path) for path in sorted(found)}


def convert(source: Path, folder: Path) -> dict[str, Any]:
    """Writes the model of a folder or a GGUF file to `folder`, with its tokenizer, and returns its figures.

    Padding gets a token that is not the end, since a loss that skips padding would skip every end: one that the
    vocabulary keeps for it, or a new one. Raises StartError for what cannot be read or trained.
    """
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.manual_seed(0)  # of the row of a new token
    model, tokenizer = _from_gguf(source) if source.is_file() else _from_folder(source)
    _require_fit(source, model, tokenizer)
    added = _pad(model, tokenizer)
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    tokenizer.model_max_length = min(tokenizer.model_max_length, positions or tokenizer.model_max_length)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {
        "architecture": type(model).__name__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "vocabulary": len(tokenizer),
        "positions": positions or 0,
        "pad": tokenizer.pad_token,
        "tokens_added": added,
        "chat_template": bool(tokenizer.chat_template),
    }


def _from_folder(folder: Path) -> tuple[Any, Any]:
    from models.architectures import load

    _require_objective(folder)
    _require_weights(folder)
    try:
        model, loaded = load(
            folder, dtype="auto", trust_remote_code=False, local_files_only=True, output_loading_info=True
        )
    except Exception as error:  # of json, safetensors, pickle and each family's own checks
        raise StartError(f"{folder} holds no model that transformers reads: {_first(error)}") from None
    lost = sorted(loaded["missing_keys"])
    if lost:
        raise StartError(
            f"{folder} lacks {len(lost)} of the model's weights ({', '.join(lost[:SHOWN])}), which would be random: "
            "fetch the model again, or take the one that it was made from"
        )
    return model, _tokenizer(folder)


def _from_gguf(file: Path) -> tuple[Any, Any]:
    """Dequantised: what stays quantised can be neither saved nor trained."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise StartError(f"{file} needs the package gguf: pip install 'evergreen[gguf]'")
    with file.open("rb") as opened:
        if opened.read(4) != b"GGUF":
            raise StartError(f"{file} does not begin as a GGUF file does: fetch it again")
    where = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name, "local_files_only": True}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
        )
    except Exception as error:  # gguf and transformers raise whatever a reader of bytes can
        raise StartError(f"{file} holds no model that transformers reads from GGUF: {_first(error)}") from None
    return model, tokenizer


def _require_objective(folder: Path) -> None:
    from transformers import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    config = read_object(folder / CONFIG)
    kind, made = config.get("model_type", ""), next(iter(config.get("architectures") or ()), "nothing")
    if kind not in CONFIG_MAPPING:
        own = "code of its own, which is never run" if config.get("auto_map") else "a family unknown to transformers"
        raise StartError(f"{folder} is a model of type {kind or 'unknown'} with {own}: take one of a family it has")
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method", "some method")
        raise StartError(f"{folder} is quantised ({method}) and cannot be trained: take the weights it was made from")
    if made not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values() and not made.endswith(OBJECTIVES):
        raise StartError(
            f"{folder} is a {made}, which was not trained to predict the next token, masked ones or spans: take the "
            "language model that it was made from"
        )


def _require_weights(folder: Path) -> None:
    """Raises StartError for weights that are missing or whose file ends too early."""
    index = folder / INDEX
    shards = set(read_object(index).get("weight_map", {}).values()) if index.is_file() else set()
    missing = sorted(name for name in shards if not (folder / name).is_file())
    if missing:
        raise StartError(f"{folder} lacks {', '.join(missing[:SHOWN])}, which {INDEX} names: fetch the model again")
    there = sorted(folder.glob("*.safetensors"))
    if not there and not list(folder.glob(PICKLED)):
        raise StartError(f"{folder} holds no weights (*.safetensors or {PICKLED}): fetch the model again")
    for file in there:
        if problem := _torn(file):
            raise StartError(f"{file} is torn ({problem}): fetch it again")


def _torn(file: Path) -> str:
    size = file.stat().st_size
    try:
        ends = [start + entry["data_offsets"][1] for _, start, entry in weights.tensors(file)]
    except (ValueError, KeyError, TypeError):
        return "its header is cut"
    return f"{size:,} bytes of {max(ends):,}" if ends and max(ends) > size else ""


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # each kind of tokenizer file has a parser with errors of its own
        raise StartError(
            f"{folder} holds no tokenizer that transformers reads ({_first(error)}): save it beside the model"
        ) from None
    if not tokenizer.is_fast:
        raise StartError(
            f"{folder}: its tokenizer has no tokenizer.json: save it once with AutoTokenizer as a fast one"
        )
    return tokenizer


def _require_fit(source: Path, model: Any, tokenizer: Any) -> None:
    from models.objectives import objective_of

    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token  # BERT calls it so
    if tokenizer.eos_token_id is None:
        raise StartError(f"{source}: its tokenizer names no end token, so texts could not be told apart: set eos_token")
    largest, rows = max(tokenizer.get_vocab().values()), model.get_input_embeddings().num_embeddings
    if largest >= rows:
        raise StartError(
            f"{source}: its tokenizer has ids up to {largest:,} and the model {rows:,} embeddings: they are not of one "
            "model; take the tokenizer that it was trained with"
        )
    try:
        objective_of(model, tokenizer, seed=0, apart=False)
    except ValueError as error:
        raise StartError(f"{source}: {error}; take the tokenizer that it was trained with") from None


def _pad(model: Any, tokenizer: Any) -> int:
    """Gives padding a token of its own; returns how many were added to the vocabulary."""
    added = 0
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        added = tokenizer.add_special_tokens({"pad_token": next(_pads(tokenizer), PADS[0])})
    if max(tokenizer.get_vocab().values()) >= model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(max(tokenizer.get_vocab().values()) + 1)
    model.config.pad_token_id = tokenizer.pad_token_id
    if model.can_generate():
        model.generation_config.pad_token_id = tokenizer.pad_token_id
    return added


def _pads(tokenizer: Any) -> Iterator[str]:
    known = tokenizer.get_vocab()
    unused = tokenizer.unk_token if tokenizer.unk_token != tokenizer.bos_token else None
    yield from (token for token in (*PADS, unused) if token and token in known and token != tokenizer.eos_token)


def width(folder: Path) -> int:
    """The width of the model in a folder, as its family calls it. Raises StartError where its config names none."""
    config = read_object(folder / CONFIG)
    found = [config[name] for name in WIDTHS if isinstance(config.get(name), int)]
    if not found:
        raise StartError(f"{folder / CONFIG} names no width ({', '.join(WIDTHS)}): set the learning rates of continued")
    return found[0]


def read_object(file: Path) -> dict[str, Any]:
    """Raises StartError for what is no JSON object."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartError(f"{file} cannot be read ({_first(error)}): fetch the model again") from None
    if not isinstance(found, dict):
        raise StartError(f"{file} holds a {type(found).__name__} and no object: fetch the model again")
    return found


def _first(error: Exception) -> str:
    """The first line of what a library says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:300] if lines else type(error).__name__
