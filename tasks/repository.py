"""DVC's repository of the project: made where there is none, and used by one process at a time."""

import errno
import logging
import os
import shlex
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from tasks import pointers
from tasks.errors import DataVersionError
from tasks.settings import project

logger = logging.getLogger("evergreen.versioning")
SOON = 3.0  # seconds until a wait is worth a line
PATIENCE = 60.0  # seconds for DVC's own lock, which a command given by hand holds
UNWRITABLE = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "larger than a file may be",
    errno.EROFS: "the file system is read-only", errno.EACCES: "permission denied", errno.EPERM: "permission denied",
    errno.EXDEV: "on another disk than the project", errno.EBUSY: "another disk is mounted there",
}  # fmt: skip


@contextmanager
def lock() -> Iterator[None]:
    """Holds the project's versions for this process; another one waits, however long, and says for whom.

    Raises DataVersionError where the disk is full or something must not be written.
    """
    from filelock import FileLock, Timeout

    file = project() / ".evergreen" / "versioning.lock"
    holder = file.with_name("versioning.holder")
    with _writable():
        file.parent.mkdir(parents=True, exist_ok=True)
        guard = FileLock(file)
        try:
            guard.acquire(timeout=SOON)
        except Timeout:
            who, where = _read(holder), project()
            logger.info("waiting for %s, which works on the versions in %s; Ctrl-C stops waiting", who, where)
            guard.acquire()
        try:
            with suppress(OSError):  # a full disk stops nobody who has nothing to write
                holder.write_text(_this_process(), encoding="utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            guard.release()


@contextmanager
def opened() -> Iterator[Any]:
    """DVC's repository under DVC's lock. Quiet, and never touching git.

    Raises DataVersionError where a command given by hand holds that lock for too long, or a setting is broken.
    """
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")
    from dvc.config import ConfigError
    from dvc.repo import Repo

    logging.getLogger("dvc").setLevel(logging.WARNING)
    with redirect_stdout(sys.stderr):  # DVC prints; stdout belongs to whoever called
        try:
            _initialise(Repo)
            repository = Repo(str(project()), config={"core": {"no_scm": True}})
        except ConfigError as error:
            raise DataVersionError(f"DVC's settings in {pointers.repository()} are broken: {error}") from None
        with repository, _locked(repository):
            yield repository


def _initialise(kind: Any) -> None:
    folder = pointers.repository()
    if (folder / "config").exists():
        return
    from dvc.config import Config

    if folder.exists():  # a killed initialisation, or a lost file: what lies in the cache stays
        config = Config.init(str(folder))
    else:
        project().mkdir(parents=True, exist_ok=True)
        with kind.init(str(project()), no_scm=True) as made:
            config = made.config
    with config.edit("repo") as settings:
        settings["core"] |= {"analytics": False, "check_update": False}


@contextmanager
def _locked(repository: Any) -> Iterator[None]:
    """DVC tries its lock for three seconds and then fails; this tries again, and says for whom it waits."""
    from dvc.lock import LockError
    from dvc.repo import lock_repo

    deadline, said = time.monotonic() + PATIENCE, False
    with ExitStack() as held:
        while True:
            try:
                held.enter_context(lock_repo(repository))
                break
            except LockError:
                if not said:
                    logger.info("waiting for %s, which holds DVC's lock in %s", _dvc_holder(), project())
                said = True
                if time.monotonic() > deadline:
                    raise DataVersionError(
                        f"{_dvc_holder()} has held DVC's lock {pointers.repository() / 'tmp' / 'lock'} for more than "
                        f"{PATIENCE:.0f} seconds; let it end, or end it, then run again"
                    ) from None
        yield


def _this_process() -> str:
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return f"process {os.getpid()} on {socket.gethostname()} ({command[:60]})"


def _read(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8") or "another process"
    except FileNotFoundError:  # it has just ended
        return "another process"


def _dvc_holder() -> str:
    """DVC writes the number of the process that holds its lock into the lock's file."""
    try:
        number = (pointers.repository() / "tmp" / "lock").read_text(encoding="utf-8").strip()
        words = Path("/proc", number, "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return "another process"
    return f"process {number} ({' '.join(words).strip()[:60]})"


@contextmanager
def _writable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        raise DataVersionError(
            f"{UNWRITABLE[error.errno]}: {error.filename or project()}. Nothing was replaced; put that right, "
            "then run again"
        ) from error
