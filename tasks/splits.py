"""Which side of the split each row stands on: decided by groups, before anything is trained or compared."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from models import prose
from models.hashes import Seen
from tasks.rows import Row

SPLITS = ("train", "validation", "test")
STRADDLING = "straddling"
AT_ONCE = 100_000  # names of groups in memory
SHARES = {"train": 0.8, "validation": 0.1, "test": 0.1}


@dataclass
class Sides:
    """The hold-out rule of every row, resolved over all files.

    `given`: the source says which side (`side`). `hash`: SHA-256 of the group mod 100, 80/10/10. `year`: up to 2016, to
    2023, later. `people`: by circle. `rank:FAMILY`: whole groups by the order of their hashes, at least one on each
    held-out side from three groups on. `carve:SIDE`: the source says train, and a tenth of the groups becomes SIDE.
    """

    circles: dict[str, str] = field(default_factory=dict)
    circle_sides: dict[str, str] = field(default_factory=dict)
    ranks: dict[str, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[Iterable[Row]]) -> "Sides":
        """Reads every row once; memory grows by 16 bytes for each distinct group of a ranked family."""
        talks: list[Sequence[str]] = []
        places: dict[str, Seen] = defaultdict(Seen)
        groups: dict[str, set[str]] = defaultdict(set)
        for row in chain.from_iterable(files):
            if row["holdout"] == "people":
                talks.append(row["people"])
            elif row["holdout"].startswith("rank:"):
                met = groups[row["holdout"]]
                met.add(row["group"])
                if len(met) >= AT_ONCE:
                    places[row["holdout"]].again(_places(met))
                    met.clear()
        for family, met in groups.items():
            places[family].again(_places(met))
        circles = _circles(talks)
        held = Counter(circles[person] for people in talks for person in people)
        return cls(circles, _fill(held), {family: _cuts(seen.distinct()) for family, seen in places.items()})

    def side(self, row: Row) -> str:
        """One of SPLITS, or STRADDLING for a dialogue between people of two sides."""
        match row["holdout"]:
            case "given":
                return str(row["side"])
            case "people":
                sides = {self.circle_sides[self.circles[person]] for person in row["people"]}
                return sides.pop() if len(sides) == 1 else STRADDLING
            case "year":
                return "train" if row["year"] <= 2016 else "validation" if row["year"] <= 2023 else "test"
            case "hash":
                return hashed_side(row["group"])
            case "carve:validation" | "carve:test":
                carved = _percent(row["group"]) >= 90
                return str(row["holdout"]).removeprefix("carve:") if carved else "train"
            case family:
                test, validation = self.ranks[family]
                place = _place(row["group"])
                return "test" if place <= test else "validation" if place <= validation else "train"

    def group(self, row: Row) -> str:
        """What never stands on two sides: people's circle, or the row's own group."""
        return f"circle:{self.circles[row['people'][0]][:8]}" if row["holdout"] == "people" else row["group"]


def hashed_side(group: str) -> str:
    """Train, validation or test in 80, 10 and 10 of a hundred groups."""
    place = _percent(group)
    return "train" if place < 80 else "validation" if place < 90 else "test"


def _percent(group: str) -> int:
    return int(hashlib.sha256(group.encode()).hexdigest(), 16) % 100


def _place(group: str) -> int:
    """Where a group stands in the shuffled order of all groups; below 1 everything is training data."""
    return max(1, int(prose.place(0, group)[:16], 16))


def _places(groups: Collection[str]) -> np.ndarray:
    return np.fromiter(map(_place, groups), np.uint64, len(groups))


def _cuts(places: np.ndarray) -> tuple[int, int]:
    """The last place of the test side and of the validation side: a tenth of the groups each, none below three."""
    held = max(1, round(len(places) / 10)) if len(places) >= 3 else 0
    return (int(places[held - 1]), int(places[2 * held - 1])) if held else (0, 0)


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
