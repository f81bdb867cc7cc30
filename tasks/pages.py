"""What the Prefect UI shows of a step beside its state: figures, where the files lie, the MLflow run.

A page is a view: whatever goes wrong with it is said in the log, and the run goes on.
"""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from tasks import leaves, progress, samples, tracking
from tasks.artifacts import Artifact, Forecast, RegisteredModel
from tasks.verdict import figure

FIGURES = 16  # rows of a step's table


def show_step(artifact: Artifact) -> None:
    """The page of a finished step, reused or not."""
    title = f"{artifact.stage}/{artifact.name}"
    figures = list(leaves.numbers(artifact.summary).items())[:FIGURES]
    lines = [f"# {title}", "", *_link(artifact), _state(artifact), f"- files: `{artifact.path}`", ""]
    lines += _table(("figure", "value"), [(_name(name), _figure(value)) for name, value in figures])
    lines += _samples(samples.written(artifact.path))
    progress.publish(f"step-{title}", "\n".join(lines) + "\n", f"{title}: figures and MLflow run")


def show_validation(checked: Artifact, findings: str) -> None:
    """The findings of a validation, as Markdown, and where its pages for a browser lie."""
    docs = sorted((checked.path / "log" / "data-docs").glob("*.html"))
    lines = ["", "## More", "", f"- every rule, with examples: `{checked.path / 'validation.html'}`"]
    lines += [f"- Great Expectations' Data Docs: `{path}`" for path in docs]
    lines += [f"- rows that were left out: `{checked.path / 'quarantine.jsonl'}`", *_link(checked)]
    progress.publish("validation", findings + "\n".join(lines) + "\n", "Validation of the data")


def show_forecast(made: Forecast) -> None:
    """What the scaling law says of the run to come, how sure it is, and what it warns of."""
    said, law = made.summary, _read(made, "fit.json")
    beyond = law.get("forecast", {}).get("beyond", {})
    rows = [
        ("loss, nats per token", f"{said['loss']:.3f} [{said['low']:.3f}, {said['high']:.3f}]"),
        ("size (the dial)", f"{said['size']}"), ("parameters", f"{said['parameters']:,}"),
        ("training tokens", f"{said['tokens']:,}"), ("training FLOPs", f"{said['compute']:.2g}"),
        *((f"{name}, times the largest run's", f"{times:.3g}") for name, times in beyond.items()),
    ]  # fmt: skip
    ranges = law.get("intervals", {})
    fitted = [(name, f"{value:.4g}{_range(ranges.get(name))}") for name, value in law.get("coefficients", {}).items()]
    form = "L = {E:.3f} + {A:.3g} / N^{alpha:.3f} + {B:.3g} / D^{beta:.3f}".format_map(said)
    lines = ["# Forecast", "", *_table(("the run to come", "95% interval in brackets"), rows), f"The law: `{form}`", ""]
    lines += _table(("coefficient", "95% interval in brackets"), fitted)
    lines += [f"- the fit warns: {escape(warning, quote=False)}" for warning in law.get("warnings", ())]
    lines += ["", f"- pictures: `{made.path / 'log'}`", *_link(made), ""]
    progress.publish("forecast", "\n".join(lines), "Forecast of the run to come")


def show_scored(base: Artifact) -> None:
    """The forecast against what pre-training gave; nothing where the run was not the one that was forecast."""
    scored = base.summary.get("forecast")
    if not scored:
        return
    verdict = "inside the interval" if scored["inside"] else "OUTSIDE the interval"
    rows = [
        ("forecast", f"{scored['loss']:.3f} [{scored['low']:.3f}, {scored['high']:.3f}]"),
        ("actual", f"{base.summary['loss']:.3f}, {verdict}"), ("error", f"{scored['error']:+.3f}"),
    ]  # fmt: skip
    rows += [(name, f"{base.summary[name]:.3f}") for name in ("unigram", "bigram") if name in base.summary]
    lines = ["# Forecast against actual", "", *_table(("loss", "nats per token"), rows), *_link(base), ""]
    progress.publish("forecast-against-actual", "\n".join(lines), "Forecast against actual")


def show_version(registered: RegisteredModel) -> None:
    """A version of a model: the verdict, its reasons, every condition of the gate, and what it did not ask."""
    said = registered.summary
    lines = [f"# {registered.name} version {said['version']}: {said['verdict']}", ""]
    lines += [f"- {escape(reason, quote=False)}" for reason in said["reasons"]]
    if said.get("checks"):
        lines += ["", "| | condition | measured | required |", "|---|---|---|---|"]
        lines += [
            f"| {'met' if each['ok'] else '**not met**'} | {each['name']} | {figure(each)} | {each['bound']} |"
            for each in said["checks"]
        ]
    lines += ["", *(f"- {escape(each, quote=False)}" for each in said.get("skipped", ()))]
    lines += ["", f"- files: `{registered.path}`", *_link(registered), ""]
    progress.publish(f"version-{registered.name}", "\n".join(lines), "Registered version and verdict")


def _read(artifact: Artifact, name: str) -> dict[str, Any]:
    """A JSON file of an artifact; empty where it cannot be read."""
    try:
        found: dict[str, Any] = json.loads((artifact.path / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def _range(pair: Sequence[float | None] | None) -> str:
    """An interval behind its figure; null is no limit."""
    if pair is None:
        return ""
    low, high = ("no limit" if end is None else f"{end:.4g}" for end in pair)
    return f" [{low}, {high}]"


def _samples(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the model said first and last, while it was trained; nothing of a step that made no samples."""
    if not rows:
        return []
    ends = [row for row in rows if row["step"] in (rows[0]["step"], rows[-1]["step"])]
    lines = [f"| {row['step']} | {row['kind']} | {_cell(row['prompt'])} | {_cell(row['text'])} |" for row in ends]
    head = ["| step | how | given | said |", "|---:|---|---|---|"]
    return ["", "## Samples, first and last", "", *head, *lines, ""]


def _cell(text: str) -> str:
    """Text of a model in a table of Markdown, on one line."""
    return " ".join(escape(text, quote=False).replace("|", "&#124;").split())


def _state(artifact: Artifact) -> str:
    how = "reused: nothing that decides it has changed" if artifact.reused else "computed by this run"
    return f"- {how}\n- key `{artifact.key}`, content `{artifact.digest[:16]}`"


def _link(artifact: Artifact) -> list[str]:
    url = tracking.run_url(artifact.run_id)
    return [f"- [MLflow run of {artifact.stage}/{artifact.name}]({url})"] if url else []


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> list[str]:
    if not rows:
        return []
    return [f"| {head[0]} | {head[1]} |", "|---|---:|", *(f"| {name} | {value} |" for name, value in rows), ""]


def _name(name: str) -> str:
    return escape(name, quote=False).replace("|", "/")


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:,.4g}"
