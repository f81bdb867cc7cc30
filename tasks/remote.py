"""DVC's default remote: which it is, how it is set up in one call, and access to what it holds."""

import importlib.util
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tasks import pointers, repository
from tasks.errors import DataVersionError, UsageError
from tasks.settings import home, project

SET_UP = "evergreen data remote URL"


@dataclass(frozen=True)
class Remote:
    """The default remote as DVC's settings name it."""

    name: str
    url: str

    @property
    def folder(self) -> Path | None:
        """The folder of a remote that is one; a relative path counts from `.dvc/`."""
        return None if "://" in self.url else (pointers.repository() / Path(self.url).expanduser()).resolve()

    @property
    def shown(self) -> str:
        """The URL without user and password, or the whole path of the folder."""
        return str(self.folder) if self.folder else re.sub(r"(?<=://)[^/@]*@", "", self.url)

    def __str__(self) -> str:
        return f"remote {self.name} ({self.shown})"


def default() -> Remote | None:
    """The default remote; None where there is none. Raises DataVersionError where its settings are broken."""
    name = pointers.setting("core", "remote").lower()
    url = pointers.setting(f"'remote \"{name}\"'", "url")
    if name and not url:
        raise DataVersionError(f"the default remote {name} has no URL; give it one: {SET_UP} --name {name}")
    return Remote(name, url) if name else None


def set_default(url: str, *, name: str = "", local: bool = False) -> Remote:
    """Makes a folder or a URL the default remote, in `.dvc/config`, or with `local` in `.dvc/config.local`.

    Without a name it takes the place of the default remote that there is. Raises UsageError for what cannot be a
    remote, DataVersionError where DVC lacks the plugin for it.
    """
    url, name = url.removeprefix("file://"), (name or pointers.setting("core", "remote") or "storage").lower()
    if not re.fullmatch(r"[a-z0-9_.-]+", name):
        raise UsageError(f"{name!r} cannot name a remote; use letters, digits, dots, - and _")
    _check_url(url, local) if "://" in url else _check_folder(Path(url).expanduser().resolve())
    with repository.lock(), repository.opened() as opened:
        with opened.config.edit("local" if local else "repo") as settings:
            earlier = settings["remote"].get(name, {})
            same_kind = urlsplit(str(earlier.get("url", ""))).scheme == urlsplit(url).scheme
            settings["remote"][name] = {**(earlier if same_kind else {}), "url": url}
            settings["core"]["remote"] = name
        if not local and (pointers.repository() / "config.local").exists():
            with opened.config.edit("local") as settings:  # which would win over what was just set
                settings["core"].pop("remote", None)
                settings["remote"].get(name, {}).pop("url", None)
    made = default()
    assert made is not None
    if made.folder:
        made.folder.mkdir(exist_ok=True)
    return made


def required() -> Remote:
    """The default remote. Raises DataVersionError with the command that sets one up where there is none."""
    remote = default()
    if remote is None:
        raise DataVersionError(f"there is no remote; set one up: {SET_UP}, where URL is a folder, s3://..., ssh://...")
    return remote


@contextmanager
def usable(remote: Remote) -> Iterator[None]:
    """Says in one way whatever keeps a remote from being used: every plugin has errors of its own."""
    if remote.folder and not remote.folder.is_dir():
        raise DataVersionError(f"{remote} is not there: mount its disk, make the folder, or set another: {SET_UP}")
    try:
        yield
    except DataVersionError:
        raise
    except OSError as error:
        if error.errno in repository.UNWRITABLE:
            raise
        raise DataVersionError(f"{remote} cannot be reached: {error}") from error
    except Exception as error:
        if isinstance(error, ImportError):
            _require_plugin(remote.url)
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise DataVersionError(f"{remote} cannot be used: {said[:300]}") from error


def store(opened: Any) -> Any:
    """The remote's objects, as DVC knows them. Raises what the plugin raises where it cannot be reached."""
    objects = opened.cloud.get_remote_odb()
    objects.fs.exists(objects.path)  # or a remote that cannot be reached would look like an empty one
    return objects


def there(objects: Any, named: Iterable[str]) -> set[str]:
    """Which of these objects, by MD5, are there.

    A folder is asked for names alone: DVC would hash what is not read-only, and delete what is damaged.
    """
    names = list(named)
    return set(objects.list_oids_exists(names) if objects.fs.protocol == "local" else objects.oids_exist(names))


def lacking_there(named: Iterable[str]) -> set[str]:
    """Which of these objects, by MD5, the default remote does not have. Looks for them, and does not read them.

    Raises DataVersionError where the remote cannot be used.
    """
    remote = required()
    with usable(remote):
        if remote.folder:
            kept = remote.folder / "files" / "md5"
            return {md5 for md5 in named if not (kept / md5[:2] / md5[2:]).is_file()}
        with repository.opened() as opened:
            return set(named) - there(store(opened), named)


def _check_url(url: str, local: bool) -> None:
    if urlsplit(url).password and not local:
        raise UsageError("the password would be committed with .dvc/config; add --local, or leave it out of the URL")
    _require_plugin(url)


def _require_plugin(url: str) -> None:
    from dvc.fs import known_implementations

    scheme = urlsplit(url).scheme
    kinds = {name: entry["class"].split(".")[0] for name, entry in known_implementations.items() if "err" in entry}
    kinds = {name: module for name, module in kinds.items() if module.startswith("dvc_")}
    if scheme not in kinds:
        raise UsageError(
            f"DVC has no remote of the kind {scheme}://; give a folder, or one of {', '.join(sorted(kinds))}"
        )
    if importlib.util.find_spec(kinds[scheme]) is None:
        plugin = kinds[scheme].replace("_", "-")
        raise DataVersionError(
            f"{scheme}:// needs the DVC plugin {plugin}, which is not installed; install it with: pip install "
            f"--constraint requirements.lock {plugin}"
        )


def _check_folder(folder: Path) -> None:
    kept = [*pointers.targets(), pointers.repository(), pointers.object_path("00").parents[2], home() / "store"]
    for taken in kept:
        if folder == taken or taken in folder.parents:
            raise UsageError(f"{folder} is inside {taken}, which is no place for a remote; choose a folder outside it")
    if folder == project() or folder in project().parents:
        raise UsageError(f"{folder} holds the project itself; choose a folder of its own")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; choose a folder")
    if not folder.parent.is_dir():
        raise UsageError(f"there is no folder {folder.parent} to make {folder.name} in; make it, or mount its disk")
