"""What `evergreen attention` shows: a model read, its heads measured and drawn for one text."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import RegistryError, UsageError

if TYPE_CHECKING:
    import numpy as np

CONFIG = "config.json"
MOST_BYTES = 2**30  # of all maps of a text, which for a moment are held twice
SHOWN = 8  # layers or missing weights that a message names


@dataclass(frozen=True)
class Request:
    """What to show. `layers` are those to measure and draw, all of them if empty."""

    model: str
    text: str
    out: Path
    layers: tuple[int, ...] = ()
    chat: bool = False


def answer(asked: Request) -> dict[str, Any]:
    """What `evergreen attention --json` prints; the pictures are drawn. Raises UsageError for what cannot be shown."""
    if not asked.text.strip():
        raise UsageError("the text is empty: give some words to read")
    folder = located(asked.model)
    model, tokenizer = load(folder)
    try:
        return _answer(asked, folder, model, tokenizer)
    except ValueError as error:
        raise UsageError(f"{asked.model} cannot be shown: {error}") from None


def located(reference: str) -> Path:
    """The folder of a model: one with a `config.json`, that in a step of the store, or that of a registered name."""
    given = Path(reference).expanduser()
    for folder in (given, given / "model"):
        if (folder / CONFIG).is_file():
            return folder
    from tasks.catalogue import resolve

    try:
        return resolve(reference)
    except RegistryError as error:
        if given.is_dir():
            raise UsageError(f"the folder {given} holds no {CONFIG}, and {error}") from None
        raise UsageError(f"{error}; there is no folder {given} either") from None


def load(folder: Path) -> tuple[Any, Any]:
    """Model, without its head and in float32, and tokenizer. Raises UsageError for what has no attention to show."""
    import torch
    import transformers
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    from models.lstm import LSTMConfig, register
    from tasks.generation import pick_device

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    register()
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        _require_attention(folder, config.model_type, LSTMConfig.model_type, config.is_encoder_decoder)
        model, loaded = AutoModel.from_pretrained(
            folder, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{folder} holds no model that transformers reads: {_first_line(error)}") from None
    _require_weights(folder, loaded["missing_keys"])
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError):
        raise UsageError(f"{folder} holds no tokenizer that transformers reads: save it beside the model") from None
    return model.eval().to(pick_device("auto")), tokenizer


def _answer(asked: Request, folder: Path, model: Any, tokenizer: Any) -> dict[str, Any]:
    from models import attention

    ids, context = _ids(asked, tokenizer), _context(model, tokenizer)
    _require_length(len(ids), context)
    _require_embeddings(max(ids), model)
    there_are, heads = attention.maps(model, ids[:2]).shape[:2]
    layers = _chosen(asked.layers, there_are)
    _require_room(len(ids), there_are * heads)
    maps = attention.maps(model, ids)
    causal = attention.is_causal(maps)
    tokens = attention.readable(tokenizer, ids)
    figures: dict[str, np.ndarray] = attention.figures(maps)
    copied = _induction(model, tokenizer, context) if causal else None
    if copied is not None:
        figures["induction"] = copied
    with _replacing(asked.out) as draft:
        names = _draw(maps, tokens, figures, layers, draft, title=_short(asked.model))
    return {
        "model": asked.model, "folder": str(folder), "architecture": type(model).__name__, "causal": causal,
        "text": asked.text, "chat": asked.chat, "layers": there_are, "heads": heads,
        "tokens": [{"id": each, "text": text} for each, text in zip(ids, tokens, strict=True)],
        "uniform_entropy": attention.uniform_entropy(len(ids), causal=causal),
        "figures": [_figures(figures, layer, head) for layer in layers for head in range(heads)],
        "pictures": [str(asked.out / name) for name in names],
    }  # fmt: skip


def _figures(figures: Mapping[str, "np.ndarray"], layer: int, head: int) -> dict[str, Any]:
    named = {name: float(each[layer, head]) for name, each in figures.items()}
    return {"layer": layer, "head": head, **named, "induction": named.get("induction")}


def _ids(asked: Request, tokenizer: Any) -> list[int]:
    from models.tokenizer import chat_ids

    if not asked.chat:
        return list(tokenizer(asked.text)["input_ids"])
    if not tokenizer.chat_template:
        raise UsageError(f"{asked.model} has no chat template: leave --chat out")
    turn = [{"role": "user", "content": asked.text}]
    return chat_ids(tokenizer, [turn], add_generation_prompt=True)[0]


def _context(model: Any, tokenizer: Any) -> float:
    """Tokens that model and tokenizer allow; a configuration without this field, as with ALiBi, sets no limit."""
    config = model.config.get_text_config()
    return min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", math.inf))


def _induction(model: Any, tokenizer: Any, context: float) -> "np.ndarray | None":
    from models.attention import induction

    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    size = min(len(tokenizer), model.get_input_embeddings().num_embeddings)
    plain = [number for number in range(size) if number not in special]
    return induction(model, plain, start=tokenizer.bos_token_id, context=context)


def _draw(
    maps: "np.ndarray", tokens: Sequence[str], figures: Mapping[str, "np.ndarray"], layers: Sequence[int],
    folder: Path, *, title: str,
) -> list[str]:  # fmt: skip
    """The names of the pictures, the overview first."""
    from tasks import attention_plots

    attention_plots.overview(maps, layers, folder / "overview.png", title=title)
    names = ["overview.png"]
    for layer in layers:
        names.append(f"layer-{layer}.png")
        measured = [{name: float(each[layer, head]) for name, each in figures.items()} for head in range(maps.shape[1])]
        attention_plots.layer(maps[layer], tokens, measured, folder / names[-1], title=f"{title}, layer {layer}")
    return names


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """A draft folder, whose files replace those of the same names once all are there; nothing else is touched."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".attention-", dir=folder) as draft:
            yield Path(draft)
            for path in sorted(Path(draft).iterdir()):
                path.replace(folder / path.name)
    except OSError as error:
        why = error.strerror or error
        raise UsageError(f"--out {folder} is no folder that can be written ({why}): name another") from None


