"""`evergreen data`: its actions with their options, and how what they find reads in a terminal.

Each action returns what `--json` prints, and the table's lines as pairs: a head, and the text that wraps beside it.
"""

import argparse
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from tasks.errors import UsageError

Rows = list[tuple[str, str]]
FOLDERS = {"exact": "exactly this version", "missing": "missing; evergreen data pull brings it"}


def add_actions(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _action(actions, status, "say which version is here, and whether folder, cache, remote and git have it")
    _action(actions, push, "copy what the pointers name from DVC's cache to the remote")
    bring = _action(actions, pull, "bring the version that data.dvc names")
    bring.add_argument("name", metavar="NAME", nargs="?", default="data", help="or models/NAME (default: %(default)s)")
    bring.add_argument("--rev", metavar="REVISION", default="", help="what the pointer of this git revision names")
    _action(actions, history, "list the versions of data.dvc, newest first")
    place = _action(actions, remote, "print the remote, or set it")
    place.add_argument("url", metavar="URL", nargs="?", default="", help="a folder, ssh://..., s3://..., gs://..., ...")
    place.add_argument("--name", default="", help="its name in DVC's settings (default: the present one's, or storage)")
    place.add_argument("--local", action="store_true", help="for this checkout alone, not in the committed settings")


def status(options: argparse.Namespace) -> tuple[Any, Rows]:
    from tasks.history import status as look

    found = look()
    rows = [row for version in found["versions"] for row in _version_rows(version, found["remote"])]
    return found, rows or [("", "nothing is versioned yet; a run of the data stage does that: evergreen run")]


def push(options: argparse.Namespace) -> tuple[Any, Rows]:
    from tasks.transfer import push as send

    done = send()
    return done, [
        ("", f"sent {_size(done)} to {done['remote']} ({done['url']}), which had {done['already_there']} before")
    ]


def pull(options: argparse.Namespace) -> tuple[Any, Rows]:
    from tasks.settings import project
    from tasks.transfer import pull as bring

    parts = options.name.strip("/").removesuffix(".dvc").split("/")
    if parts != ["data"] and not (len(parts) == 2 and parts[0] == "models" and parts[1] not in ("", ".", "..")):
        raise UsageError(f"{options.name!r} is no versioned folder; give data, or models/NAME")
    done = bring(project().joinpath(*parts), options.rev)
    state = "is now" if done["written"] else "was already"
    return done, [(f"{done['name']}/ ", f"{state} version {_identity(done)}, {_size(done)}")]


def history(options: argparse.Namespace) -> tuple[Any, Rows]:
    from tasks.history import history as look

    found = look()
    rows = [row for entry in found for row in _history_rows(entry)]
    return found, rows or [("", "no version of data.dvc yet; a run of the data stage makes one: evergreen run")]


def remote(options: argparse.Namespace) -> tuple[Any, Rows]:
    from tasks.remote import SET_UP, default, set_default

    if not options.url and (options.name or options.local):
        raise UsageError(f"give the URL as well: {SET_UP}")
    found = set_default(options.url, name=options.name, local=options.local) if options.url else default()
    if found is None:
        return None, [("", f"no remote: versions stay on this machine; set one up: {SET_UP}")]
    return {"name": found.name, "url": found.shown}, [(f"{found.name}  ", found.shown)]


def _action(
    actions: Any, function: Callable[[argparse.Namespace], tuple[Any, Rows]], text: str
) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = actions.add_parser(function.__name__, help=text, description=text)
    made.set_defaults(action=function)
    made.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    return made


def _version_rows(version: Mapping[str, Any], remote: Mapping[str, Any] | None) -> Rows:
    rows = [
        (f"{version['name']}  ", f"version {_identity(version)}, {_size(version)}"),
        ("  folder   ", _folder(version["folder"])),
        ("  cache    ", _cache(version["cache"])),
    ]
    if remote:
        rows.append(("  remote   ", remote["problem"] or _held(version["remote"], remote["name"])))
    if version["committed"] is not None:
        rows.append(("  git      ", f"{version['pointer']} is {'' if version['committed'] else 'not '}committed"))
    return rows


def _folder(folder: Mapping[str, Any]) -> str:
    if folder["state"] != "changed":
        return FOLDERS[folder["state"]]
    more = f" and {folder['more']} more" if folder["more"] else ""
    return f"changed: {', '.join(folder['changed'])}{more}" if folder["changed"] else "changed"


def _cache(cache: Mapping[str, Any]) -> str:
    if cache["complete"]:
        return "complete"
    damaged = f"damaged: {', '.join(cache['damaged'][:5])}" if cache["damaged"] else ""
    missing = f"{cache['missing']} objects missing" if cache["missing"] else ""
    return "; ".join(filter(None, (damaged, missing, "evergreen data pull mends it")))


def _held(held: Mapping[str, Any], name: str) -> str:
    return f"{name} has it" if held["complete"] else f"{name} lacks {held['missing']} objects: evergreen data push"


def _history_rows(entry: Mapping[str, Any]) -> Rows:
    when = f"{datetime.fromisoformat(entry['when']):%Y-%m-%d %H:%M}"
    mark = "*" if entry["current"] else " "
    places = " and ".join(entry["restorable"])
    said = [f"version {_identity(entry)}", _size(entry)]
    if entry["rows"] is not None:
        said.append(f"{entry['rows']:,} rows")
    said.append(f"here in the {places}" if places else "not here")
    commit = f"{entry['commit'][:9]} {entry['subject']}" if entry["commit"] else "not committed"
    return [(f"{mark} {when}  ", commit), (" " * 20, ", ".join(said))]


def _identity(version: Mapping[str, Any]) -> str:
    return version["key"] or (version["md5"] or "")[:16]


def _size(version: Mapping[str, Any]) -> str:
    size = version["bytes"]
    shown = f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size:,} bytes"
    return f"{version['files']} file{'' if version['files'] == 1 else 's'}, {shown}"
