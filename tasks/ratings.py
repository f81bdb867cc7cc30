"""Rated and labelled texts as preference pairs: the same prompt, and one that people clearly liked better."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import product

import numpy as np

from models import prose
from tasks.rows import Row

POINTS_APART, LENGTH_TOLERANCE = 3, 0.1


def pair_ratings(rows: Sequence[Row], *, seed: int) -> tuple[list[Row], list[Row]]:
    """Two rated texts with the same prompt, far apart on one aspect and of about equal length; and the rows left over.

    Length alone predicts these ratings in three of four cases, so it is held equal. A text is used once for an aspect.
    """
    rated: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: prose.place(seed, row["id"])):
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


def length_bias(rows: Sequence[Row]) -> float:
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


def pair_labels(rows: Sequence[Row], *, seed: int) -> tuple[list[Row], list[Row]]:
    """An answer labelled good over one labelled bad for the same prompt, each used once; and the rows left over."""
    answers: dict[str, tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for row in sorted(rows, key=lambda row: prose.place(seed, row["id"])):
        answers[f"{row.get('history', '')}\n{row['prompt']}"][not row["label"]].append(row)
    pairs, used = [], set()
    for good, bad in answers.values():
        for chosen, rejected in zip(good, bad, strict=False):
            both = {"chosen": chosen["response"], "rejected": rejected["response"], "origin": "labels"}
            pairs.append({**chosen, "id": f"{chosen['id']}>{rejected['id']}", **both})
            used |= {chosen["id"], rejected["id"]}
    return pairs, [row for row in rows if row["id"] not in used]
