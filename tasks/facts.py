"""The facts about rows that the suites look at: a column each, missing where a fact does not apply to a row.

What holds for any text is computed for whole columns at once (`models.quality`, `models.privacy`); what only the rows
of the built-in sources have is looked up row by row.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from models import prose
from models.hashes import Seen, among
from tasks.rows import Row
from tasks.suites import PARTS, Bounds, suite

CODE = {"code", "docstring"}  # whose links, brackets and repeated lines are part of the matter
LINK_FREE = {"encyclopaedia", "speeches", "dialogue", "gloss", "topic", "name", "reply"}
DISAMBIGUATION = (  # the page's own name, then the phrase: further on, "may also refer to" is part of real articles
    r"^\W*(?:\w+\W+){1,3}(?:(?:may|can|might) (?:also )?refer to|peut (?:désigner|faire référence)"
    r"|puede (?:referirse|hacer referencia) a)\b"
)


class Facts:
    """The columns of a kind of file, block by block; copies are told across blocks."""

    def __init__(self, kind: str, bounds: Bounds, held_out: np.ndarray):
        """`held_out`: sorted content hashes of rows on held-out sides."""
        self.kind, self.bounds, self.held_out = kind, bounds, held_out
        self.columns = [column for column in dict.fromkeys(rule.column for rule in suite(kind, bounds)) if column]
        self.ids, self.contents, self.titles = Seen(), Seen(), Seen()

    def of(self, rows: Sequence[Row]) -> dict[str, Any]:
        """One array for each column of the suite that applies to any row, as long as `rows`."""
        parts, content = columns_of(self.kind, rows)
        matters = [row.get("domain") or row.get("kind") for row in rows]
        found = {
            **_presence(parts),
            **_content(content, self.bounds),
            **self._copies(rows, content),
            **_special(self.kind, rows),
            **_COLUMNS.get(self.kind, lambda rows, parts: {})(rows, parts),
            **_links(matters, content),
        }
        _pass_over_code(found, matters)
        if "title" in found:
            found["title_again"] = self._titles(found["title"])
        return {name: found[name] for name in self.columns if name in found}

    def _copies(self, rows: Sequence[Row], content: Any) -> dict[str, Any]:
        hashes = content_hashes(rows, content)
        leaked = among(hashes, self.held_out)
        if leaked.any():
            leaked &= [row.get("holdout") != "given" or row.get("side") == "train" for row in rows]
        ids = [row.get("id") for row in rows]
        again = {} if None in ids else {"id_again": self.ids.again(_hashes(ids))}
        return {"copy": self.contents.again(hashes), "leaked": leaked, **again}

    def _titles(self, titles: Sequence[str | None]) -> list[bool | None]:
        again = iter(self.titles.again(_hashes([title for title in titles if title is not None])))
        return [None if title is None else bool(next(again)) for title in titles]


def columns_of(kind: str, rows: Sequence[Row]) -> tuple[dict[str, Any], Any]:
    """The parts of the rows as Arrow string arrays, and their whole content as one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    parts = {part: pa.array([row[part] for row in rows], pa.string()) for part in PARTS[kind]}
    first, *more = parts.values()
    if not more:
        return parts, pc.fill_null(first, "")
    return parts, pc.binary_join_element_wise(first, *more, "\n", null_handling="replace", null_replacement="")


def content_hashes(rows: Sequence[Row], content: Any) -> np.ndarray:
    """A hash of each row's content and kind, blind to case and spacing."""
    from models import quality

    marks: list[tuple[str | None, str]] = [(None, "")]
    if _any_has(rows, "kind", "history"):
        marks = [(row.get("kind"), str(row["history"]) if "history" in row else "") for row in rows]
    known = {mark: hash_of("\n".join(map(str, mark))) for mark in set(marks)}
    return quality.hashes(content, fold=True) ^ np.fromiter((known[mark] for mark in marks), np.uint64, len(marks))


def _any_has(rows: Sequence[Row], *names: str) -> bool:
    return not set(names).isdisjoint(set().union(*rows))


def hash_of(text: str) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(text.encode())


def _hashes(texts: Sequence[str | None]) -> np.ndarray:
    import pyarrow as pa

    from models import quality

    return quality.hashes(pa.array(texts, pa.string()))


def _presence(parts: dict[str, Any]) -> dict[str, Any]:
    import pyarrow.compute as pc

    from models import quality

    here = {f"{part}_here": pc.if_else(pc.is_valid(texts), True, None) for part, texts in parts.items()}
    return {**here, **{f"{part}_blank": quality.blank(texts) for part, texts in parts.items()}}


def _content(content: Any, bounds: Bounds) -> dict[str, Any]:
    from models import privacy, quality

    return {
        "characters": quality.characters(content),
        "tokens": quality.pretokens(content),
        "replacement": quality.replacement(content),
        "control": quality.control(content),
        "mojibake": quality.mojibake(content),
        "invisible": quality.invisible(content),
        "markers": quality.markers(content),
        "repetition": quality.repetition(content),
        "letters": quality.letters(content),
        "foreign": quality.foreign(content, script=bounds.script),
        "profane": quality.profane(content),
        "email": privacy.email(content),
        "phone": privacy.phone(content),
        "card": privacy.card(content),
        "iban": privacy.iban(content),
        "secret": privacy.secret(content),
    }


