"""The pointers in git: which are committed, what an earlier commit named, and the commit of one pointer alone."""

import os
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tasks import pointers
from tasks.errors import DataVersionError, UsageError
from tasks.settings import project


@dataclass(frozen=True)
class Commit:
    """A commit that changed a pointer, and the pointer that it left; None where it deleted or broke it."""

    sha: str
    when: datetime
    subject: str
    pointer: pointers.Pointer | None


def is_committed(target: Path) -> bool | None:
    """Whether the pointer is in git exactly as it lies here; None without git."""
    changed = _ask("status", "--porcelain", "--", _file(target))
    if changed is None:
        return None
    return not changed and _is_tracked(target)


def pointer_at(revision: str, target: Path) -> bytes:
    """The text of the pointer in a git revision.

    Raises UsageError where there is no such revision, DataVersionError where it has no such pointer.
    """
    sha = _ask("rev-parse", "--verify", "--quiet", "--end-of-options", revision + "^{commit}")
    if sha is None:
        where = "" if is_committed(target) is not None else f", and {project()} is no git checkout that git can read"
        raise UsageError(
            f"git knows no revision {revision!r}{where}; `evergreen data history` shows those to choose from"
        )
    text = _ask("show", f"{sha.decode().strip()}:./{_file(target)}")
    if text is None:
        raise DataVersionError(
            f"revision {revision} has no {_file(target)}; `evergreen data history` shows those with one"
        )
    return text


def log(target: Path) -> list[Commit]:
    """The commits that changed the pointer, newest first; none without git."""
    lines = (_ask("log", "--format=%H%x00%cI%x00%s", "--", _file(target)) or b"").decode(errors="replace").splitlines()
    found = [line.split("\0", 2) for line in lines]
    return [Commit(sha, datetime.fromisoformat(when), subject, _named(sha, target)) for sha, when, subject in found]


def commit(target: Path, message: str) -> str:
    """Commits the pointer and nothing else; returns the commit, empty where nothing had changed.

    What is staged stays staged. Raises DataVersionError where git is missing, has no identity or refuses.
    """
    state = is_committed(target)
    if state is None:
        raise DataVersionError(
            f"{_file(target)} cannot be committed: {project()} is no git checkout that git can read; leave the commit "
            "out, or make it one with: git init"
        )
    if state:
        return ""
    _require_identity(target)
    new = not _is_tracked(target)
    if new:
        _order(target, "add", "--", _file(target))
    try:
        _order(target, "commit", "--quiet", "--only", "--message", message, "--", _file(target))
    except DataVersionError:
        if new:
            _run("rm", "--cached", "--quiet", "--force", "--", _file(target))
        raise
    return (_ask("rev-parse", "HEAD") or b"").decode().strip()


def _require_identity(target: Path) -> None:
    if _ask("var", "GIT_AUTHOR_IDENT") is None or _ask("var", "GIT_COMMITTER_IDENT") is None:
        raise DataVersionError(
            f"{_file(target)} cannot be committed: git does not know who you are; say it with: git config user.name "
            "NAME and git config user.email ADDRESS"
        )


def _named(sha: str, target: Path) -> pointers.Pointer | None:
    text = _ask("show", f"{sha}:./{_file(target)}")
    try:
        return None if text is None else pointers.parse(text, _file(target), "")
    except DataVersionError:
        return None


def _is_tracked(target: Path) -> bool:
    return _ask("ls-files", "--error-unmatch", "--", _file(target)) is not None


def _file(target: Path) -> str:
    return pointers.name(target) + ".dvc"


def _order(target: Path, *words: str) -> None:
    done = _run(*words)
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
        raise DataVersionError(f"{_file(target)} cannot be committed; git {words[0]} says: {said[:300]}")


def _ask(*words: str) -> bytes | None:
    """What git answers; None where it fails, is missing, or finds no checkout."""
    done = _run(*words)
    return None if done.returncode else done.stdout


def _run(*words: str) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(project()), *words]
    environment = {**os.environ, "LC_ALL": "C", "GIT_OPTIONAL_LOCKS": "0"}  # looking must not write the index
    try:
        return subprocess.run(
            command, capture_output=True, stdin=subprocess.DEVNULL, timeout=60, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(command, 127, b"", str(error).encode())
