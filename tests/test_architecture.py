"""The house rules that no single module can hold: arrows, light imports, documents that name what exists."""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import version

import pytest

from flows import cli, deployments
from tasks.settings import ROOT

HEAVY = (
    "accelerate", "datasets", "dvc", "great_expectations", "matplotlib", "mlflow", "pandas", "peft", "scipy",
    "torch", "transformers", "trl",
)  # fmt: skip
FLOWS = sorted(f"flows.{path.stem}" for path in (ROOT / "flows").glob("*.py") if path.stem != "__init__")
COMMANDS = ("run", "plan", "validate", "fit", "memory", "data", "models", "forecasts", "lineage", "reproduce",
            "promote", "rollback", "chat", "attention", "up", "doctor")  # fmt: skip


def test_no_flow_module_imports_anything_heavy() -> None:
    """`prefect deploy` imports every flow; one heavy import would cost each of them seconds."""
    assert len(FLOWS) >= 10
    program = (
        f"import importlib, sys\nfor name in {FLOWS}: importlib.import_module(name)\n"
        f"print([name for name in {HEAVY} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=280, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_arrows_run_one_way() -> None:
    lint = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"]
    done = subprocess.run(lint, capture_output=True, text=True, cwd=ROOT, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d* kept, 0 broken", done.stdout)


def test_no_module_is_named_after_a_library() -> None:
    """A path entrypoint would put the folder first on sys.path, where such a module shadows the library."""
    names = {path.stem for folder in ("flows", "tasks", "models") for path in (ROOT / folder).glob("*.py")}
    assert names & {*HEAVY, "prefect", "tokenizers", "numpy", "yaml"} == set()


def test_the_lock_holds_every_direct_dependency() -> None:
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lock = dict(re.findall(r"^([\w.\-]+)==(\S+)$", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    locked = {_plain(name): release for name, release in lock.items()}
    direct = [
        *project["dependencies"],
        *(line for extra in project["optional-dependencies"].values() for line in extra),
    ]
    assert len(direct) >= 25
    for line in map(Requirement, direct):
        assert line.specifier.contains(locked[_plain(line.name)]), line


def test_the_lock_names_no_host_path_or_build() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert len(pins) > 200
    assert [line for line in pins if not re.fullmatch(r"[\w.\-]+==[\w.]+(\.post\d+)?", line)] == []
    assert not [line for line in pins if line.startswith(("nvidia-", "triton"))]


def test_the_bounds_that_prefect_does_not_declare_hold() -> None:
    from packaging.version import Version

    assert Version(version("fastapi")) < Version("0.151")
    assert Version(version("sqlalchemy")) < Version("2.1")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_section(command: str) -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    assert re.search(rf"^## `evergreen {command}\b", page, re.MULTILINE)


def test_the_sections_are_the_commands() -> None:
    parser = cli._parser()
    actions = [action.choices for action in parser._subparsers._group_actions if action.choices]  # type: ignore[union-attr]
    assert sorted(actions[0]) == sorted(COMMANDS)


def test_every_deployment_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [name for name in deployments.names() if f"`{name}`" not in readme]
    assert missing == []


def test_every_option_is_documented() -> None:
    page = (ROOT / "docs" / "command-line.md").read_text()
    options = set(_options(cli._parser()))
    assert len(options) > 50
    assert sorted(option for option in options if option not in page) == []


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The long options of a command and of all below it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield from _options(each)
        yield from (word for word in action.option_strings if word.startswith("--") and word != "--help")


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
    assert len(documents) >= 6
    broken = [
        f"{document.name}: {target}"
        for document in documents
        for target in re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", document.read_text())
        if not (document.parent / target).exists()
    ]
    assert broken == []


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
