"""What is versioned: how things stand here, and which versions there were."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks import commits, pointers, remote, steps
from tasks.errors import DataVersionError
from tasks.pointers import Pointer
from tasks.settings import home, project

SHOWN = 5  # changed files that are named


def status() -> dict[str, Any]:
    """The default remote, and for `data/` and each versioned model: the version that its pointer names, whether the
    folder is exactly that, whether DVC's cache and the remote have all of it, and whether git has the pointer.

    Every file is read and hashed. A remote that cannot be reached is said, and no failure.
    """
    named = {target: pointer for target in pointers.targets() if (pointer := pointers.read(target)).md5}
    store, problem = remote.default(), ""
    absent: set[str] = set()
    if store and named:
        try:
            absent = remote.lacking_there({md5 for pointer in named.values() for md5 in pointers.objects(pointer)})
        except DataVersionError as error:
            problem = str(error)
    return {
        "remote": store and {"name": store.name, "url": store.shown, "problem": problem},
        "versions": [
            {
                **_named(target, pointer),
                "folder": _folder(target, pointer),
                "cache": _cache(pointer),
                "remote": _remote(pointer, absent) if store and not problem else None,
                "committed": commits.is_committed(target),
            }
            for target, pointer in named.items()
        ],
    }


def history() -> list[dict[str, Any]]:
    """The versions of `data.dvc`, newest first: those in git, and those that only the pointer or the store names.

    `current` is the one that `data.dvc` names; `restorable` says where it can be had from here: `cache`, `store`.
    """
    target = project() / "data"
    present = pointers.read(target)
    found = [
        _entry(made.pointer, made.when, commit=made.sha, subject=made.subject)
        for made in commits.log(target)
        if made.pointer
    ]
    known = {(entry["key"], entry["digest"]) for entry in found}
    for folder in steps.finished("data"):
        manifest = steps.read_manifest(folder) or {}
        if "digest" in manifest and (manifest["key"], manifest["digest"]) not in known:
            found.append(_from_store(folder, manifest, present))
    known = {(entry["key"], entry["digest"]) for entry in found}
    if present.md5 and (present.key, present.digest) not in known:
        found.append(_entry(present, _changed(pointers.file_of(target))))
    found.sort(key=lambda entry: datetime.fromisoformat(entry["when"]), reverse=True)
    current = next((entry for entry in found if entry["md5"] == present.md5 and entry["key"] == present.key), None)
    return [{**entry, "current": entry is current} for entry in found]


def _named(target: Path, pointer: Pointer) -> dict[str, Any]:
    return {
        "name": pointers.name(target), "pointer": pointers.name(target) + ".dvc", "key": pointer.key,
        "digest": pointer.digest, "md5": pointer.md5, "files": pointer.files, "bytes": pointer.size,
    }  # fmt: skip


def _folder(target: Path, pointer: Pointer) -> dict[str, Any]:
    """`exact`, `changed` with the files that differ, or `missing`."""
    if not target.exists():
        return {"state": "missing", "changed": [], "more": 0}
    found = pointers.files_of(target)
    if pointers.list_md5(found) == pointer.md5:
        return {"state": "exact", "changed": [], "more": 0}
    recorded = pointers.recorded(pointer)
    changed = sorted(path for path in {*found, *recorded} if found.get(path) != recorded.get(path)) if recorded else []
    return {"state": "changed", "changed": changed[:SHOWN], "more": max(0, len(changed) - SHOWN)}


def _cache(pointer: Pointer) -> dict[str, Any]:
    lacking = pointers.unsound(pointer)
    damaged = sorted(what for md5, what in lacking.items() if pointers.object_path(md5).exists())
    return {"complete": not lacking, "missing": len(lacking) - len(damaged), "damaged": damaged}


def _remote(pointer: Pointer, absent: set[str]) -> dict[str, Any]:
    """Without the list of files, which the cache may lack, its presence speaks for the files: it is sent last."""
    missing = [md5 for md5 in pointers.objects(pointer) if md5 in absent]
    return {"complete": not missing, "missing": len(missing)}


def _entry(pointer: Pointer, when: datetime, *, commit: str = "", subject: str = "") -> dict[str, Any]:
    manifest = (pointer.key and steps.read_manifest(home() / "store" / "data" / pointer.key)) or {}
    in_store = manifest.get("digest") == pointer.digest != ""
    places = {"cache": pointers.is_complete(pointer), "store": in_store}
    return {
        "commit": commit or None,
        "when": when.astimezone().isoformat(timespec="seconds"),
        "subject": subject or None,
        "key": pointer.key,
        "digest": pointer.digest,
        "md5": pointer.md5 or None,
        "files": pointer.files,
        "bytes": pointer.size,
        "rows": pointers.rows(manifest.get("summary", {}) if in_store else pointers.counts(pointer)),
        "restorable": [place for place, has in places.items() if has],
    }


def _from_store(folder: Path, manifest: Mapping[str, Any], present: Pointer) -> dict[str, Any]:
    """A step's data set: what `data.dvc` says where it names just that, else what the store knows without hashing."""
    sizes = [path.stat().st_size for path in pointers.kept(folder)]
    made = Pointer(size=sum(sizes), files=len(sizes), key=manifest["key"], digest=manifest["digest"])
    named = present if present.meta == made.meta else made
    return _entry(named, _changed(folder / steps.MANIFEST))


def _changed(file: Path) -> datetime:
    return datetime.fromtimestamp(file.stat().st_mtime).astimezone()
