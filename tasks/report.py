"""The report of a life cycle: what was claimed and whether it holds, forecast against actual, the verdict.

Written from finished artifacts alone. A stage that was not run leaves its section out.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from pydantic import BaseModel, ConfigDict, Field

from tasks import progress, steps, tracking
from tasks.artifacts import Artifact, EvaluationReport, RegisteredModel
from tasks.report_sections import figure, interval

logger = logging.getLogger("evergreen.report")

# The parts that a report is made of, by role. All of them may be missing.
ROLES = (
    "data", "tokenizer", "forecast", "base", "from-scratch", "sft", "pairs", "reward", "aligned", "evaluation",
    "registered",
)  # fmt: skip


class ReportRecipe(BaseModel):
    """What a report is called and which model its commands name."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str = Field(description="The heading.")
    model: str = Field(description="The model's name in the registry.")


def step(recipe: ReportRecipe, parts: Mapping[str, str]) -> steps.Step:
    """`parts` maps roles to keys."""
    return steps.Step(
        stage="report", name=recipe.model, recipe=recipe, inputs=parts, libraries=("matplotlib",),
        modules=(*(f"tasks.report_{part}" for part in ("sections", "metrics", "page", "plots")), "tasks.verdict"),
    )  # fmt: skip


@task(task_run_name="write the report", cache_policy=NO_CACHE)
def write_report(recipe: ReportRecipe, parts: Mapping[str, Artifact]) -> Artifact:
    """`report.md`, `report.html` (one file, nothing beside it needed), `plots/*.png`.

    `parts` maps roles (see ROLES) to artifacts. Raises ValueError for a role that no section knows.
    """
    unknown = sorted(set(parts) - set(ROLES))
    if unknown:
        raise ValueError(f"a report has no part {unknown[0]!r}; it knows {', '.join(ROLES)}")
    this = step(recipe, {role: artifact.key for role, artifact in parts.items()})

    def build(folder: Path) -> dict[str, Any]:
        write(folder, recipe, parts)
        return {"parts": sorted(parts)}

    return steps.materialise(this, Artifact, build)


@task(task_run_name="publish the report", cache_policy=NO_CACHE)
def publish(report: Artifact, registered: RegisteredModel | None) -> None:
    """As a Markdown artifact of the Prefect run, and with the registered version's MLflow run where there is one.

    A report that was reused is with MLflow already.
    """
    from prefect.artifacts import create_markdown_artifact
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is not None:
        text = (report.path / "report.md").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("![")]  # Prefect shows no local pictures
        create_markdown_artifact(
            "\n".join(lines), key=progress.artifact_key(f"report-{report.name}"), description="life cycle report"
        )
    run_id = registered.run_id if registered else report.run_id
    if run_id and not report.reused:
        tracking.log_files(run_id, [report.path / "report.md", report.path / "report.html"], under="report")
        tracking.log_files(run_id, sorted((report.path / "plots").glob("*.png")), under="report/plots")


def announce(report: Artifact, evaluation: EvaluationReport, registered: RegisteredModel) -> None:
    """Says in the log what a person wants to know at the end: the table, the verdict and why, where the report lies."""
    metrics = json.loads((evaluation.path / "metrics.json").read_text(encoding="utf-8"))
    logger.info("%d held-out items, 95%% intervals\n%s", metrics["items"], terminal_table(metrics).rstrip())
    summary = registered.summary
    reasons = "\n".join(f"  - {reason}" for reason in summary["reasons"])
    logger.info("%s version %s is %s:\n%s", registered.name, summary["version"], summary["verdict"], reasons)
    for skipped in summary.get("skipped", []):
        logger.info("the gate did not ask for %s", skipped)
    logger.info("report: %s", report.path / "report.html")
    logger.info("next: evergreen chat %s/%s, evergreen models, evergreen plan", registered.name, summary["version"])


def write(folder: Path, recipe: ReportRecipe, parts: Mapping[str, Artifact]) -> None:
    """Draws, then writes both forms of the page into a folder."""
    from tasks.report_page import html_page, markdown
    from tasks.report_sections import page

    made = page(recipe.title, recipe.model, parts, folder)
    (folder / "report.md").write_text(markdown(made), encoding="utf-8")
    (folder / "report.html").write_text(html_page(made, folder), encoding="utf-8")


def terminal_table(metrics: Mapping[str, Any]) -> str:
    """Stages by metric with intervals, and the claims, in at most 80 columns. `metrics` is a report's metrics.json."""
    blocks = (
        {"rougeL": "ROUGE-L", "grounded": "grounded", "guideline": "guideline"},
        {"score": "ranking score", "chars": "characters", "loss": "answer loss"},
    )
    lines: list[str] = []
    for names in blocks:
        shown = [name for name in names if any(name in row for row in metrics["rows"].values())]
        if shown:
            lines += [f"{'':<21}" + "".join(f"{names[name]:<19}" for name in shown).rstrip()]
            lines += [
                f"{name[:20]:<21}" + "".join(f"{_plain(row.get(metric), metric):<19}" for metric in shown).rstrip()
                for name, row in metrics["rows"].items()
            ]
            lines.append("")
    for claim in metrics["comparisons"]:
        state = "holds" if claim["holds"] else "DOES NOT HOLD"
        lines.append(f"{state:<14}{claim['claim'][:66]}")
        lines.append(f"{'':<14}{claim['metric']} {claim['gain']:+.3f} [{claim['low']:+.3f}, {claim['high']:+.3f}]")
    return "\n".join(lines).rstrip() + "\n"


def _plain(cell: Mapping[str, float] | None, metric: str) -> str:
    return f"{figure(cell['mean'], metric)} {interval(cell, metric)}" if cell else "-"
