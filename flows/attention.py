"""`evergreen attention`: its options, and how what a model's heads look at reads in a terminal."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.errors import UsageError

Rows = list[tuple[str, str]]
HEAD = 11
COLUMNS = (
    ("entropy", "{:.2f}"), ("distance", "{:.1f}"), ("first", "{:.0%}"), ("previous", "{:.0%}"), ("itself", "{:.0%}"),
    ("induction", "{:.0%}"),
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="NAME, NAME@alias, NAME/version, or a folder")
    parser.add_argument("text", metavar="TEXT", help="what the model reads")
    parser.add_argument("--out", metavar="FOLDER", default="attention", help="of the pictures (default: %(default)s)")
    parser.add_argument("--layers", metavar="N,N", default="", help="only these, counted from 0 (default: all)")
    parser.add_argument("--chat", action="store_true", help="as the turn of a user, in the chat template")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")


def attention(options: argparse.Namespace) -> tuple[dict[str, Any], Rows]:
    """What `--json` prints, and the lines of the table. Raises UsageError for what cannot be read or shown."""
    layers = _layers(options.layers)
    from tasks.attention import Request, answer

    out = Path(options.out).expanduser()
    found = answer(Request(options.model, options.text, out, layers=layers, chat=options.chat))
    return found, rows(found)


def rows(found: Mapping[str, Any]) -> Rows:
    size = f"{_many(found['layers'], 'layer')} of {_many(found['heads'], 'head')}, {len(found['tokens'])} tokens"
    lines = [
        (_head("model"), f"{found['architecture']}, {size}"),
        (_head("tokens"), "  ".join(token["text"] for token in found["tokens"])),
        ("", ""),
        ("layer  head" + "".join(f"{name:>11}" for name, _ in COLUMNS), ""),
    ]
    for each in found["figures"]:
        cells = "".join(f"{'-' if each[name] is None else shown.format(each[name]):>11}" for name, shown in COLUMNS)
        lines.append((f"{each['layer']:>5}  {each['head']:>4}{cells}", ""))
    bound = f"entropy is {found['uniform_entropy']:.2f} nats at most, that of a head that looks at all tokens alike"
    return [*lines, ("", ""), (_head("note"), bound), *((_head("picture"), path) for path in found["pictures"])]


def _layers(text: str) -> tuple[int, ...]:
    words = [word.strip() for word in text.split(",")] if text else []
    wrong = [word for word in words if not (word.isascii() and word.isdecimal())]
    if wrong:
        raise UsageError(f"--layers {text!r}: {wrong[0]!r} is no number of a layer; give them as in 0,2")
    return tuple(map(int, words))


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _head(word: str) -> str:
    return f"{word:<{HEAD}}"
