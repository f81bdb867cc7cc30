"""Arrow arrays of strings slice by slice, and their texts as arrays of code points: where runs of letters begin."""

import functools
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Texts: TypeAlias = pa.Array | pa.ChunkedArray
_ROWS, _BYTES = 1 << 16, 1 << 21  # of a slice; `repetition` counts on 16 bits for the row
LETTER, DIGIT, MARK = 1, 2, 3
_POINTS = 0x40000  # beyond lie only tags, variation selectors and private use
# Where str.split splits: at the space and at the odd ones.
ODD = r"\t-\r\x1c-\x1f\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
SPACE = f"[ {ODD}]"


def slices(texts: Texts) -> Iterator[pa.StringArray]:
    """The texts in pieces of about 2 MB and at most 65,536 texts. Raises ValueError where they are not strings."""
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        if not (pa.types.is_string(chunk.type) or pa.types.is_large_string(chunk.type) or pa.types.is_null(chunk.type)):
            raise ValueError(f"the texts are of type {chunk.type}, they must be strings: cast the column to string")
        chunk = chunk.cast(pa.string()) if pa.types.is_null(chunk.type) else chunk
        ends = np.cumsum(pc.fill_null(pc.binary_length(chunk), 0).to_numpy(), dtype=np.int64)
        full = np.searchsorted(ends, np.arange(_BYTES, ends[-1] if len(ends) else 0, _BYTES))
        cuts = sorted({0, len(chunk), *full.tolist(), *range(0, len(chunk), _ROWS)})
        for start, stop in pairwise(cuts):
            yield chunk.slice(start, stop - start).cast(pa.string())


def each(texts: Texts, fact: Callable[[pa.StringArray], pa.Array]) -> pa.Array:
    """`fact` of each slice, which sees a null as an empty text; null again in the result."""
    found = []
    for piece in slices(texts):
        values = fact(pc.fill_null(piece, ""))
        found.append(pc.if_else(piece.is_valid(), values, None) if piece.null_count else values)
    return pa.concat_arrays(found) if found else fact(pa.array([], pa.string()))


def points_of(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The code points of all texts in one array, and where each text begins, the end of the last one included."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    points = np.frombuffer(str(data, "utf-8").encode("utf-32-le"), np.uint32)
    return points, np.concatenate([[0], np.cumsum(pc.utf8_length(texts).to_numpy(), dtype=np.int64)])


def sums_by_text(flags: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of each text's flags are set, int32."""
    sums = np.add.reduceat(np.append(flags, False), edges, dtype=np.int32)[:-1]
    return np.where(edges[1:] > edges[:-1], sums, 0)  # for an empty text reduceat gives the next one's first flag


def run_starts(kinds: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a run of one kind other than 0 begins, and where a text does."""
    fresh = np.zeros(len(kinds), bool)
    fresh[edges[:-1][np.diff(edges) > 0]] = True
    changed = fresh.copy()
    changed[1:] |= kinds[1:] != kinds[:-1]
    return changed & (kinds != 0), fresh


def share_of(texts: Texts, part: np.ndarray, whole: np.ndarray) -> pa.DoubleArray:
    """Of the characters in `whole`, a table as of `members`, the share in `part`; null where there are none."""

    def measure(piece: pa.StringArray) -> pa.DoubleArray:
        points, edges = points_of(piece)
        some, all_ = (sums_by_text(table.take(points, mode="clip"), edges) for table in (part, whole))
        return pa.array(some / np.maximum(all_, 1), mask=all_ == 0)

    return each(texts, measure)


@functools.cache
def members(pattern: str) -> np.ndarray:
    """Which code points match, bool (_POINTS,); take from it with mode="clip": the last is no character."""
    return pc.match_substring_regex(_alphabet(), pattern).to_numpy(zero_copy_only=False)


@functools.cache
def _alphabet() -> pa.StringArray:
    """Each code point as a text; surrogates, which UTF-8 cannot write, as empty ones."""
    return pa.array(["" if 0xD800 <= point < 0xE000 else chr(point) for point in range(_POINTS)])


@functools.cache
def classes() -> np.ndarray:
    """0 for whitespace, else letter, digit or mark, uint8 (_POINTS,)."""
    conditions = [members(SPACE), members(r"\p{L}"), members(r"\p{N}")]
    return np.select(conditions, [0, LETTER, DIGIT], MARK).astype(np.uint8)
