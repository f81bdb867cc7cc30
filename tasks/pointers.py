"""What `data.dvc` and each `models/<name>.dvc` name, and which objects of DVC's cache hold it: read without DVC.

A pointer holds DVC's MD5 of the folder's list of files, its size, and as `meta` which step made the content (`key`)
and what it is (`digest`, as in the step's manifest). Importing DVC costs a third of a second; looking costs none.
"""

import configparser
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import steps
from tasks.errors import DataVersionError
from tasks.settings import project

FOLDER = ".dir"  # ends the MD5 of a folder: that of the list of its files, which is an object of its own
LIST = "the list of its files"


@dataclass(frozen=True)
class Pointer:
    """One `.dvc` file: a version of a folder. The one without an MD5 names nothing."""

    md5: str = ""
    size: int = 0  # bytes
    files: int = 0
    key: str = ""
    digest: str = ""

    @property
    def meta(self) -> dict[str, str]:
        return {name: value for name, value in {"key": self.key, "digest": self.digest}.items() if value}


def targets() -> list[Path]:
    """`data/` and the model folders that have a pointer."""
    found = [path.with_suffix("") for path in sorted((project() / "models").glob("*.dvc"))]
    return [project() / "data", *found]


def name(target: Path) -> str:
    return target.relative_to(project()).as_posix()


def file_of(target: Path) -> Path:
    return target.with_name(target.name + ".dvc")


def read(target: Path) -> Pointer:
    """The folder's pointer; one that names nothing where there is none. Raises DataVersionError where it is broken."""
    file = file_of(target)
    if not file.exists():
        return Pointer()
    remedy = f"restore it with: git checkout {name(target)}.dvc, or delete it"
    return parse(file.read_bytes(), str(file), remedy)


def parse(text: bytes, source: str, remedy: str) -> Pointer:
    import yaml

    try:
        content = yaml.safe_load(text.decode())
        out, meta = content["outs"][0], content.get("meta", {})
        return Pointer(
            md5=str(out["md5"]), size=int(out.get("size", 0)), files=int(out.get("nfiles", 1)),
            key=str(meta.get("key", "")), digest=str(meta.get("digest", "")),
        )  # fmt: skip
    except (yaml.YAMLError, AttributeError, IndexError, TypeError, ValueError, KeyError):
        raise DataVersionError(f"{source} is not a DVC pointer; {remedy}") from None


def render(target: Path, pointer: Pointer) -> bytes:
    """The text of a pointer. What somebody added to the one before, as `desc` or `remote`, stays."""
    import yaml

    file = file_of(target)
    content: dict[str, Any] = yaml.safe_load(file.read_bytes()) if file.exists() else {"outs": [{}]}
    out = {"md5": pointer.md5, "size": pointer.size, "nfiles": pointer.files, "hash": "md5", "path": target.name}
    content["outs"] = [{**content["outs"][0], **out}]
    content["meta"] = {**content.get("meta", {}), **pointer.meta}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode()


def md5_of(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "md5").hexdigest()


def files_of(folder: Path) -> dict[str, str]:
    """MD5 of every file below a folder by its relative path; empty where there is no folder."""
    return {path.relative_to(folder).as_posix(): md5_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def kept(folder: Path) -> list[Path]:
    """The files of a step's folder that a version holds: the manifest and the log stay in the store."""
    left_out = (folder / steps.MANIFEST, folder / steps.UNHASHED)
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in paths if path not in left_out and left_out[1] not in path.parents]


def versioned(folder: Path) -> dict[str, str]:
    """MD5 by relative path of the files of a step's folder that a version holds."""
    return {path.relative_to(folder).as_posix(): md5_of(path) for path in kept(folder)}


def list_md5(files: Mapping[str, str]) -> str:
    """DVC's MD5 of a folder with these files."""
    entries = [{"md5": files[path], "relpath": path} for path in sorted(files)]
    return hashlib.md5(json.dumps(entries, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + FOLDER


def object_path(md5: str) -> Path:
    """Where DVC's cache keeps an object."""
    cache = repository() / Path(setting("cache", "dir") or "cache").expanduser()
    return (cache / "files" / "md5" / md5[:2] / md5[2:]).resolve()


def is_sound(md5: str) -> bool:
    """Whether DVC's cache has the object, and what it has is that object. DVC itself trusts whatever is read-only."""
    file = object_path(md5)
    return file.is_file() and md5_of(file) == md5.removesuffix(FOLDER)


def recorded(pointer: Pointer) -> dict[str, str]:
    """MD5 of each file of the version by relative path; empty where DVC's cache does not have the list intact."""
    if not pointer.md5.endswith(FOLDER) or not is_sound(pointer.md5):
        return {}
    entries = json.loads(object_path(pointer.md5).read_text(encoding="utf-8"))
    return {entry["relpath"]: entry["md5"] for entry in entries}


def objects(pointer: Pointer) -> dict[str, str]:
    """What each object of the version holds, by MD5: the list last. Alone where DVC's cache does not have the list."""
    return {**{md5: path for path, md5 in recorded(pointer).items()}, pointer.md5: LIST}


def unsound(pointer: Pointer) -> dict[str, str]:
    """The objects of the version that DVC's cache lacks or has damaged, by MD5: what each should hold."""
    return {md5: path for md5, path in objects(pointer).items() if not is_sound(md5)}


def is_complete(pointer: Pointer) -> bool:
    """Whether DVC's cache has every object of the version. Looks, and does not read them."""
    return bool(recorded(pointer)) and all(object_path(md5).is_file() for md5 in objects(pointer))


def counts(pointer: Pointer) -> dict[str, Any]:
    """What the version's own `counts.json` says; empty where DVC's cache does not have it."""
    md5 = recorded(pointer).get("counts.json", "")
    return json.loads(object_path(md5).read_text(encoding="utf-8")) if md5 and is_sound(md5) else {}


def rows(counts: Mapping[str, Any]) -> int | None:
    """All rows of a data set, from its `counts.json`; None where that does not say."""
    found = counts.get("files", counts.get("rows"))
    return None if found is None else _total(found)


def _total(value: Any) -> int:
    if isinstance(value, Mapping):
        return sum(map(_total, value.values()))
    return value if isinstance(value, int) else 0


def repository() -> Path:
    """DVC's folder in the project."""
    return project() / ".dvc"


def setting(section: str, name: str) -> str:
    """A setting of DVC's repository, the local one before the shared one; empty where there is none."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read([repository() / "config", repository() / "config.local"], encoding="utf-8")
    except configparser.Error as error:
        raise DataVersionError(f"{repository() / 'config'} cannot be read: {' '.join(str(error).split())}") from None
    return parser.get(section, name, fallback="").strip("'\"")
