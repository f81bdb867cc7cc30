"""A report as a handful of blocks, written as Markdown and as one HTML page that needs nothing beside it."""

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from models.loss_mask import STYLE as TOKENS_STYLE
from models.loss_mask import Piece, bracketed, coloured

GOOD, BAD, PLAIN = "good", "bad", ""


@dataclass(frozen=True)
class Cell:
    """One figure of a table: the value, in small letters what qualifies it, and whether it is good or bad news."""

    value: str
    note: str = ""
    tone: str = PLAIN
    strong: bool = False


@dataclass(frozen=True)
class Prose:
    text: str


@dataclass(frozen=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]


@dataclass(frozen=True)
class Figure:
    file: str
    caption: str


@dataclass(frozen=True)
class Points:
    items: Sequence[str]


@dataclass(frozen=True)
class Commands:
    """Lines for a shell, each with what it does."""

    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Masked:
    """The tokens of a training example, with what is trained marked."""

    name: str
    pieces: Sequence[Piece]


Block = Prose | Table | Figure | Points | Commands | Masked


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Tile:
    """One headline figure."""

    label: str
    value: str
    note: str
    tone: str = PLAIN


@dataclass(frozen=True)
class Page:
    title: str
    verdict: str
    tone: str
    reasons: Sequence[str] = ()
    tiles: Sequence[Tile] = ()
    sections: Sequence[Section] = field(default_factory=tuple)


