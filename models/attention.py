"""What the heads of a model look at: their maps for a sequence, figures of each head, and tokens as people read them.

A map A is a matrix of shape (T, T): A_ts is the share of its attention that token t, the query, gives to token s.
"""

import math
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import entr

REPEATED = 25  # random tokens that are given twice, as many as in Olsson et al. 2022
SEQUENCES = 8  # of them, over which the induction score is a mean
ESCAPED = {"Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp", "Zs"}  # Unicode categories without a mark of their own
MARKS = {" ": "␣", "\n": "↵", "\t": "⇥"}
LLAMA_SPACE = "▁"  # stands for a space in the pieces of SentencePiece


def maps(model: Any, ids: Sequence[int]) -> np.ndarray:
    """The map of every head, shape (layers, heads, T, T), float32, of a model with eager attention.

    Layers without attention, which hybrid models have, are left out. Raises ValueError where there is no other layer,
    where layers differ in their number of heads, and where a share is not finite.
    """
    found = _attentions(model, torch.tensor([list(ids)], device=model.device))
    if len({layer.shape[1] for layer in found}) > 1:
        raise ValueError(f"its layers have {[layer.shape[1] for layer in found]} heads, and not all the same number")
    shares: np.ndarray = torch.cat(found).float().cpu().numpy()
    if not np.isfinite(shares).all():
        raise ValueError("its attention is not finite: the weights are broken")
    return shares


def is_causal(maps_LHTT: np.ndarray) -> bool:
    """Whether no token looks at a later one."""
    return not np.triu(maps_LHTT, 1).any()


def figures(maps_LHTT: np.ndarray) -> dict[str, np.ndarray]:
    """Five figures of every head, each of shape (layers, heads). Every one is a mean over the queries t = 2..T: the
    first token of a causal model has only itself to look at.

    - entropy in nats: mean_t -sum_s A_ts ln A_ts; 0 for one token alone, ln of their number for all alike
    - distance in tokens: mean_t sum_s A_ts |t - s|
    - first: mean_t A_t1; a head that parks its attention there is an attention sink (Xiao et al. 2023, 2309.17453)
    - previous: mean_t A_t,t-1
    - itself: mean_t A_tt

    Raises ValueError for a single token.
    """
    if maps_LHTT.shape[-1] < 2:
        raise ValueError("a single token has no other to look at")
    layers = [_figures(maps_HTT) for maps_HTT in maps_LHTT]
    return {name: np.stack([each[name] for each in layers]) for name in layers[0]}


def _figures(maps_HTT: np.ndarray) -> dict[str, np.ndarray]:
    T = maps_HTT.shape[-1]
    queries = maps_HTT[:, 1:].astype(np.float64)
    place = np.arange(T)
    away = np.abs(place[1:, None] - place)
    return {
        "entropy": entr(queries).sum(-1).mean(-1),
        "distance": (queries * away).sum(-1).mean(-1),
        "first": queries[..., 0].mean(-1),
        "previous": np.diagonal(queries, 0, -2, -1).mean(-1),
        "itself": np.diagonal(queries, 1, -2, -1).mean(-1),
    }


def uniform_entropy(T: int, *, causal: bool) -> float:
    """The entropy in nats of a head that looks at all tokens alike, the most there can be: mean_t ln t over t = 2..T,
    or ln T where every token sees all.
    """
    return sum(map(math.log, range(2, T + 1))) / (T - 1) if causal else math.log(T)


def induction(
    model: Any, vocabulary: Sequence[int], *, start: int | None, context: float, seed: int = 0
) -> np.ndarray | None:
    """How much a causal model's heads look at what followed the last time, shape (layers, heads).

    R different random tokens are given twice, after the `start` token if there is one. A head that copies by induction
    looks from a token of the second half at the one that followed it in the first:

        mean over the queries t of the second half of A_t,t-R+1

    the prefix-matching score of Olsson et al. 2022 (2209.11895), with two copies and a mean over sequences. A head that
    looks at all alike has about ln 2 / R, which is 0.03. None where the context has no room for two times two tokens.
    """
    begin = [] if start is None else [start]
    R = int(min(REPEATED, len(vocabulary), (context - len(begin)) // 2))
    if R < 2:
        return None
    draw = np.random.default_rng(seed)
    halves = [draw.choice(np.asarray(vocabulary), R, replace=False).tolist() for _ in range(SEQUENCES)]
    found = _attentions(model, torch.tensor([[*begin, *half, *half] for half in halves], device=model.device))
    followed = [layer.diagonal(1 - R, -2, -1)[..., len(begin) + 1 :].float().mean((0, 2)) for layer in found]
    return torch.stack(followed).cpu().numpy()


def readable(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token as the text that it stands for: special tokens by name, whitespace as ␣ ↵ ⇥, bytes that are no whole
    character as in \\xe2, and characters that show nothing as in \\u200b. The ## of WordPiece stays.
    """
    named = dict(zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True))
    named |= {number: str(token) for number, token in tokenizer.added_tokens_decoder.items()}
    text = _byte_text if _is_byte_level(tokenizer) else _piece_text
    pieces = zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    return [_visible(named[number] if number in named else text(piece)) for number, piece in pieces]


@torch.inference_mode()
def _attentions(model: Any, ids_BT: torch.Tensor) -> list[torch.Tensor]:
    """The maps of each layer, each of shape (B, H, T, T)."""
    model.eval()
    output = model(input_ids=ids_BT, attention_mask=torch.ones_like(ids_BT), output_attentions=True)
    found = [layer for layer in output.get("attentions") or () if layer is not None]
    if not found:
        raise ValueError("it returns no attention")
    return found


def _is_byte_level(tokenizer: Any) -> bool:
    decoder = tokenizer.backend_tokenizer.decoder if tokenizer.is_fast else None
    return decoder is not None and b'"ByteLevel"' in decoder.__getstate__()


def _byte_text(piece: str) -> str:
    alphabet = byte_alphabet()
    return bytes(alphabet[letter] for letter in piece).decode("utf-8", "backslashreplace")


def _piece_text(piece: str) -> str:
    """Of SentencePiece: <0xE2> is a byte, ▁ a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)]).decode("utf-8", "backslashreplace")
    return piece.replace(LLAMA_SPACE, " ")


def byte_alphabet() -> dict[str, int]:
    """The byte behind each letter of a byte-level BPE: itself where it can be seen, else one from U+0100 on
    (Radford et al. 2019, section 2.2, and the code of GPT-2).
    """
    seen = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    unseen = [byte for byte in range(256) if byte not in seen]
    return {chr(byte): byte for byte in seen} | {chr(256 + at): byte for at, byte in enumerate(unseen)}


def _visible(text: str) -> str:
    return "".join(MARKS.get(c) or (_escape(c) if unicodedata.category(c) in ESCAPED else c) for c in text)


def _escape(character: str) -> str:
    """Never as \\x, which is for bytes."""
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
