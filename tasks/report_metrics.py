"""The figures of a report: every metric of every stage on the held-out items, and the claims that rest on them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts import Artifact
from tasks.report_page import BAD, GOOD, Cell, Figure, Points, Prose, Section, Table

RULES = ("rule: ", "human")  # rows that nobody trained
NAMES = {
    "loss": "loss, nats per answer token", "perplexity": "perplexity", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L", "bleu": "BLEU", "grounded": "grounded answers", "guideline": "follows the guideline",
    "toxic": "toxic answers", "chars": "length, characters", "score": "ranking score", "reward": "reward",
    "topic_accuracy": "topic accuracy", "bits_per_byte": "bits per byte of held-out text",
}  # fmt: skip
COSTS = {"loss", "perplexity", "toxic", "bits_per_byte"}  # less is better
NEUTRAL = {"chars"}
PICTURED = ("rougeL", "grounded", "guideline", "chars", "score", "loss")


def evaluation(folder: Path, parts: Mapping[str, Artifact]) -> Section:
    """Every metric of every stage with its interval; draws `plots/metrics.png`."""
    from tasks.report_plots import metrics as draw

    found = measured(parts)
    if not found:
        return Section("", ())
    rows = found["rows"]
    columns = [metric for metric in found["columns"] if any(metric in row for row in rows.values())]
    pictured = {metric: capitalised(NAMES.get(metric, metric)) for metric in PICTURED if metric in columns}
    draw(rows, pictured, folder / "plots" / "metrics.png")
    table = [[NAMES.get(metric, metric), *(_cell(rows, row, metric) for row in rows)] for metric in columns]
    sizes = found.get("parameters", {})
    table.append(["parameters", *(Cell(f"{sizes[row]:,}") if row in sizes else "" for row in rows)])
    return Section(
        "Metrics by stage",
        [
            Prose(
                f"{found['items']:,} held-out items, the same for every row, with 95% bootstrap intervals. Bold is the "
                "best trained model of a line. Rules and human text learn nothing: they say what the numbers are worth."
            ),
            *_contamination(found.get("contamination", {})),
            Table(["", *rows], table),
            Figure("plots/metrics.png", "Mean and 95% interval of every stage, beside rules and the human text."),
        ],
    )


def _contamination(found: Mapping[str, Any]) -> list[Prose | Points]:
    """How many of the held-out items stand in the training data, and what could not be looked at."""
    if not found:
        return []
    worst = max(found, key=lambda row: found[row]["contaminated"] + found[row]["earlier"])
    now, before = found[worst]["contaminated"], found[worst]["earlier"]
    said = f"{now:,} stand in the training data and {before:,} in earlier training data (of {worst})"
    said = said if now or before else "none stands in training data"
    measured_on = f"{found[worst]['items']:,} held-out items and {found[worst]['texts']:,} documents"
    prose = Prose(f"Of {measured_on}, {said}; the gate leaves such items out.")
    unchecked = sorted({sentence for row in found.values() for sentence in row.get("unchecked", [])})
    return [prose, *([Points(unchecked)] if unchecked else [])]


def _cell(rows: Mapping[str, Any], row: str, metric: str) -> Cell | str:
    cell = rows[row].get(metric)
    if cell is None:
        return ""
    trained = {
        name: figures[metric]["mean"]
        for name, figures in rows.items()
        if metric in figures and not name.startswith(RULES)
    }
    best = (min if metric in COSTS else max)(trained, key=lambda name: trained[name], default=None)
    strong = metric not in NEUTRAL and len(trained) > 1 and row == best
    return Cell(figure(cell["mean"], metric), interval(cell, metric), strong=strong)


def claims(parts: Mapping[str, Artifact]) -> Section:
    """Each claim with its paired gain, and whether it holds."""
    made = measured(parts).get("comparisons", [])
    if not made:
        return Section("", ())
    failed = [claim for claim in made if not claim["holds"]]
    summary = f"All {len(made)} claims hold." if not failed else f"{len(failed)} of {len(made)} claims do **not** hold."
    rows = [
        [
            Cell("holds", tone=GOOD) if claim["holds"] else Cell("does not hold", tone=BAD),
            claim["claim"],
            f"{claim['better']} over {claim['worse']}, {NAMES.get(claim['metric'], claim['metric'])}",
            Cell(f"{claim['gain']:+.3f}", f"[{claim['low']:+.3f}, {claim['high']:+.3f}]"),
            Cell(f"{claim['n']:,}"),
        ]
        for claim in made
    ]
    text = f"{summary} A claim holds where the 95% interval of the paired gain lies above zero."
    return Section("What was claimed", [Prose(text), Table(["", "claim", "measured as", "gain", "items"], rows)])


def measured(parts: Mapping[str, Artifact]) -> dict[str, Any]:
    """The evaluation's metrics, empty where there was none."""
    return read_json(parts, "evaluation", "metrics.json")


def read_json(parts: Mapping[str, Artifact], role: str, name: str) -> dict[str, Any]:
    """A JSON file of a part, empty where the part is missing."""
    return json.loads((parts[role].path / name).read_text(encoding="utf-8")) if role in parts else {}


def figure(value: float, metric: str) -> str:
    """A value with the digits that its metric deserves."""
    if metric in {"chars", "bleu", "perplexity"}:
        return f"{value:,.1f}"
    return f"{value:.2f}" if metric == "reward" else f"{value:.3f}"


def interval(cell: Mapping[str, float], metric: str) -> str:
    """`[low, high]`, likewise."""
    digits = 1 if metric in {"chars", "bleu", "perplexity"} else 2
    return f"[{cell['low']:,.{digits}f}, {cell['high']:,.{digits}f}]"


def capitalised(name: str) -> str:
    """A name as a heading."""
    return name[:1].upper() + name[1:]
