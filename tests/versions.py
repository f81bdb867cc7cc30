"""Small data sets to version, damage to do to them, and processes that version them.

`python -m tests.versions ACTION...` does `version-WORD`, `push` and `pull` in this order.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from tasks import pointers, steps, transfer
from tasks.artifacts import Dataset
from tasks.settings import ROOT, project


class Recipe(BaseModel):
    word: str = "one"


def step(word: str = "one") -> steps.Step:
    return steps.Step(stage="data", name="dataset", recipe=Recipe(word=word))


def made(word: str = "one", *, text: str | None = None) -> Dataset:
    """The finished step of a data set of three files, one of them the same whatever the word, put into the store."""
    this = step(word)
    write(this.folder, word, text or word)
    (this.folder / steps.UNHASHED).mkdir()
    (this.folder / steps.UNHASHED / "seconds").write_text("1")
    files = steps.hash_files(this.folder)
    manifest = {
        "key": this.key, "identity": this.identity, "inputs": {}, "digest": steps.folder_digest(files), "files": files,
        "summary": {"rows": 1}, "run_id": "", "execution": {},
    }  # fmt: skip
    (this.folder / steps.MANIFEST).write_text(json.dumps(manifest))
    return steps.load(this, Dataset)


def write(folder: Path, word: str, text: str) -> None:
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "train.jsonl").write_text(json.dumps({"text": text}) + "\n")
    (folder / "same.txt").write_text("the same in every version\n")
    (folder / "counts.json").write_text('{"rows": 1}\n')


def pointer() -> dict[str, Any]:
    return yaml.safe_load((project() / "data.dvc").read_text())


def word_here() -> str:
    """The word of the version that lies in `data/`."""
    return json.loads((project() / "data" / "text" / "train.jsonl").read_text())["text"]


def object_of(path: str) -> Path:
    """The object of DVC's cache that holds a file of the present version."""
    now = pointers.read(project() / "data")
    return pointers.object_path(pointers.recorded(now)[path])


def damage(file: Path) -> None:
    """Other bytes of the same size behind the same read-only mode: what DVC trusts."""
    mode = file.stat().st_mode
    file.chmod(0o644)
    file.write_bytes(b"?" * file.stat().st_size)
    file.chmod(mode)


def git(*words: str) -> str:
    """Git in the project, which `init` makes a checkout with somebody to commit."""
    command = ["git", "-C", str(project()), *words]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if words == ("init",):
        git("config", "user.name", "Somebody")
        git("config", "user.email", "somebody@example.org")
    return said


def commit(subject: str) -> str:
    """Commits data.dvc as it is; the commit."""
    git("add", "data.dvc")
    git("commit", "--quiet", "--message", subject)
    return git("rev-parse", "HEAD").strip()


def act(action: str) -> None:
    if action == "push":
        transfer.push()
    elif action == "pull":
        transfer.pull(project() / "data")
    else:
        from tasks.versioning import version_data

        version_data.fn(steps.load(step(action.removeprefix("version-")), Dataset))


def started(*actions: str) -> subprocess.Popen[str]:
    """A process of its own that does them."""
    command = [sys.executable, "-m", "tests.versions", *actions]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def killed(action: str, rename: int) -> bool:
    """Does it in a process that dies, as by SIGKILL, instead of the action's nth rename; whether there was an nth."""
    child = os.fork()
    if not child:
        try:
            _die_at(rename)
            act(action)
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def _die_at(rename: int) -> None:
    replace, left = Path.replace, iter(range(rename - 1))

    def last(path: Path, target: Path) -> Path:
        if next(left, None) is None:
            os._exit(9)
        return replace(path, target)

    Path.replace = last  # type: ignore[assignment, method-assign]


if __name__ == "__main__":
    from tests import versions  # where the recipe is by its own name, which is part of a step's key

    for each in sys.argv[1:]:
        versions.act(each)
