"""Data sets of the Hugging Face hub, or a folder in its format, through the `datasets` library, row by row."""

import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from models.formats import Record, printable
from tasks import mining, readers
from tasks.errors import SourceError
from tasks.records import SUFFIXES, suffix_of
from tasks.rows import Row

logger = logging.getLogger("evergreen.ingest")
Splits = Mapping[str, Any]  # of name to datasets.IterableDataset


def facts(where: str) -> dict[str, Any]:
    """The commit of a data set of the hub, or the digests of a folder's files. Raises SourceError."""
    name, config, revision = _parts(where)
    folder = _folder(name)
    if folder is not None:
        return {"config": config, **mining.folder_facts(_files(folder))}
    return {"config": config, "commit": _commit(name, revision)}


def splits(where: str) -> Splits:
    """Every split as a stream. Raises SourceError where the library cannot read the data set."""
    import datasets

    name, config, revision = _parts(where)
    folder = _folder(name)
    commit = {} if folder is not None else {"revision": _commit(name, revision)}
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    datasets.logging.set_verbosity(logging.CRITICAL)  # it prints what it raises
    try:
        builder = datasets.load_dataset_builder(str(folder or name), config or None, **commit)
        found = dict(builder.as_streaming_dataset())
    except Exception as error:
        remedy = "name a config with #CONFIG, or mend its files"
        raise SourceError(f"{shown(where)}: `datasets` cannot read it ({_said(error)}); {remedy}") from error
    if folder is not None:
        _tell_unread(where, folder, builder.config.data_files or {})
    return found


def licence(found: Splits) -> str:
    """As the data set's card states it."""
    return str(next(iter(found.values())).info.license or "see its card")


def rows(where: str, split: str, found: Splits) -> Iterator[Row]:
    """Canonical rows of a split, `line` being the row's number from 1. Raises SourceError naming row and field."""
    name = f"{shown(where)}, split {printable(split)}"
    yield from readers.canonical_rows(enumerate(_records(found[split], name), start=1), name, unit="row")


def shown(where: str) -> str:
    """The source as people name it, fit for a terminal."""
    return printable(f"hub:{where}")


def _records(stream: Iterable[Record], name: str) -> Iterator[Record]:
    read = 0
    try:
        for record in stream:
            yield record
            read += 1
    except Exception as error:  # the library lets through what its parsers raise: Arrow's, pandas', json's, its own
        problem = f"`datasets` cannot read on ({_said(error)}); mend the file, or give its folder as path:FOLDER"
        raise SourceError(f"{name}, after row {read}: {problem}") from error


def _said(error: Exception) -> str:
    """What an error says, on one line."""
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__


def _tell_unread(where: str, folder: Path, read: Mapping[Any, Iterable[str]]) -> None:
    """The library reads files of one suffix, and of one way to name splits, and passes over all others."""
    known = {str(path) for paths in read.values() for path in paths}
    data = {name: path for name, path in _files(folder).items() if suffix_of(name) in SUFFIXES}
    unread = [name for name, path in data.items() if str(path) not in known and not readers.is_beside(path)]
    if unread:
        logger.warning("%s: left out by `datasets`: %s", shown(where), ", ".join(unread[:20]))


def _parts(where: str) -> tuple[str, str, str]:
    """`NAME[#CONFIG][@REVISION]` as name, config and revision; what is not said is empty."""
    rest, _, revision = where.partition("@")
    name, _, config = rest.partition("#")
    return name, config, revision


def _folder(name: str) -> Path | None:
    folder = readers.located(name)
    if readers.is_folder(folder):
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise SourceError(f"{shown(name)}: there is no such folder; give one in the hub's format, or a data set's NAME")
    return None


def _files(folder: Path) -> dict[str, Path]:
    """Every file of a folder by its relative path, hidden ones left out; links are followed, as the hub's cache has."""
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
    hidden = {path for path, name in names.items() if any(part.startswith(".") for part in name.parts)}
    return {printable(name.as_posix()): path for path, name in names.items() if path not in hidden}


@cache
def _commit(name: str, revision: str) -> str:
    """The commit that a branch or tag stands for now: it is part of the step's key."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    asked = shown(f"{name}@{revision or 'main'}")
    try:
        return str(HfApi().dataset_info(name, revision=revision or None).sha)
    except OfflineModeIsEnabled:
        raise SourceError(
            f"{asked}: the network is switched off here; run again with HF_HUB_OFFLINE=0, or download it "
            f"(`hf download --repo-type dataset {name} --local-dir FOLDER`) and give hub:FOLDER"
        ) from None
    except RepositoryNotFoundError:
        raise SourceError(f"{asked}: the hub has no such data set, or it is private: `hf auth login`") from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        problem = f"the hub does not answer ({_said(error)}); try again, or give hub:FOLDER"
        raise SourceError(f"{asked}: {problem}") from error
