"""The guide names only what exists: commands, deployments, pages, links, fields and their defaults."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from flows import cli, deployments
from flows.lifecycle import lifecycle
from tasks.settings import ROOT

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
FILES = {"bin", "db", "dvc", "html", "json", "jsonl", "lock", "md", "py", "yaml"}  # data.dvc is a file and no field
RUN = re.compile(r"evergreen (?:run|plan)\b[^\n#`|]*")
FIELD = re.compile(r"[a-z_]+(?:\.[a-z_]+)+")
ROW = re.compile(r"^\| (`[a-z_]+\.[a-z_]+`(?:, `[a-z_.]+`)*) \| (`.*`) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def stages() -> dict[str, BaseModel]:
    """The default recipe of each stage, by its name in the life cycle."""
    parameters = deployments.validated(lifecycle, {})
    return {name: recipe for name, recipe in parameters.items() if isinstance(recipe, BaseModel)}


def test_every_command_has_a_section() -> None:
    groups = cli._parser()._subparsers._group_actions  # type: ignore[union-attr]
    commands = list(groups[0].choices)  # type: ignore[call-overload, arg-type]
    assert len(commands) >= 5
    sections = re.findall(r"^## `evergreen ([a-z]+)", (DOCS / "command-line.md").read_text(), re.MULTILINE)
    assert sorted(sections) == sorted(commands)


def test_every_deployment_is_described_and_its_flow_has_a_page() -> None:
    names = deployments.names()
    assert len(names) >= 11
    for name in names:
        deployment = deployments.load(name)
        # one sentence: a full stop at the end, and none inside that another sentence follows
        assert re.fullmatch(r"[A-Z](?:(?![.!?]\s).)+\.", deployment.description), name
        if deployment.flow_name == "lifecycle":
            assert f"`{name}`" in (ROOT / "README.md").read_text(), name
        else:
            page = DOCS / f"{deployment.flow_name}.md"
            assert page.exists() and f"evergreen run {name}" in page.read_text(), f"{page} does not show {name}"


def test_the_guide_links_every_page() -> None:
    linked = set(_links(DOCS / "index.md"))
    pages = {page.name for page in DOCS.glob("*.md")} - {"index.md"}
    assert len(pages) >= 11
    assert pages <= linked


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name} links {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name} links {link}, and {target.name} has no such section"


def test_every_field_that_is_named_exists(stages: dict[str, BaseModel]) -> None:
    checked = []
    for page in PAGES:
        for field in _fields(page, stages):
            assert _exists(field, page, stages), f"{page.name} names {field}"
            checked.append(field)
    assert len(checked) >= 60
    assert {name.split(".")[0] for name in checked} >= {"tokenizer", "scaling", "pretrain", "sft", "preferences",
                                                        "reward", "rlhf", "evaluation", "execution"}  # fmt: skip


def test_every_default_in_a_table_is_that_of_the_recipe(stages: dict[str, BaseModel]) -> None:
    checked = 0
    for page in PAGES:
        for names, values in ROW.findall(page.read_text()):
            fields, shown = re.findall(r"`([^`]+)`", names), re.findall(r"`([^`]+)`", values)
            assert len(fields) == len(shown), f"{page.name}: {names}"
            for field, value in zip(fields, shown, strict=True):
                stage, _, name = field.partition(".")
                default = stages[stage].model_dump(mode="json")[name]
                assert yaml.safe_load(value) == default, f"{page.name} says {field} is {value}, it is {default}"
                checked += 1
    assert checked >= 40


def test_every_run_that_is_shown_would_be_accepted() -> None:
    checked = 0
    for page in PAGES:
        for command in RUN.findall(page.read_text().replace("\\\n", " ")):
            words = shlex.split(command.replace("...", ""))[2:]
            if not any("[" in word and "=" not in word for word in words):  # the synopsis in a heading
                options = cli._parser().parse_args(["run", *words])
                deployments.configured(deployments.load(options.deployment), options.set)
                checked += 1
    assert checked >= 30


def test_every_attention_that_is_shown_would_be_accepted() -> None:
    shown = [
        command
        for page in PAGES
        for command in re.findall(r"^evergreen attention [^\n#]*", page.read_text(), re.MULTILINE)
    ]
    assert len(shown) >= 5
    for command in shown:
        assert cli._parser().parse_args(shlex.split(command)[1:]).text


def _links(page: Path) -> list[str]:
    return re.findall(r"\]\((?!https?://|mailto:)([^)\s]+)\)", page.read_text())


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _fields(page: Path, stages: dict[str, BaseModel]) -> list[str]:
    """The `stage.field` and `recipe.field` of a page, those with a value included."""
    quoted = re.findall(r"`([^`\n]+)`", page.read_text())
    words = [word.partition("=")[0] for text in quoted for word in text.replace("--set ", "").split()[:1]]
    return [
        word
        for word in words
        if FIELD.fullmatch(word) and word.split(".")[0] in {*stages, "recipe"} and word.split(".")[-1] not in FILES
    ]


def _exists(field: str, page: Path, stages: dict[str, BaseModel]) -> bool:
    stage, _, path = field.partition(".")
    if stage != "recipe":
        return _has(stages[stage], path.split("."))
    own = [name for name in deployments.names() if name.split("/")[0] == page.stem]
    found = [deployments.configured(deployments.load(name), [])[1]["recipe"] for name in own]
    return bool(found) and all(_has(recipe, path.split(".")) for recipe in found)


def _has(value: Any, path: list[str]) -> bool:
    for name in path:
        known = dict(value) if isinstance(value, BaseModel) else value
        if not isinstance(known, dict) or name not in known:
            return False
        value = known[name]
    return True
