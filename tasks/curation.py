"""From valid rows to the files of the data set: sides first, then duplicates, decontamination, pairs, order."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from models import prose
from models.duplicates import near_duplicates

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}
FIELDS = {
    "text": ("id", "group", "domain", "text", "source", "licence"),
    "instructions": ("id", "group", "kind", "prompt", "response", "source", "licence"),
    "preferences": ("id", "group", "kind", "prompt", "chosen", "rejected", "origin", "source", "licence"),
}
CONTENT = {"text": ("text",), "instructions": ("prompt", "response"), "preferences": ("prompt", "chosen", "rejected")}
SENTENCE_WORDS = 8  # shorter sentences are common property
POINTS_APART, LENGTH_TOLERANCE = 3, 0.1
Dropped = tuple[str, str, Row]  # file, reason, row


@dataclass(frozen=True)
class Made:
    """Final rows by file and side, what was dropped, and the figures of the card."""

    files: dict[str, dict[str, list[Row]]]
    dropped: list[Dropped]
    counts: dict[str, Any]


def curate(files: Mapping[str, Sequence[Row]], *, seed: int, threshold: float, caps: Mapping[str, int]) -> Made:
    """Splits the valid rows, then removes what would let one side know another. Every row is accounted for."""
    sides = assign(files)
    dropped = [
        (name, "dialogue between people of two sides", row) for name in sides for row in sides[name].pop("straddling")
    ]  # fmt: skip
    ratings = sides.pop("ratings", {side: [] for side in SPLITS})
    made = {name: sides.get(name, {side: [] for side in SPLITS}) for name in FIELDS}
    for side in SPLITS:
        pairs, single = pair_ratings(ratings[side], seed=seed)
        made["preferences"][side] += pairs
        dropped += [("ratings", "no partner with the same prompt and length, rated 3 apart", row) for row in single]
    paired = {name: _total(made[name]) for name in made}
    cut, emptied = decontaminate(made["text"])
    dropped += [("text", reason, row) for row, reason in emptied]
    for name in FIELDS:
        dropped += [(name, reason, row) for row, reason in without_near_duplicates(name, made[name], threshold)]
    made["instructions"]["train"], over = capped(made["instructions"]["train"], caps, seed)
    dropped += [("instructions", reason, row) for row, reason in over]
    _account(files, paired, made, dropped)
    _disjoint(made)
    arranged = {"text": arranged_text, "instructions": shuffled, "preferences": shuffled}
    final = {
        name: {side: [_final(name, row) for row in arranged[name](rows, seed)] for side, rows in held.items()}
        for name, held in made.items()
    }
    figures = {
        "files": _counts(final),
        "sources": sorted({(row["source"], row["licence"]) for rows in files.values() for row in rows}),
        "sentences_cut": cut,
        "length_bias": _length_bias(files.get("ratings", ())),
    }
    return Made(final, dropped, figures)


def _account(
    files: Mapping[str, Sequence[Row]], paired: Mapping[str, int], made: Mapping[str, Any], dropped: Sequence[Dropped]
) -> None:
    lost = Counter(name for name, _, _ in dropped)
    for name in ("text", "instructions"):
        assert len(files.get(name, ())) == _total(made[name]) + lost[name], name
    assert paired["preferences"] == _total(made["preferences"]) + lost["preferences"]


def _disjoint(made: Mapping[str, Mapping[str, Sequence[Row]]]) -> None:
    """No group stands on two sides, across all files."""
    sides: dict[str, str] = {}
    for held in made.values():
        for side, rows in held.items():
            for row in rows:
                assert sides.setdefault(row["group"], side) == side, row["group"]


def _total(sides: Mapping[str, Sequence[Row]]) -> int:
    return sum(map(len, sides.values()))


def _counts(files: Mapping[str, Mapping[str, Sequence[Row]]]) -> dict[str, dict[str, dict[str, int]]]:
    """Rows by file, side, and domain or kind."""
    return {
        name: {
            side: dict(sorted(Counter(row.get("domain") or row["kind"] for row in rows).items()))
            for side, rows in held.items()
        }
        for name, held in files.items()
    }


def assign(files: Mapping[str, Sequence[Row]]) -> dict[str, dict[str, list[Row]]]:
    """Each row under its side by its hold-out rule; `straddling` holds dialogues between people of two sides.

    `hash`: SHA-256 of the group mod 100, 80/10/10. `year`: up to 2016, to 2023, later. `people`: by circle.
    `rank:FAMILY`: whole groups by the order of their hashes, at least one on each held-out side from three groups on.
    """
    everything = [row for rows in files.values() for row in rows]
    circles = _circles([row["people"] for row in everything if row["holdout"] == "people"])
    circle_sides = _fill(Counter(circles[person] for row in everything for person in row.get("people", ())))
    ranked: dict[str, dict[str, str]] = {
        family: _rank({row["group"] for row in everything if row["holdout"] == family})
        for family in {row["holdout"] for row in everything if row["holdout"].startswith("rank:")}
    }

    def side(row: Row) -> str:
        if row["holdout"] == "people":
            sides = {circle_sides[circles[person]] for person in row["people"]}
            return sides.pop() if len(sides) == 1 else "straddling"
        if row["holdout"] == "year":
            return "train" if row["year"] <= 2016 else "validation" if row["year"] <= 2023 else "test"
        return ranked[row["holdout"]][row["group"]] if row["holdout"] in ranked else hashed_side(row["group"])

    found: dict[str, dict[str, list[Row]]] = {name: {s: [] for s in (*SPLITS, "straddling")} for name in files}
    for name, rows in files.items():
        for row in rows:
            group = f"circle:{circles[row['people'][0]][:8]}" if row["holdout"] == "people" else row["group"]
            found[name][side(row)].append({**row, "group": group})
    return found


def hashed_side(group: str) -> str:
    place = int(hashlib.sha256(group.encode()).hexdigest(), 16) % 100
    return "train" if place < 80 else "validation" if place < 90 else "test"


def _circles(conversations: Iterable[Sequence[str]]) -> dict[str, str]:
    """Each person's circle: everybody belongs with the partner they talk to most, up to one who talks more than theirs.

    Nearly all people are connected somehow, so splitting by connected components is impossible; splitting each
    person alone would cut nearly half of the conversations, splitting circles cuts a tenth.
    """
    met: dict[str, Counter[str]] = defaultdict(Counter)
    for people in conversations:
        for person in people:
            met[person].update(other for other in people if other != person)
    busy = {person: (partners.total(), person) for person, partners in met.items()}

    def root(person: str) -> str:
        while met[person]:
            partner = max(met[person], key=lambda other: (met[person][other], busy[other]))
            if busy[partner] <= busy[person]:
                break
            person = partner
        return person

    return {person: root(person) for person in met}


def _fill(sizes: Counter[str]) -> dict[str, str]:
    """Circles, the largest first, each to the side that is furthest below its share."""
    held: Counter[str] = Counter()
    sides, total = {}, sizes.total()
    for name in sorted(sizes, key=lambda name: (-sizes[name], name)):
        sides[name] = max(SPLITS, key=lambda side: SHARES[side] * total - held[side])
        held[sides[name]] += sizes[name]
    return sides


def _rank(groups: set[str]) -> dict[str, str]:
    ranked = sorted(groups, key=lambda group: prose.place(0, group))
    held = max(1, round(len(ranked) / 10)) if len(ranked) >= 3 else 0
    sides = ["test"] * held + ["validation"] * held + ["train"] * len(ranked)
    return dict(zip(ranked, sides, strict=False))


def without_near_duplicates(name: str, sides: dict[str, list[Row]], threshold: float) -> list[tuple[Row, str]]:
    """Removes from the training side what is near to a held-out row, and from validation what is near to a test row.

    The test side stays as it is, so that its figures stay comparable. Returns the removed rows with their reason.
    """
    removed = []
    for side, others in (("validation", ("test",)), ("train", ("test", "validation"))):
        against = [row for other in others for row in sides[other]]
        near = near_duplicates(
            [_content(name, row) for row in sides[side]], [_content(name, row) for row in against], threshold=threshold
        )
        removed += [
            (sides[side][i], f"near duplicate of a held-out row: held-out {against[j]['id']}, {similarity:.2f}")
            for i, (j, similarity) in sorted(near.items())
        ]
        sides[side] = [row for i, row in enumerate(sides[side]) if i not in near]
    return removed


def decontaminate(text: dict[str, list[Row]]) -> tuple[int, list[tuple[Row, str]]]:
    """Cuts sentences that also stand in a test text out of the training text.

    Returns how many sentences were cut, and the rows of which nothing was left.
    """
    known = {mark for row in text["test"] for _, mark in _marked(row["text"])}
    kept, emptied, cut = [], [], 0
    for row in text["train"]:
        marked = [] if row["domain"] == "code" else list(_marked(row["text"]))  # lines of code are no quotations
        quoted = [sentence for sentence, mark in marked if mark in known]
        cut += len(quoted)
        left = row["text"]
        for sentence in quoted:
            left = left.replace(sentence, "").strip()
        if left:
            kept.append({**row, "text": left})
        else:
            emptied.append((row, "every sentence stands in a test text"))
    text["train"] = kept
    return cut, emptied


def _marked(text: str) -> Iterator[tuple[str, str]]:
    for line in text.split("\n"):
        for sentence in prose.sentences(line):
            if len(sentence.split()) >= SENTENCE_WORDS:
                yield sentence, " ".join(sentence.casefold().split())


def pair_ratings(rows: Sequence[Row], *, seed: int) -> tuple[list[Row], list[Row]]:
    """Two rated texts with the same prompt, far apart on one aspect and of about equal length; and the rows left over.

    Length alone predicts these ratings in three of four cases, so it is held equal. A text is used once for an aspect.
    """
    rated: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in shuffled(rows, seed):
        for aspect in row["ratings"]:
            rated[aspect, row["prompt"]].append(row)
    pairs, used = [], set()
    for (aspect, _), free in sorted(rated.items()):
        free.sort(key=lambda row: -row["ratings"][aspect])
        while free:
            best = free.pop(0)
            partner = next((row for row in reversed(free) if _comparable(best, row, aspect)), None)
            if partner:
                free.remove(partner)
                pairs.append(_pair(best, partner, aspect))
                used |= {best["id"], partner["id"]}
    return pairs, [row for row in rows if row["id"] not in used]


def _comparable(best: Row, worse: Row, aspect: str) -> bool:
    far = best["ratings"][aspect] - worse["ratings"][aspect] >= POINTS_APART
    return far and abs(len(best["text"]) - len(worse["text"])) <= LENGTH_TOLERANCE * len(best["text"])


def _pair(best: Row, worse: Row, aspect: str) -> Row:
    return {
        **best, "id": f"{aspect}:{best['record'][:8]}:{worse['record'][:8]}", "kind": aspect, "chosen": best["text"],
        "rejected": worse["text"], "origin": "human-rating",
    }  # fmt: skip


def _length_bias(rows: Sequence[Row]) -> float:
    """Among whole rated conversations far apart on an aspect, the share in which the better one is the longer one."""
    longer, pairs = 0.0, 0
    for aspect in sorted({aspect for row in rows for aspect in row["ratings"]}):
        by_rating: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            by_rating[row["ratings"][aspect]].append(row["length"])
        for high, low in product(by_rating, by_rating):
            if high - low >= POINTS_APART:
                better, worse = np.array(by_rating[high])[:, None], np.array(by_rating[low])[None]
                longer += float((better > worse).sum() + 0.5 * (better == worse).sum())
                pairs += better.size * worse.size
    return round(longer / pairs, 3) if pairs else 0.0


def arranged_text(rows: Sequence[Row], seed: int) -> list[Row]:
    """The encyclopaedia first, then the other domains in turn; shuffled within each."""
    domains: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: prose.place(seed, row["id"])):
        domains[row["domain"]].append(row)
    first = domains.pop("encyclopaedia", [])
    rest = sorted((index, domain) for domain, held in domains.items() for index in range(len(held)))
    return first + [domains[domain][index] for index, domain in rest]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return sorted(rows, key=lambda row: prose.place(seed, row["id"]))


def capped(rows: Sequence[Row], caps: Mapping[str, int], seed: int) -> tuple[list[Row], list[tuple[Row, str]]]:
    """At most so many rows of a kind, picked by the seed."""
    held: Counter[str] = Counter()
    kept, over = [], []
    for row in shuffled(rows, seed):
        held[row["kind"]] += 1
        limit = caps.get(row["kind"], 0)
        if limit and held[row["kind"]] > limit:
            over.append((row, f"more than {limit} rows of kind {row['kind']}"))
        else:
            kept.append(row)
    return kept, over


def _final(name: str, row: Row) -> Row:
    return {field: row[field] for field in FIELDS[name]}


def _content(name: str, row: Row) -> str:
    return "\n".join(row[field] for field in CONTENT[name])
