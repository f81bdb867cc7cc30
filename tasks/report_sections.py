"""What stands in a report: each section from the artifacts of its stage, empty where the stage was not run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.loss_mask import Piece, sentence
from tasks import steps, tracking, verdict
from tasks.artifacts import Artifact
from tasks.lineage import ancestors
from tasks.progress import HISTORY
from tasks.report_metrics import NAMES, capitalised, claims, evaluation, figure, interval, measured, read_json
from tasks.report_page import (
    BAD,
    GOOD,
    PLAIN,
    Block,
    Cell,
    Commands,
    Figure,
    Masked,
    Page,
    Points,
    Prose,
    Section,
    Table,
    Tile,
)  # fmt: skip

CURVES = {"Reward": "reward", "KL to the fine-tuned model": "kl", "Answer length, tokens": "completions/mean_length"}


def page(title: str, model: str, parts: Mapping[str, Artifact], folder: Path) -> Page:
    """The whole report; draws its pictures into `folder/plots`."""
    sections = [
        claims(parts), evaluation(folder, parts), _pretraining(folder, parts), _loss_mask(parts),
        _alignment(folder, parts), _gate(parts), _data(parts), _tokenizer(parts), _effort(parts), _next(model, parts),
    ]  # fmt: skip
    verdict, tone, reasons = _verdict(parts.get("registered"))
    return Page(title, verdict, tone, reasons, _tiles(parts), [section for section in sections if section.blocks])


def _verdict(registered: Artifact | None) -> tuple[str, str, Sequence[str]]:
    if registered is None:
        return "", PLAIN, ()
    made = registered.summary
    if made["verdict"] == "promoted":
        sentence, tone = f"{registered.name}, version {made['version']}: promoted to champion", GOOD
    else:
        sentence, tone = (
            f"{registered.name}, version {made['version']}: not promoted, the champion stays as it was",
            BAD,
        )
    return sentence, tone, made["reasons"]


def _tiles(parts: Mapping[str, Artifact]) -> list[Tile]:
    tiles = []
    rows = measured(parts).get("rows", {})
    subject = next((row for row in ("aligned", "sft", "base") if row in rows), None)
    for metric in ("rougeL", "guideline", "grounded") if subject else ():
        cell, before = rows[subject].get(metric), rows.get("sft", {}).get(metric)
        if cell:
            note = (
                f"before alignment {figure(before['mean'], metric)}"
                if before and subject == "aligned"
                else f"{subject} model"
            )
            tiles.append(Tile(capitalised(NAMES[metric]), figure(cell["mean"], metric), note))
    base, expected = parts.get("base"), _fit(parts).get("forecast", {})
    if base and "loss" in base.summary:
        inside = bool(expected) and expected["low"] <= base.summary["loss"] <= expected["high"]
        note = f"forecast {expected['loss']:.2f} {interval(expected, 'loss')}" if expected else "pre-training"
        tiles.append(Tile("Pre-training loss", f"{base.summary['loss']:.3f}", note, GOOD if inside else PLAIN))
    return tiles


def _pretraining(folder: Path, parts: Mapping[str, Artifact]) -> Section:
    from tasks import report_plots as plots

    base, fit = parts.get("base"), _fit(parts)
    blocks: list[Block] = []
    if fit:
        actual = {"tokens": base.summary["tokens"], "loss": base.summary["loss"]} if base else None
        plots.scaling(fit, actual, folder / "plots" / "scaling.png")
        blocks += _forecast(fit, base)
        blocks.append(
            Figure(
                "plots/scaling.png", "The small runs, the fitted law, its forecast with 95% interval, and the main run."
            )
        )
    if base and _history(base):
        tuned = _history(parts["sft"]) if "sft" in parts else []
        plots.loss_curves(_history(base), _simple_models(base), tuned, folder / "plots" / "loss.png")
        blocks.append(
            Figure(
                "plots/loss.png",
                "Loss by training step, with what simple n-gram models reach on the same held-out text.",
            )
        )
    if base and "parameters" in base.summary:
        made = base.summary
        seconds = (steps.read_manifest(base.path) or {}).get("execution", {}).get("training_seconds")
        speed = made["tokens"] / seconds if seconds else None
        facts = [f"{made['parameters']:,} parameters", f"{made['tokens']:,} training tokens"]
        blocks.insert(0, Prose(", ".join(facts + ([f"{speed:,.0f} tokens per second"] if speed else [])) + "."))
    return Section("Pre-training and its forecast", blocks)


def _forecast(fit: Mapping[str, Any], base: Artifact | None) -> list[Block]:
    expected = fit["forecast"]
    rows: list[list[Cell | str]] = [
        ["forecast loss", Cell(f"{expected['loss']:.3f}", f"[{expected['low']:.3f}, {expected['high']:.3f}]")]
    ]
    if base:
        loss = base.summary["loss"]
        inside = expected["low"] <= loss <= expected["high"]
        error = (expected["loss"] - loss) / loss
        rows.append(
            [
                "actual loss",
                Cell(
                    f"{loss:.3f}", "inside the interval" if inside else "OUTSIDE the interval", GOOD if inside else BAD
                ),
            ]
        )
        rows.append(["error of the forecast", Cell(f"{error:+.1%}")])
        rows += [[f"loss of a {name} model", Cell(f"{value:.3f}")] for name, value in _simple_models(base).items()]
    law = fit.get("coefficients", {})
    if {"E", "A", "B", "alpha", "beta"} <= law.keys():
        scale = [f"{law[name]:,.0f}" if law[name] >= 100 else f"{law[name]:.3g}" for name in ("E", "A", "B")]
        formula = f"`L = {scale[0]} + {scale[1]} / N^{law['alpha']:.3f} + {scale[2]} / D^{law['beta']:.3f}`"
        rows.append(["fitted law", f"{formula} from {len(fit['runs'])} runs"])
    return [Table(["", ""], rows), *(Prose(f"The fit warns: {warning}.") for warning in fit.get("warnings", []))]


def _loss_mask(parts: Mapping[str, Artifact]) -> Section:
    if "sft" not in parts or not (parts["sft"].path / "loss_mask.json").exists():
        return Section("", ())
    made = read_json(parts, "sft", "loss_mask.json")
    samples = [
        Masked(sample["id"], [Piece(text, trained) for text, trained in sample["pieces"]]) for sample in made["samples"]
    ]
    return Section("What fine-tuning learns from", [Prose(sentence(made)), *samples])


def _alignment(folder: Path, parts: Mapping[str, Artifact]) -> Section:
    from tasks import report_plots as plots

    blocks: list[Block] = []
    if "reward" in parts:
        rows = [row for row in (_judge(parts["reward"], *each) for each in JUDGED) if row]
        if rows:
            head = ["reward model", "accuracy", "by length alone", "gain over length", "pairs"]
            blocks += [
                Prose("The reward model on held-out pairs; guessing is right half of the time."),
                Table(head, rows),
            ]
    if "aligned" in parts:
        history = _history(parts["aligned"])
        series = {
            title: key
            for title, key in {**CURVES, **_guideline_curve(history)}.items()
            if any(key in e for e in history)
        }
        if series:
            plots.alignment(history, series, folder / "plots" / "rlhf.png")
            caption = (
                "Steps pale, running mean full. Reward that rises while answers shrink is a sign of reward hacking."
            )
            blocks.append(Figure("plots/rlhf.png", caption))
    return Section("Alignment", blocks)


JUDGED = (("held_out", "held-out pairs"), ("human_rating", "human ratings"))


def _judge(reward: Artifact, field: str, name: str) -> list[Cell | str] | None:
    found = reward.summary.get(field)
    if not found:
        return None
    beats_chance, beats_length = found["low"] > 0.5, found["gain_low"] > 0
    return [
        name,
        Cell(f"{found['accuracy']:.3f}", f"[{found['low']:.3f}, {found['high']:.3f}]", GOOD if beats_chance else BAD),
        Cell(f"{found['length_rule']:.3f}"),
        Cell(
            f"{found['gain_over_length']:+.3f}",
            f"[{found['gain_low']:+.3f}, {found['gain_high']:+.3f}]",
            GOOD if beats_length else BAD,
        ),
        Cell(f"{found['n']:,}"),
    ]


def _guideline_curve(history: Sequence[Mapping[str, float]]) -> dict[str, str]:
    keys = sorted({key for entry in history for key in entry if "guideline" in key and not key.endswith("/std")})
    return {"Follows the guideline": keys[0]} if keys else {}


def _gate(parts: Mapping[str, Artifact]) -> Section:
    """Every condition with what was measured, and what was not asked."""
    made = parts["registered"].summary if "registered" in parts else {}
    if not made.get("checks"):
        return Section("", ())
    rows = [
        [
            Cell("met", tone=GOOD) if check["ok"] else Cell("not met", tone=BAD),
            check["name"],
            _measured(check),
            check["bound"],
            check.get("note", ""),
        ]
        for check in made["checks"]
    ]
    blocks: list[Block] = [Table(["", "condition", "measured", "required", ""], rows)]
    if made.get("skipped"):
        blocks += [Prose("Not asked:"), Points(made["skipped"])]
    return Section("The gate", blocks)


def _measured(check: Mapping[str, Any]) -> Cell:
    value, _, between = verdict.figure(check).partition(" [")
    if check["value"] is None:
        return Cell(verdict.figure(check), tone=BAD)
    return Cell(value, f"[{between}" if between else "")


def _data(parts: Mapping[str, Artifact]) -> Section:
    if "data" not in parts:
        return Section("", ())
    made = parts["data"].summary
    splits = ("train", "validation", "test")
    rows = [
        [name, *(Cell(f"{sum(sides.get(split, {}).values()):,}") for split in splits)]
        for name, sides in made.get("files", {}).items()
    ]
    blocks: list[Block] = [Table(["rows", *splits], rows)] if rows else []
    blocks += [Points([f"{name} ({licence})" for name, licence in made["sources"]])] if made.get("sources") else []
    apart = {
        name: sum(sum(reasons.values()) for reasons in made.get(name, {}).values())
        for name in ("quarantined", "dropped")
    }
    if any(apart.values()):
        text = (
            f"{apart['quarantined']:,} rows failed an expectation and were set apart, {apart['dropped']:,} were left "
            "out to keep the splits clean; each with its reason in `quarantine.jsonl`."
        )
        blocks.append(Prose(text))
    return Section("Data", blocks)


def _tokenizer(parts: Mapping[str, Artifact]) -> Section:
    """What a token of held-out text holds, by domain."""
    made = parts["tokenizer"].summary if "tokenizer" in parts else {}
    if "fertility" not in made:
        return Section("", ())
    rows = [
        [
            domain,
            Cell(f"{made['bytes_per_token'][domain]:.2f}"),
            Cell(f"{fertility:.2f}"),
            *(Cell(f"{made[name][domain]:.0%}") for name in ("split_words", "single_bytes")),
        ]
        for domain, fertility in made["fertility"].items()
    ]
    text = f"{made['vocabulary']:,} tokens, of which {made['vocabulary_used']:.0%} occur in the training text."
    head = ["held-out text", "bytes per token", "tokens per word", "words in pieces", "tokens of one byte"]
    return Section("Tokenizer", [Prose(text), Table(head, rows)])


def _effort(parts: Mapping[str, Artifact]) -> Section:
    """Seconds of every step that the parts rest on, by stage; a sweep's or comparison's steps are summed."""
    manifests = ancestors([artifact.key for artifact in parts.values()])
    if not manifests:
        return Section("", ())
    stages: dict[str, list[float]] = {}
    for manifest in manifests:
        stages.setdefault(manifest["identity"]["stage"], []).append(manifest["execution"]["seconds"])
    made = {artifact.stage for artifact in parts.values() if not artifact.reused}
    reused = {artifact.stage for artifact in parts.values()} - made
    rows: list[list[Cell | str]] = []
    for stage, seconds in stages.items():
        origin = "reused" if stage in reused else "made in this run" if stage in made else ""
        rows.append([stage, Cell(f"{len(seconds)}"), Cell(_duration(sum(seconds))), origin])
    total = sum(map(sum, stages.values()))
    rows.append([Cell("all", strong=True), Cell(f"{len(manifests)}"), Cell(_duration(total), strong=True), ""])
    text = "Time that each stage took when it was computed; steps that ran side by side are added up."
    return Section("Time and reuse", [Prose(text), Table(["stage", "steps", "time", ""], rows)])


def _next(model: str, parts: Mapping[str, Artifact]) -> Section:
    lines = [("evergreen models", "every registered model with its verdict")]
    if "registered" in parts:
        made = parts["registered"].summary
        reference = model if made["verdict"] == "promoted" else f"{model}/{made['version']}"
        lines.insert(0, (f"evergreen chat {reference}", "talk to this model"))
    if tracking.uri().startswith("sqlite:"):
        command = "MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --workers 1 --host 127.0.0.1 --port 5000"
        lines.append(
            (
                f"{command} --backend-store-uri {tracking.uri()}",
                "every run and model in a browser, at http://127.0.0.1:5000",
            )
        )
    return Section("What to do next", [Commands(lines)])


def _fit(parts: Mapping[str, Artifact]) -> dict[str, Any]:
    return read_json(parts, "forecast", "fit.json")


def _history(artifact: Artifact) -> list[dict[str, Any]]:
    path = artifact.path / "log" / HISTORY
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def _simple_models(base: Artifact) -> dict[str, float]:
    """What n-gram models reach on the text that the base model's loss was measured on."""
    found = {**base.summary, **base.summary.get("baselines", {})}
    return {name: found[name] for name in ("unigram", "bigram") if name in found}


def _duration(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 100 else f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
