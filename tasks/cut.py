"""How a source's records become rows: what is picked, and how long the pieces are."""

from collections.abc import Iterable
from dataclasses import dataclass

from models import prose
from tasks.rows import Row

Found = tuple[str, Row]  # the file that a row belongs to, and the row


@dataclass(frozen=True)
class Cut:
    """The pick is by `seed`, at most `limit` records of a kind (0: all); lengths are in words."""

    seed: int
    limit: int
    prompt_words: int
    passage_words: int
    docstrings: int

    def take(self, names: Iterable[str]) -> list[str]:
        """The picked names, sorted."""
        ranked = sorted(names, key=lambda name: prose.place(self.seed, name))
        return sorted(ranked[: self.limit or None])
