"""Models of the Hugging Face hub: which commit a name stands for, and its files in the hub's own cache."""

import logging
import re
from pathlib import Path

from models.formats import printable
from tasks.errors import StartError
from tasks.imported import PICKLED, READ

NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")
logger = logging.getLogger("evergreen.pretrain")


def identity(where: str) -> tuple[str, str]:
    """Name and commit of `OWNER/NAME[@REVISION]`: as the hub says, or its cache where the hub cannot be asked.

    Raises StartError.
    """
    name, _, revision = where.partition("@")
    if not NAME.fullmatch(name):
        raise StartError(f"start: hf:{printable(where)} is not of the form hf:OWNER/NAME or hf:OWNER/NAME@REVISION")
    return name, revision if COMMIT.fullmatch(revision) else _commit(name, revision or "main")


def snapshot(name: str, commit: str) -> Path:
    """The folder of a commit, downloaded where the cache does not hold it: weights, configuration, tokenizer.

    Raises StartError.
    """
    folder = _downloaded(name, commit, READ)
    return folder if list(folder.glob("*.safetensors")) else _downloaded(name, commit, (*READ, PICKLED))


def _commit(name: str, revision: str) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled, RepositoryNotFoundError

    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except RepositoryNotFoundError:
        raise StartError(_unknown(name, revision)) from None
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError, ValueError) as error:
        cached = _cached(name, revision)
        if not cached:
            raise StartError(_unreachable(name, revision, error)) from None
        if not isinstance(error, OfflineModeIsEnabled):
            logger.warning("hf:%s: the hub does not answer (%s); its cache says %s", name, _said(error), cached[:12])
        return cached


def _cached(name: str, revision: str) -> str:
    """The commit that a branch or tag stood for when it was downloaded; empty where it never was."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    reference = folder / "refs" / revision
    return reference.read_text().strip() if reference.is_file() else ""


def _downloaded(name: str, commit: str, patterns: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError

    try:
        # folders of a model hold it in the formats of other programs
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns), ignore_patterns=["*/*"]))
    except RepositoryNotFoundError:
        raise StartError(_unknown(name, commit)) from None
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise StartError(_unreachable(name, commit, error)) from None


def _unknown(name: str, revision: str) -> str:
    return f"start: the hub has no model {name}@{revision}, or it is private or gated: `hf auth login`"


def _unreachable(name: str, revision: str, error: Exception) -> str:
    from huggingface_hub.constants import is_offline_mode

    why = "the network is switched off here" if is_offline_mode() else f"the hub does not answer ({_said(error)})"
    return (
        f"start: {name}@{revision} is not in the hub's cache and {why}; run again with HF_HUB_OFFLINE=0, or download "
        f"it (`hf download {name} --local-dir FOLDER`) and give start=FOLDER"
    )


def _said(error: Exception) -> str:
    return printable(" ".join(str(error).split())[:200]) or type(error).__name__
