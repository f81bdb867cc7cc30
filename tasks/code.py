"""The code half of a step's identity: a digest of what its modules do, blind to comments, docstrings and layout."""

import ast
import gc
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tasks.settings import ROOT

_parsing = threading.Lock()


def digests(*modules: str) -> dict[str, str]:
    """Digest of a stage's own modules and of every `models` module that they reach, by dotted name.

    Infrastructure (the store, tracking, progress) is how a step runs, not what it makes, and is left out.
    """
    return {name: _digest(name) for name in sorted(frozenset().union(*map(_reached, modules)))}


@cache
def _reached(module: str) -> frozenset[str]:
    if _path(module) is None:
        return frozenset()
    found, waiting = {module}, [module]
    while waiting:
        for name in _imports(waiting.pop()):
            if name.startswith("models.") and name not in found and _path(name):
                found.add(name)
                waiting.append(name)
    return frozenset(found)


def _imports(module: str) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@cache
def _digest(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node
        ):
            node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]


def _tree(module: str) -> ast.Module:
    path = _path(module)
    assert path is not None, module
    with _uninterrupted():
        return ast.parse(path.read_text(encoding="utf-8"))


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """In Python 3.11 a parse fails with a SystemError where another thread parses in the middle of it.

    A thread gives way there for one reason, a finalizer that the garbage collector runs (python/cpython#106905).
    """
    with _parsing:
        collecting = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collecting:
                gc.enable()


def _path(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split(".")).with_suffix(".py")
    return path if path.is_file() else None
