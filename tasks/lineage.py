"""Where a result comes from: the steps behind it, the data's version, the code's commit."""

import subprocess
from collections.abc import Iterable
from typing import Any

from tasks import steps
from tasks.artifacts import Artifact, Dataset
from tasks.settings import ROOT, home


def ancestors(keys: Iterable[str]) -> list[dict[str, Any]]:
    """The manifests of the finished steps with these keys and of all that they were made from, parents first."""
    found: dict[str, dict[str, Any]] = {}

    def visit(key: str) -> None:
        manifest = next(filter(None, map(steps.read_manifest, (home() / "store").glob(f"*/{key}"))), None)
        if key in found or manifest is None or "identity" not in manifest:
            return
        for parent in manifest["identity"]["inputs"].values():
            visit(parent)
        found.setdefault(key, manifest)

    for key in keys:
        visit(key)
    return list(found.values())


def trace(model: Artifact, report: Artifact, dataset: Dataset) -> dict[str, str]:
    """What leads from a registered model back to its data, code, recipes and parents, as MLflow tags."""
    behind = ancestors([model.key])
    recipes = {f"{each['identity']['stage']}/{each['identity']['name']}": each["identity"]["recipe"] for each in behind}
    return {
        "data_digest": dataset.digest,
        "data_key": dataset.key,
        "model_key": model.key,
        "model_digest": model.digest,
        "report_key": report.key,
        "recipe_digest": steps.digest_of(recipes),
        **{f"step.{_title(each)}": each["key"] for each in behind},
        **{f"parent.{role}": digest for role, digest in model.inputs.items()},
        **_forecast(behind),
        **_commit(),
    }


def _title(manifest: dict[str, Any]) -> str:
    return f"{manifest['identity']['stage']}.{manifest['identity']['name']}"


def _forecast(behind: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The loss that the scaling law foresaw and the one that pre-training reached."""
    summaries = {_title(each): each.get("summary", {}) for each in behind}
    wanted = {"forecast_loss": ("scaling.fit", "loss"), "pretrain_loss": ("pretrain.main", "loss")}
    return {tag: str(summaries[step][name]) for tag, (step, name) in wanted.items() if name in summaries.get(step, {})}


def _commit() -> dict[str, str]:
    """Commit and state of the code; none where the code is not a git checkout."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain")
    return {"git_commit": commit, "git_dirty": str(bool(changes)).lower()} if commit else {}


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