def _chosen(layers: Sequence[int], there_are: int) -> list[int]:
    beyond = [layer for layer in layers if layer >= there_are]
    if beyond:
        known = "layer 0 only" if there_are == 1 else f"layers 0 to {there_are - 1}"
        raise UsageError(f"--layers names {', '.join(map(str, beyond[:SHOWN]))}, and the model has {known}")
    return sorted(set(layers)) or list(range(there_are))


def _require_attention(folder: Path, kind: str, recurrent: str, two_parts: bool) -> None:
    if kind == recurrent:
        raise UsageError(f"{folder} holds an LSTM, which has no attention: give a decoder or an encoder")
    if two_parts:
        raise UsageError(f"{folder} holds a {kind}, an encoder with a decoder: give a model that is one of the two")


def _require_weights(folder: Path, missing: Sequence[str]) -> None:
    """Without its weights a layer would be random, and so its maps. A pooler comes after all attention."""
    absent = sorted(name for name in missing if not name.startswith("pooler."))
    if absent:
        raise UsageError(f"{folder} lacks weights of the model ({', '.join(absent[:SHOWN])}): its maps would be random")


def _require_length(tokens: int, context: float) -> None:
    if tokens < 2:
        raise UsageError("the text is a single token, which has no other to look at: give a longer one")
    if tokens > context:
        raise UsageError(f"the text has {tokens:,} tokens and the model reads {context:,} at most: give a shorter one")


def _require_embeddings(largest: int, model: Any) -> None:
    known = model.get_input_embeddings().num_embeddings
    if largest >= known:
        raise UsageError(f"the tokenizer gives token {largest:,}, and the model knows {known:,}: they are no pair")


def _require_room(tokens: int, maps: int) -> None:
    size = 4 * maps * tokens**2
    if size > MOST_BYTES:
        raise UsageError(
            f"the maps of {tokens:,} tokens take {size / 2**30:,.1f} GiB, and {MOST_BYTES / 2**30:,.0f} GiB is the "
            f"most: give a text of {math.isqrt(MOST_BYTES * tokens**2 // size):,} tokens or fewer"
        )


def _short(name: str) -> str:
    """The end of a long path."""
    return name if len(name) <= 60 else f"…{name[-59:]}"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
