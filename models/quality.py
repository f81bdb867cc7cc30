"""What makes texts bad training data, as one fact per text: vectorised over Arrow arrays of strings.

Every fact has the length of its texts and is null where the text is null; some are null where they do not apply.
Patterns are RE2's, which Arrow runs in linear time; a character's class comes from RE2's Unicode tables.
"""

import re
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from ftfy.badness import BADNESS_RE, is_bad

from models.characters import (
    LETTER,
    MARK,
    ODD,
    SPACE,
    Texts,
    classes,
    each,
    members,
    points_of,
    run_starts,
    share_of,
    slices,
    sums_by_text,
)

SCRIPTS = {
    **{name: rf"\p{{{name}}}" for name in ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai")},
    **{"Han": r"\p{Han}\p{Bopomofo}", "Japanese": r"\p{Han}\p{Hiragana}\p{Katakana}", "Korean": r"\p{Hangul}\p{Han}"},
}
_MULTIPLIER, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
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
        points, edges = points_of(piece)
        return pa.array(sums_by_text(run_starts(classes().take(points, mode="clip") != 0, edges)[0], edges))

    return each(texts, count)


def pretokens(texts: Texts) -> pa.Int32Array:
    """A lower bound on the tokens of byte-level BPE: runs of letters, of digits and of marks.

    The patterns of GPT-2 (Radford et al. 2019) and of its successors in GPT-4, Llama 3 and Qwen 2 cut at least there;
    a single mark before a letter is not counted, because some of them join it to the letters ("'s", "(see").
    """

    def count(piece: pa.StringArray) -> pa.Int32Array:
        points, edges = points_of(piece)
        kinds = classes().take(points, mode="clip")
        begins, fresh = run_starts(kinds, edges)
        joined = (kinds[:-1] == MARK) & (kinds[1:] == LETTER) & ~fresh[1:]
        begins[:-1] &= ~joined
        return pa.array(sums_by_text(begins, edges))

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
    return share_of(texts, members(rf"[\p{{L}}\p{{M}}\p{{N}}]|{SPACE}"), members(""))


def foreign(texts: Texts, *, script: str = "Latin") -> pa.DoubleArray:
    """The share of letters outside a script; null where there is none.

    Letters that belong to no one script (Unicode's Common) are left out. Raises ValueError for a script that is not
    in `SCRIPTS`.
    """
    if script not in SCRIPTS:
        raise ValueError(f"script is {script!r}, it must be one of {', '.join(SCRIPTS)}")
    owned = members(r"\p{L}") & ~members(r"\p{Common}")
    return share_of(texts, owned & ~members(f"[{SCRIPTS[script]}]"), owned)


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


def _folded(texts: pa.StringArray) -> pa.StringArray:
    """In lower case, with one space between words and none around them."""
    lower = pc.utf8_lower(texts)
    untidy = pc.match_substring_regex(lower, f"[{ODD}]|  |^ | $")
    tidied = pc.replace_substring_regex(lower.filter(untidy), f"{SPACE}*[{ODD}]{SPACE}*|  +", " ")
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