def markdown(page: Page) -> str:
    """GitHub's Markdown; figures are links to `plots/`."""
    parts = [f"# {page.title}", *([f"**{page.verdict}**"] if page.verdict else [])]
    if page.reasons:
        parts.append(_markdown_points(page.reasons))
    if page.tiles:
        figures = [Cell(tile.value, f"({tile.note})", strong=True) for tile in page.tiles]
        parts.append(_markdown_table(Table([tile.label for tile in page.tiles], [figures])))
    for section in page.sections:
        parts += [f"## {section.title}", *(_MARKDOWN[type(block)](block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def html_page(page: Page, folder: Path) -> str:
    """One self-contained page: style and pictures (read from `folder`) are inside it."""
    tiles = "".join(
        f'<div class="tile {tile.tone}"><div class="label">{_inline(tile.label)}</div>'
        f'<div class="value">{_inline(tile.value)}</div><div class="note">{_inline(tile.note)}</div></div>'
        for tile in page.tiles
    )
    verdict = f'<p class="verdict">{_inline(page.verdict)}</p>' if page.verdict else ""
    body = [
        f'<header class="{page.tone}"><div class="eyebrow">Evergreen report</div><h1>{_inline(page.title)}</h1>',
        f"{verdict}{_html_points(page.reasons)}</header>",
        f'<div class="tiles">{tiles}</div>' if tiles else "",
        *(_html_section(section, folder) for section in page.sections),
    ]
    head = HEAD.format(title=html.escape(page.title), style=STYLE + TOKENS_STYLE)
    return "\n".join(
        ["<!doctype html>", '<html lang="en">', head, "<body><main>", *body, "</main></body>", "</html>\n"]
    )


def _markdown_table(table: Table) -> str:
    lines = ["| " + " | ".join(map(_escaped, table.head)) + " |", "|" + " --- |" * len(table.head)]
    lines += ["| " + " | ".join(_markdown_cell(cell) for cell in row) + " |" for row in table.rows]
    return "\n".join(lines)


def _markdown_cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return _escaped(cell)
    value = f"**{cell.value}**" if cell.strong or cell.tone else cell.value
    return _escaped(f"{value} {cell.note}".strip())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _markdown_points(items: Sequence[str]) -> str:
    return "\n".join(f"- {item}" for item in items)


def _markdown_commands(commands: Commands) -> str:
    width = max(len(command) for command, _ in commands.lines)
    lines = [f"{command:<{width}}  # {purpose}" for command, purpose in commands.lines]
    return "```sh\n" + "\n".join(lines) + "\n```"


def _markdown_masked(masked: Masked) -> str:
    text = bracketed(masked.pieces)
    fence = max(["```", *(run + "`" for run in re.findall("`{3,}", text))], key=len)  # longer than any inside
    return f"{_code(masked.name)}, what is trained in brackets:\n\n{fence}text\n{text}\n{fence}"


def _code(text: str) -> str:
    return f"`{text.replace('`', chr(39))}`"


_MARKDOWN: dict[type, Callable[..., str]] = {
    Prose: lambda block: block.text,
    Table: _markdown_table,
    Figure: lambda block: f"![{block.caption}]({block.file})",
    Points: lambda block: _markdown_points(block.items),
    Commands: _markdown_commands,
    Masked: _markdown_masked,
}


def _html_section(section: Section, folder: Path) -> str:
    blocks = "\n".join(_html_block(block, folder) for block in section.blocks)
    return f"<section><h2>{_inline(section.title)}</h2>\n{blocks}</section>"


def _html_block(block: Block, folder: Path) -> str:
    match block:
        case Prose(text):
            return f"<p>{_inline(text)}</p>"
        case Table():
            return _html_table(block)
        case Figure(file, caption):
            data = base64.b64encode((folder / file).read_bytes()).decode()
            return (
                f'<figure><div class="scroll"><img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
                f"</div><figcaption>{_inline(caption)}</figcaption></figure>"
            )
        case Points(items):
            return _html_points(items)
        case Commands(lines):
            return '<dl class="commands">' + "".join(
                f"<dt><code>{html.escape(command)}</code></dt><dd>{_inline(purpose)}</dd>" for command, purpose in lines
            ) + "</dl>"  # fmt: skip
        case Masked(name, pieces):
            return f"<p>{_inline(_code(name))}, what is trained is marked:</p>\n{coloured(pieces)}"


def _html_table(table: Table) -> str:
    names = "".join(f"<th>{_inline(name)}</th>" for name in table.head)
    head = f"<thead><tr>{names}</tr></thead>" if any(table.head) else ""
    rows = "".join("<tr>" + "".join(_html_cell(cell) for cell in row) + "</tr>" for row in table.rows)
    return f'<div class="scroll"><table>{head}<tbody>{rows}</tbody></table></div>'


def _html_cell(cell: Cell | str) -> str:
    if isinstance(cell, str):
        return f"<td>{_inline(cell)}</td>"
    classes = f"{cell.tone} {'strong' if cell.strong else ''}".strip()
    note = f"<small>{_inline(cell.note)}</small>" if cell.note else ""
    return f'<td class="figure {classes}">{_inline(cell.value)}{note}</td>'


def _html_points(items: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{_inline(item)}</li>" for item in items) + "</ul>" if items else ""


def _inline(text: str) -> str:
    """Escapes text; `code` and **strong** keep their meaning."""
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", text)


HEAD = """<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{style}</style></head>"""

STYLE = """
:root { --ink: #1d2733; --soft: #5c6875; --line: #e3e7eb; --paper: #fff; --ground: #f4f6f7; --good: #1f7a4d;
  --good-ground: #edf6f1; --bad: #a8452c; --bad-ground: #fbf1ee; --accent: #2f6690; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 32px 20px 64px; }
header { background: var(--paper); border: 1px solid var(--line); border-left: 5px solid var(--accent);
  border-radius: 8px; padding: 24px 28px 20px; }
header.good { border-left-color: var(--good); } header.bad { border-left-color: var(--bad); }
.eyebrow { color: var(--soft); font-size: 13px; letter-spacing: .06em; text-transform: uppercase; }
h1 { font-size: 27px; line-height: 1.25; margin: 4px 0 10px; letter-spacing: -.01em; }
.verdict { font-size: 18px; font-weight: 600; margin: 0; }
header.good .verdict { color: var(--good); } header.bad .verdict { color: var(--bad); }
header ul { margin: 10px 0 0; padding-left: 20px; color: var(--soft); font-size: 14.5px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px; margin: 16px 0 0; }
.tile { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 14px 18px 12px; }
.tile .label, .tile .note { color: var(--soft); font-size: 13.5px; }
.tile .value { font-size: 26px; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums; }
.tile.good .value { color: var(--good); } .tile.bad .value { color: var(--bad); }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 8px; padding: 20px 28px 24px;
  margin-top: 16px; }
h2 { font-size: 19px; margin: 0 0 10px; letter-spacing: -.005em; }
p { margin: 10px 0; max-width: 46em; }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th { text-align: left; color: var(--soft); font-weight: 600; font-size: 13px; padding: 6px 14px 6px 0;
  border-bottom: 2px solid var(--line); vertical-align: bottom; }
td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th:first-child, td:first-child { position: sticky; left: 0; background: var(--paper); }
tr:last-child td { border-bottom: 0; }
td.figure { white-space: nowrap; } td.strong { font-weight: 650; }
td.good { color: var(--good); font-weight: 600; } td.bad { color: var(--bad); font-weight: 600; }
td small { display: block; color: var(--soft); font-size: 12px; font-weight: 400; }
figure { margin: 16px 0 4px; } img { width: 100%; height: auto; display: block; }
figcaption { color: var(--soft); font-size: 13.5px; margin-top: 6px; max-width: 52em; }
code { font: .92em ui-monospace, SFMono-Regular, Menlo, "Liberation Mono", Consolas, monospace; }
p code, li code, td code { background: var(--ground); border-radius: 4px; padding: 1px 4px; }
.commands { margin: 12px 0 0; }
.commands dt { background: #f0f3f5; border-radius: 6px; padding: 9px 12px; overflow-x: auto; white-space: nowrap; }
.commands dd { margin: 4px 0 14px 12px; color: var(--soft); font-size: 14px; }
@media (max-width: 640px) { main { padding: 12px 10px 40px; } header, section { padding: 16px 16px 18px; }
  h1 { font-size: 22px; } .verdict { font-size: 16px; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 10px 12px; } .tile .value { font-size: 21px; }
  .scroll { margin-right: -16px; padding-right: 16px; } th:first-child, td:first-child { max-width: 9em; }
  img { width: 680px; max-width: none; } }
@media print { body { background: #fff; } section, header, .tile { break-inside: avoid; } }
"""