def _links(matters: Sequence[str | None], content: Any) -> dict[str, Any]:
    """Links matter where the source has none by rights."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from models import quality

    free = pa.array([kind in LINK_FREE for kind in matters], pa.bool_())
    return {"url": pc.if_else(free, quality.urls(content), None)} if pc.any(free).as_py() else {}


def _pass_over_code(found: dict[str, Any], matters: Sequence[str | None]) -> None:
    """Takes out what does not apply to code."""
    import pyarrow as pa
    import pyarrow.compute as pc

    code = pa.array([kind in CODE for kind in matters], pa.bool_())
    if pc.any(code).as_py():
        for name in ("markers", "repetition", "letters", "foreign", "phone"):
            found[name] = pc.if_else(code, None, found[name])


def _instruction_columns(rows: Sequence[Row], parts: dict[str, Any]) -> dict[str, Any]:
    import pyarrow.compute as pc

    from models import quality

    prompt, response = parts["prompt"], parts["response"]
    echo = pc.equal(pc.utf8_trim_whitespace(prompt), pc.utf8_trim_whitespace(response))
    return {"echo": pc.fill_null(echo, False), "contained": quality.contains(prompt, response)}


def _preference_columns(rows: Sequence[Row], parts: dict[str, Any]) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.compute as pc

    chosen, rejected = parts["chosen"], parts["rejected"]
    same = pc.equal(pc.utf8_trim_whitespace(chosen), pc.utf8_trim_whitespace(rejected))
    more, less = pc.utf8_length(chosen), pc.utf8_length(rejected)
    longer = pc.if_else(pc.equal(more, less), 0.5, pc.cast(pc.greater(more, less), pa.float64()))
    return {"same": pc.fill_null(same, False), "longer": longer}


def _label_columns(rows: Sequence[Row], parts: dict[str, Any]) -> dict[str, Any]:
    labels = [row["label"] for row in rows]
    return {
        "label_here": [None if label is None else True for label in labels],
        "good": [None if label is None else float(label) for label in labels],
    }


_COLUMNS: dict[str, Callable[[Sequence[Row], dict[str, Any]], dict[str, Any]]] = {
    "instructions": _instruction_columns,
    "preferences": _preference_columns,
    "labels": _label_columns,
}


def _special(kind: str, rows: Sequence[Row]) -> dict[str, list[Any]]:
    """The facts of built-in rows, None for every other row; no column where no row has one."""
    names, look = _SPECIAL.get(kind, ((), lambda row: {}))
    if not _any_has(rows, *names):
        return {}
    columns: dict[str, list[Any]] = {}
    for index, row in enumerate(rows):
        for name, value in look(row).items():
            columns.setdefault(name, [None] * len(rows))[index] = value
    return columns


def _article(row: Row) -> dict[str, Any]:
    return {
        "lead_words": len(row["lead"].split()),
        "disambiguation": re.search(DISAMBIGUATION, row["lead"]) is not None,
    }


def _text(row: Row) -> dict[str, Any]:
    text: str | None = row["text"]
    facts: dict[str, Any] = {}
    if text is None:
        return facts
    if row.get("language") == "en" and text:
        facts["ascii"] = sum(map(str.isascii, text)) / len(text) if not text.isascii() else 1.0
    if "lead" in row:
        facts |= {**_article(row), "title": f"{row['language']}:{text.split(chr(10))[0]}"}
    if "speakers" in row:
        facts |= {"speakers": row["speakers"], **_spoken(text, 60)}
        if row["speakers"] == 2:
            facts["dialogue_words"] = len(text.split())
    return facts


def _instruction(row: Row) -> dict[str, Any]:
    if row.get("kind") == "docstring":
        return {"docstring_words": len((row["response"] or "").split())}
    if "lead" not in row:
        return {}
    facts, response = _article(row), row["response"]
    match row["kind"]:
        case "gloss":
            facts["ungrounded"] = len(prose.ungrounded_numbers(response, row["prompt"]))
            facts["gloss_words"] = len(response.split())
        case "topic":
            facts["known_topic"] = response in row["choices"]
        case "name":
            facts["unmasked"] = prose.mask(row["prompt"], response) is not None
    return facts


def _rating(row: Row) -> dict[str, Any]:
    ratings = list(row["ratings"].values())
    facts = {
        "speakers": row["speakers"], "untouched": set(ratings) == {5}, "lowest": min(ratings), "highest": max(ratings),
        **_spoken(row["text"], 30),
    }  # fmt: skip
    if row["speakers"] == 2:
        facts["words"] = len(row["text"].split())
    return facts


def _spoken(text: str, least: int) -> dict[str, float]:
    """The share of the commonest word, where there are words enough to say so."""
    words = text.casefold().split()
    return {"top_word": Counter(words).most_common(1)[0][1] / len(words)} if len(words) >= least else {}


_SPECIAL: dict[str, tuple[tuple[str, ...], Callable[[Row], dict[str, Any]]]] = {  # for rows with any of these names
    "text": (("language", "lead", "speakers"), _text),
    "instructions": (("lead", "kind"), _instruction),
    "ratings": (("ratings",), _rating),
}
