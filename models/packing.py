"""Token streams on disk, read as fixed windows: memory-mapped, never copied, in a mixture of domains."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

NARROW, WIDE = ".bin", ".bin32"  # a stream's suffix says how its ids are written
DTYPES: Mapping[str, np.dtype[Any]] = {NARROW: np.dtype("<u2"), WIDE: np.dtype("<u4")}
NARROW_VOCABULARY = 2**16  # the largest whose ids fit in 16 bits


def write_stream(path: Path, token_ids: list[int] | np.ndarray, *, vocabulary: int = NARROW_VOCABULARY) -> int:
    """Writes ids as little-endian uint16 to `*.bin`, or as uint32 to `*.bin32` for a vocabulary above 65,536.

    Whatever the suffix of `path`, the file gets the one that fits. Returns the number of ids. Raises ValueError for an
    id outside the vocabulary.
    """
    ids = np.asarray(token_ids)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        raise ValueError(f"token ids reach from {ids.min()} to {ids.max()}; the vocabulary has {vocabulary:,} tokens")
    suffix = NARROW if vocabulary <= NARROW_VOCABULARY else WIDE
    ids.astype(DTYPES[suffix]).tofile(path.with_suffix(suffix))
    return int(ids.size)


def read_stream(path: Path) -> np.ndarray:
    """The stream at `path` as a read-only memory map of shape (tokens,), by its suffix. Raises ValueError for another.

    An empty file cannot be mapped and gives an empty array.
    """
    if path.suffix not in DTYPES:
        raise ValueError(f"{path} is no token stream; one ends in {' or '.join(DTYPES)}")
    if path.stat().st_size == 0:
        return np.empty(0, DTYPES[path.suffix])
    return np.memmap(path, dtype=DTYPES[path.suffix], mode="r")


def read_streams(folder: Path) -> dict[str, np.ndarray]:
    """Every stream of a folder by its domain, in the order of the names."""
    paths = (path for path in folder.iterdir() if path.suffix in DTYPES)
    return {path.stem: read_stream(path) for path in sorted(paths)}


def mixture_windows(
    lengths: Mapping[str, int], weights: Mapping[str, float], *, context: int, tokens: int
) -> list[tuple[str, int]]:
    """Which windows make up a mixture of `tokens` tokens: (domain, start) pairs, the shares spread evenly.

    A domain that is too short for its share is read again from its start (another epoch of it). The windows of a
    smaller mixture are the first ones of a larger mixture, so runs of different length see the same data first.
    Weights that name none of the domains there are give way to the domains' lengths. Raises ValueError where no
    domain holds one window.
    """
    windows = {name: length // context for name, length in lengths.items()}
    if not any(weights.get(name, 0) > 0 for name, count in windows.items() if count):
        weights = {name: float(count) for name, count in windows.items()}
    usable = {name: count for name, count in windows.items() if count and weights.get(name, 0) > 0}
    if not usable:
        raise ValueError(f"no domain of {sorted(weights)} holds a window of {context} tokens; lengths: {dict(lengths)}")
    total = sum(weights[name] for name in usable)
    taken = dict.fromkeys(usable, 0)
    chosen = []
    for number in range(1, max(1, tokens // context) + 1):
        # the domain furthest behind its share comes next
        name = max(usable, key=lambda n: (number * weights[n] / total - taken[n], n))
        chosen.append((name, (taken[name] % usable[name]) * context))
        taken[name] += 1
    return chosen


class PackedWindows:
    """The windows of a mixture, each of shape (context,)."""

    def __init__(self, folder: Path, weights: Mapping[str, float], *, context: int, tokens: int):
        self.streams = read_streams(folder)
        lengths = {name: len(stream) for name, stream in self.streams.items()}
        self.windows = mixture_windows(lengths, weights, context=context, tokens=tokens)
        self.context = context

    def __len__(self) -> int:
        return len(self.windows)

    def ids(self, index: int) -> np.ndarray:
        name, start = self.windows[index]
        return self.streams[name][start : start + self.context]

    def all_ids(self) -> np.ndarray:
        """Every window of the mixture in order, shape (windows, context)."""
        return np.stack([self.ids(i) for i in range(len(self))])
