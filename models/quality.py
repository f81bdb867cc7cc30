"""What makes texts bad training data, as one fact per text: vectorised over Arrow arrays of strings.

Every fact has the length of its texts and is null where the text is null; some are null where they do not apply.
Patterns are RE2's, which Arrow runs in linear time; a character's class comes from RE2's Unicode tables.
"""

import functools
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from ftfy.badness import BADNESS_RE, is_bad

Texts: TypeAlias = pa.Array | pa.ChunkedArray
SCRIPTS = {
    **{name: rf"\p{{{name}}}" for name in ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai")},
    **{"Han": r"\p{Han}\p{Bopomofo}", "Japanese": r"\p{Han}\p{Hiragana}\p{Katakana}", "Korean": r"\p{Hangul}\p{Han}"},
}
_ROWS, _BYTES = 1 << 16, 1 << 21  # of a slice; `repetition` counts on 16 bits for the row
_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
_LETTER, _DIGIT, _MARK = 1, 2, 3
_POINTS = 0x40000  # beyond lie only tags, variation selectors and private use
# Where str.split splits: at the space and at the odd ones.
_ODD = r"\t-\r\x1c-\x1f\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_SPACE = f"[ {_ODD}]"
_UNSEEN = r"\s\p{Z}\p{Cc}\p{Cf}\x{034F}\x{115F}\x{1160}\x{2800}\x{3164}\x{FE00}-\x{FE0F}\x{FFA0}"
_HIDDEN = r"[\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2066}-\x{2069}\x{FEFF}\x{E0000}-\x{E007F}]"
_RIGHT_TO_LEFT = r"[\p{Arabic}\p{Hebrew}\p{Syriac}\p{Thaana}]"
# Emoji sequences (UTS 51), joiners inside a script that writes with them (UAX 31), break marks where no spaces are.
_PROPER = (
    r"\x{1F3F4}[\x{E0030}-\x{E0039}\x{E0061}-\x{E007A}]{3,6}\x{E007F}|[\p{So}\x{FE0F}\x{1F3FB}-\x{1F3FF}]\x{200D}"
    r"|[\p{Arabic}\p{Syriac}\p{Devanagari}\p{Bengali}\p{Gurmukhi}\p{Gujarati}\p{Oriya}\p{Tamil}\p{Telugu}\p{Kannada}"
    r"\p{Malayalam}\p{Sinhala}][\x{200C}\x{200D}]|[\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]\x{200B}"
)
# ftfy's expression without its comments and line breaks, for RE2, whose \w and \s are ASCII's.
_MAYBE_MOJIBAKE = re.sub(r"(\[[^\]]*\]|\\.)|#[^\n]*|\s+", r"\1", BADNESS_RE.pattern)
_MAYBE_MOJIBAKE = _MAYBE_MOJIBAKE.replace(r"\w", r"[\p{L}\p{N}_]").replace(r"\s", r"[\s\p{Z}]")
# Llama 2 and 3, ChatML, Gemma, Mistral, DeepSeek, Harmony; Alpaca's and Anthropic's turns. `<s>` is also HTML for
# struck text, which hugs what it strikes.
_MARKER = (
    r"<[|\x{FF5C}][A-Za-z][A-Za-z0-9_\x{2581}]*[|\x{FF5C}]>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>"
    r"|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\]"
    r"|(?:^|\n)### ?(?:Instruction|Response|Human|Assistant):|\n\n(?:Human|Assistant):"
    r"|(?:^|\s)</?s>(?:\s|$)|</s>\s*<s>|^\s*<s>[^<]*$|^[^<]*</s>\s*$"
)
# Whole words, with their endings, that have no other everyday meaning: not "bastard", "cock", "dick", "fag", "spic".
_PROFANE = (
    r"(?i)\b(?:(?:mother)?fuck(?:s|ed|er|ers|in|ing|face|wit|wits)?|(?:bull|horse|dip|chicken)?shit(?:s|ty|ted|ter"
    r"|ting|head|heads|hole|holes)?|cunts?|(?:ass|arse)holes?|cocksuck(?:er|ers|ing)|dickheads?|wank(?:er|ers|ing)"
    r"|twats?|bitch(?:es|y|ing)?|sluts?|nigg(?:er|ers|a|as|az)|faggots?|wetbacks?|ragheads?|towelheads?)\b"
)


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


def holds(texts: Texts, pattern: str) -> pa.BooleanArray:
    """Whether the text holds a match of a RE2 pattern."""
    return each(texts, lambda piece: pc.match_substring_regex(piece, pattern))


def confirmed(texts: Texts, hint: str, exact: Callable[[str], bool]) -> pa.BooleanArray:
    """Whether `exact` says so, which is asked only of the texts that match `hint`, a RE2 pattern."""

    def confirm(piece: pa.StringArray) -> pa.BooleanArray:
        found = pc.match_substring_regex(piece, hint)
        return pc.replace_with_mask(found, found, pa.array(map(exact, piece.filter(found).to_pylist()), pa.bool_()))

    return each(texts, confirm)


def characters(texts: Texts) -> pa.Int32Array:
    """The number of code points."""
    return each(texts, pc.utf8_length)


def words(texts: Texts) -> pa.Int32Array:
    """The number of words between whitespace, as `str.split` has them: a Chinese sentence is one."""

    def count(piece: pa.StringArray) -> pa.Int32Array:
        points, edges = _points(piece)
        return pa.array(_sums(_begins(_kinds().take(points, mode="clip") != 0, edges)[0], edges))

    return each(texts, count)


def pretokens(texts: Texts) -> pa.Int32Array:
    """A lower bound on the tokens of byte-level BPE: runs of letters, of digits and of marks.

    The patterns of GPT-2 (Radford et al. 2019) and of its successors in GPT-4, Llama 3 and Qwen 2 cut at least there;
    a single mark before a letter is not counted, because some of them join it to the letters ("'s", "(see").
    """

    def count(piece: pa.StringArray) -> pa.Int32Array:
        points, edges = _points(piece)
        kinds = _kinds().take(points, mode="clip")
        begins, fresh = _begins(kinds, edges)
        joined = (kinds[:-1] == _MARK) & (kinds[1:] == _LETTER) & ~fresh[1:]
        begins[:-1] &= ~joined
        return pa.array(_sums(begins, edges))

    return each(texts, count)


def blank(texts: Texts) -> pa.BooleanArray:
    """Whether there is nothing to see: only whitespace, zero-width and control characters, or none at all."""
    return holds(texts, rf"^[{_UNSEEN}]*$")


def replacement(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds U+FFFD, which a decoder leaves where bytes were not valid."""
    return each(texts, lambda piece: pc.match_substring(piece, "\ufffd"))


def control(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds C0 controls except tab and line ends, DEL, C1 controls, U+FFFE or U+FFFF."""
    return holds(texts, r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x{9f}\x{FFFE}\x{FFFF}]")


def invisible(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds characters that hide text or reorder it: zero-width, bidirectional, tags.

    Those that a script or an emoji is written with are passed over: joiners after Arabic or Indic letters and within
    emoji, flags of regions, breaks after Thai letters, left and right marks in a text with right-to-left letters.
    """

    def find(piece: pa.StringArray) -> pa.BooleanArray:
        found = pc.match_substring_regex(piece, _HIDDEN)
        rest = pc.replace_substring_regex(piece.filter(found), _PROPER, "")
        marked = pc.match_substring_regex(rest, _RIGHT_TO_LEFT)
        rest = pc.if_else(marked, pc.replace_substring_regex(rest, r"[\x{200E}\x{200F}]", ""), rest)
        return pc.replace_with_mask(found, found, pc.match_substring_regex(rest, _HIDDEN))

    return each(texts, find)


def mojibake(texts: Texts) -> pa.BooleanArray:
    """Whether the text was decoded with the wrong encoding ("cafÃ©", "itâ€™s"), as `ftfy.badness` judges it."""
    return confirmed(texts, _MAYBE_MOJIBAKE, is_bad)


def letters(texts: Texts) -> pa.DoubleArray:
    """The share of characters that are letters with their marks, digits or whitespace; null for an empty text."""
    return _share(texts, _members(rf"[\p{{L}}\p{{M}}\p{{N}}]|{_SPACE}"), _members(""))


def foreign(texts: Texts, *, script: str = "Latin") -> pa.DoubleArray:
    """The share of letters outside a script; null where there is none.

    Letters that belong to no one script (Unicode's Common) are left out. Raises ValueError for a script that is not
    in `SCRIPTS`.
    """
    if script not in SCRIPTS:
        raise ValueError(f"script is {script!r}, it must be one of {', '.join(SCRIPTS)}")
    owned = _members(r"\p{L}") & ~_members(r"\p{Common}")
    return _share(texts, owned & ~_members(f"[{SCRIPTS[script]}]"), owned)


def repetition(texts: Texts, *, width: int = 4, least_words: int = 20) -> pa.DoubleArray:
    """The share of word n-grams that stand earlier in the same text; null below `least_words` words.

    `1 - |distinct| / |all|` over the n-grams of `width` words, blind to case: duplicate n-grams as in Gopher (Rae et
    al. 2021, table A1), counted rather than weighed by their characters. Raises ValueError for a width outside
    1 to `least_words`.
    """
    if not 1 <= width <= least_words:
        raise ValueError(f"width is {width}, it must lie between 1 and least_words, {least_words}")

    def repeated(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        places = len(ids) - width + 1
        hashes = np.zeros(places, np.uint64)
        for offset in range(width):
            hashes = (hashes + ids[offset : offset + places]) * _MULTIPLIER
            hashes ^= hashes >> _SHIFT
        owners = rows[:places]
        inside = owners == rows[width - 1 :]
        keys = np.sort((owners.astype(np.uint64) << np.uint64(48) | hashes >> np.uint64(16))[inside])
        again = (keys[1:] >> np.uint64(48))[keys[1:] == keys[:-1]].astype(np.int64)
        return np.bincount(again, minlength=rows[-1] + 1) / np.bincount(owners[inside])

    return _of_words(texts, least_words, repeated)


def top_word(texts: Texts, *, least_words: int = 20) -> pa.DoubleArray:
    """The share of the commonest word, blind to case; null below `least_words` words."""

    def top(ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        keys, counts = np.unique(rows.astype(np.uint64) << np.uint64(32) | ids, return_counts=True)
        owners = (keys >> np.uint64(32)).astype(np.int64)
        firsts = np.flatnonzero(np.diff(owners, prepend=-1))
        return np.maximum.reduceat(counts, firsts) / np.bincount(rows)

    return _of_words(texts, least_words, top)


def markers(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds the special tokens of a chat template or the headers of turns ("### Instruction:")."""
    return holds(texts, _MARKER)


def urls(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds an address of the web: with a scheme, or from "www." on."""
    return holds(texts, r"(?i)\b(?:https?|ftp)://[^\s/]|\bwww\.[a-z0-9-]+\.[a-z]")


def profane(texts: Texts) -> pa.BooleanArray:
    """Whether the text holds one of a short list of English profanities and slurs, as a whole word, in any case."""
    return holds(texts, _PROFANE)


def hashes(texts: Texts, *, fold: bool = False) -> np.ndarray:
    """XXH3 of each text's UTF-8, uint64, the same everywhere; 0 for null. `fold`: blind to case and whitespace."""

    def digest(piece: pa.StringArray) -> pa.UInt64Array:
        data = (_folded(piece) if fold else piece).cast(pa.binary()).to_pylist()
        return pa.array(np.fromiter(map(xxhash.xxh3_64_intdigest, data), np.uint64, len(data)))

    return pc.fill_null(each(texts, digest), 0).to_numpy()


def contains(haystacks: Texts, needles: Texts, *, whole_words: bool = False) -> pa.BooleanArray:
    """Whether each haystack holds its needle, blind to case and whitespace; a blank needle stands nowhere.

    `whole_words`: "art" does not stand in "party". Raises ValueError where the two differ in length.
    """
    if len(haystacks) != len(needles):
        raise ValueError(f"{len(haystacks)} haystacks and {len(needles)} needles: they must be as many")
    stands = _stands_alone if whole_words else str.__contains__
    pairs = zip(_folded_rows(haystacks), _folded_rows(needles), strict=True)
    found = (None if hay is None or pin is None else bool(pin) and stands(hay, pin) for hay, pin in pairs)
    return pa.array(found, pa.bool_(), size=len(haystacks))


def _stands_alone(text: str, part: str) -> bool:
    at = text.find(part)
    while at >= 0:
        around = text[at - 1 : at] + text[at + len(part) : at + len(part) + 1]
        if not any(char.isalnum() or char == "_" for char in around):
            return True
        at = text.find(part, at + 1)
    return False


def _points(texts: pa.StringArray) -> tuple[np.ndarray, np.ndarray]:
    """The code points of all texts in one array, and where each text begins, the end of the last one included."""
    offsets = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset : texts.offset + len(texts) + 1]
    data = memoryview(texts.buffers()[2] or b"")[offsets[0] : offsets[-1]]
    points = np.frombuffer(str(data, "utf-8").encode("utf-32-le"), np.uint32)
    return points, np.concatenate([[0], np.cumsum(pc.utf8_length(texts).to_numpy(), dtype=np.int64)])


def _sums(flags: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """How many of each text's flags are set, int32."""
    sums = np.add.reduceat(np.append(flags, False), edges, dtype=np.int32)[:-1]
    return np.where(edges[1:] > edges[:-1], sums, 0)  # for an empty text reduceat gives the next one's first flag


def _begins(kinds: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where a run of one kind other than 0 begins, and where a text does."""
    fresh = np.zeros(len(kinds), bool)
    fresh[edges[:-1][np.diff(edges) > 0]] = True
    changed = fresh.copy()
    changed[1:] |= kinds[1:] != kinds[:-1]
    return changed & (kinds != 0), fresh


def _folded(texts: pa.StringArray) -> pa.StringArray:
    """In lower case, with one space between words and none around them."""
    lower = pc.utf8_lower(texts)
    untidy = pc.match_substring_regex(lower, f"[{_ODD}]|  |^ | $")
    tidied = pc.replace_substring_regex(lower.filter(untidy), f"{_SPACE}*[{_ODD}]{_SPACE}*|  +", " ")
    return pc.replace_with_mask(lower, untidy, pc.utf8_trim(tidied, " "))


def _folded_rows(texts: Texts) -> Iterator[str | None]:
    for piece in slices(texts):
        yield from pc.if_else(piece.is_valid(), _folded(pc.fill_null(piece, "")), None).to_pylist()


def _of_words(texts: Texts, least_words: int, share: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> pa.DoubleArray:
    """`share` of the words of the texts that have enough: an id per word, uint64, and the text each stands in."""

    def measure(piece: pa.StringArray) -> pa.DoubleArray:
        folded = _folded(piece)
        counts = pc.add(pc.count_substring(folded, " "), pc.not_equal(folded, "").cast(pa.int32()))
        enough = counts.to_numpy() >= max(least_words, 1)
        values = np.zeros(len(piece))
        if enough.any():
            split = pc.split_pattern(folded.filter(pa.array(enough)), " ")
            ids = pc.dictionary_encode(split.flatten()).indices.to_numpy().astype(np.uint64)
            values[enough] = share(ids, np.repeat(np.arange(len(split)), split.value_lengths().to_numpy()))
        return pa.array(values, mask=~enough)

    return each(texts, measure)


def _share(texts: Texts, part: np.ndarray, whole: np.ndarray) -> pa.DoubleArray:
    """Of the characters in `whole`, a table as of `_members`, the share in `part`; null where there are none."""

    def measure(piece: pa.StringArray) -> pa.DoubleArray:
        points, edges = _points(piece)
        some, all_ = (_sums(table.take(points, mode="clip"), edges) for table in (part, whole))
        return pa.array(some / np.maximum(all_, 1), mask=all_ == 0)

    return each(texts, measure)


@functools.cache
def _members(pattern: str) -> np.ndarray:
    """Which code points match, bool (_POINTS,); take from it with mode="clip": the last is no character."""
    return pc.match_substring_regex(_alphabet(), pattern).to_numpy(zero_copy_only=False)


@functools.cache
def _alphabet() -> pa.StringArray:
    """Each code point as a text; surrogates, which UTF-8 cannot write, as empty ones."""
    return pa.array(["" if 0xD800 <= point < 0xE000 else chr(point) for point in range(_POINTS)])


@functools.cache
def _kinds() -> np.ndarray:
    """0 for whitespace, else letter, digit or mark, uint8 (_POINTS,)."""
    classes = [_members(_SPACE), _members(r"\p{L}"), _members(r"\p{N}")]
    return np.select(classes, [0, _LETTER, _DIGIT], _MARK).astype(np.uint8)
