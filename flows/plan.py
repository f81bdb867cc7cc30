"""What a deployment would do: its steps, which are reused and why, and the forecast. Nothing is run or written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flows import deployments
from tasks import (
    comparison,
    data,
    distributed,
    drift,
    evaluation,
    incumbent,
    memory_plan,
    preferences,
    pretrain,
    registry,
    replay,
    reward,
    rlhf,
    scaling_laws,
    sft,
    starts,
    steps,
    tokenizer,
)
from tasks.settings import Execution, home

Parameters = Mapping[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the plan."""

    name: str
    key: str
    reused: bool
    why: str


@dataclass
class Plan:
    """Steps by their key in the order of the flow, and what the registry would do."""

    planned: dict[str, steps.Step] = field(default_factory=dict)
    more: list[Row] = field(default_factory=list)
    batch: int = 0
    execution: Execution = field(default_factory=Execution)

    def add(self, step: steps.Step) -> str:
        self.planned[step.key] = step
        return step.key

    def trains(self, batch: int, execution: Execution) -> None:
        """A pre-training is among the steps, with so many windows in a batch."""
        self.batch, self.execution = batch, execution

    def named(self, title: str) -> steps.Step | None:
        return next((step for step in self.planned.values() if step.title == title), None)

    def rows(self) -> list[Row]:
        rows = []
        waiting: dict[str, str] = {}
        for key, step in self.planned.items():
            status = steps.status(step)
            again = [waiting[parent] for parent in step.inputs.values() if parent in waiting]
            reused, why = (
                (False, f"its input {again[0]} runs again") if again and status.reused else (status.reused, status.why)
            )
            if not reused:
                waiting[key] = step.title
            rows.append(Row(step.title, key, reused, why))
        return rows + self.more


def plan(flow_name: str, parameters: Parameters) -> dict[str, Any]:
    """The steps (`name`, `key`, `reused`, `why`) and the forecast of a flow with validated parameters."""
    planned = Plan()
    PLANNERS[flow_name](planned, parameters)
    rows = planned.rows()
    if any(row.name.startswith("pretrain/") and not row.reused for row in rows):
        distributed.require(planned.batch, planned.execution)
    return {"steps": [vars(row) for row in rows], "forecast": _forecast(planned, rows, parameters)}


def _lifecycle(plan: Plan, p: Parameters) -> None:
    scaling_laws.require_life_cycle(p["scaling"], p["pretrain"], p["tokenizer"].context)
    plan.trains(p["pretrain"].batch, p["execution"])
    for step in data.plan(p["data"]):
        dataset = plan.add(step)
    _watched(plan, dataset, p["name"], drift.ProfileRecipe(), drift.DriftRecipe())
    vocabulary = plan.add(tokenizer.step(p["tokenizer"], dataset))
    size = _vocabulary(vocabulary, p["tokenizer"].vocabulary)
    points = [plan.add(step) for step in scaling_laws.point_steps(p["scaling"], p["pretrain"], vocabulary, size)]
    forecast = plan.add(scaling_laws.fit_step(p["scaling"], p["pretrain"], points))
    base = plan.add(pretrain.step(p["pretrain"], vocabulary, forecast))
    tuned = plan.add(sft.step(p["sft"], base, dataset))
    control = plan.add(sft.scratch_step(sft.scratch_recipe(p["sft"], p["pretrain"]), vocabulary, forecast, dataset))
    pairs = plan.add(preferences.step(p["preferences"], tuned, dataset))
    judge = plan.add(reward.step(p["reward"], tuned, pairs, dataset))
    aligned = plan.add(rlhf.step(p["rlhf"], tuned, judge, dataset))
    models = {"base": base, "from-scratch": control, "sft": tuned, "aligned": aligned}
    report = _evaluation(plan, p["evaluation"], models, dataset, judge, p["pretrain"])
    _registered(plan, p, aligned, report)


def _evaluation(plan: Plan, recipe: Any, models: Mapping[str, str], dataset: str, judge: str, base: Any) -> str:
    rows = {
        name: plan.add(evaluation.model_step(recipe, name, model, dataset, judge, base.mixture))
        for name, model in models.items()
    }
    return plan.add(comparison.compare_step(recipe, rows, dataset))


def _data(plan: Plan, p: Parameters) -> None:
    for step in data.plan(p["recipe"]):
        dataset = plan.add(step)
    _watched(plan, dataset, p["name"], drift.ProfileRecipe(), drift.DriftRecipe())


def _drift(plan: Plan, p: Parameters) -> None:
    _watched(plan, _found(p["dataset"], "data"), p["name"], p["profile"], p["recipe"])


def _watched(plan: Plan, dataset: str, name: str, profile: drift.ProfileRecipe, recipe: drift.DriftRecipe) -> None:
    """The profile, and the comparison where there is a champion that was trained on other data."""
    champion = drift.champion_data(name)
    if champion is None or champion.key == dataset:
        plan.add(drift.profile_step(profile, dataset))
        return
    models = [each.key if each else "" for each in drift.champion_models(name)]
    seen = plan.add(drift.profile_step(profile, dataset, *models))
    reference = plan.add(drift.profile_step(profile, champion.key, *models))
    plan.add(drift.compare_step(recipe, seen, reference))


def _found(reference: str, stage: str, name: str = "") -> str:
    from tasks.artifacts import Artifact

    return steps.find(reference, stage, Artifact, name=name).key


def _vocabulary(tokenizer: str, asked: int = 0) -> int:
    """The entries of a tokenizer: what was asked for where it is yet to be trained (little text gives fewer)."""
    made = steps.read_manifest(home() / "store" / "tokenizer" / tokenizer)
    return made["summary"]["vocabulary"] if made and "summary" in made else asked


def _tokenizer(plan: Plan, p: Parameters) -> None:
    plan.add(tokenizer.step(p["recipe"], _found(p["dataset"], "data")))


def _scaling_laws(plan: Plan, p: Parameters) -> None:
    vocabulary = _found(p["tokenizer"], "tokenizer")
    size = _vocabulary(vocabulary)
    points = [plan.add(step) for step in scaling_laws.point_steps(p["recipe"], p["pretrain"], vocabulary, size)]
    plan.add(scaling_laws.fit_step(p["recipe"], p["pretrain"], points))


def _pretrain(plan: Plan, p: Parameters) -> None:
    if p["start"]:
        _going_on(plan, p)
        return
    plan.trains(p["recipe"].batch, p["execution"])
    forecast = _found(p["forecast"], "scaling", "fit") if p["forecast"] else ""
    plan.add(pretrain.step(p["recipe"], _found(p["tokenizer"], "tokenizer"), forecast))


def _going_on(plan: Plan, p: Parameters) -> None:
    plan.trains(p["continued"].batch, p["execution"])
    start = starts.found(p["start"])
    base = plan.add(starts.import_step(start)) if start.foreign else starts.key(start)
    dataset = _found(p["dataset"], "data")
    known = _found(p["earlier"], "data") if p["earlier"] else starts.seen(start)
    learnt = plan.add(replay.step(p["replay"], dataset, known)) if known else dataset
    vocabulary = plan.add(tokenizer.encoding_step(p["encoding"], learnt, base))
    held_out = plan.add(tokenizer.encoding_step(p["encoding"], known, base)) if known else ""
    plan.add(pretrain.continue_step(p["continued"], vocabulary, base, held_out))


def _sft(plan: Plan, p: Parameters) -> None:
    plan.add(sft.step(p["recipe"], _found(p["base"], "pretrain"), _found(p["dataset"], "data")))


def _rlhf(plan: Plan, p: Parameters) -> None:
    tuned, dataset = _found(p["model"], "sft", "lora"), _found(p["dataset"], "data")
    pairs = plan.add(preferences.step(p["preferences"], tuned, dataset))
    judge = plan.add(reward.step(p["reward"], tuned, pairs, dataset))
    plan.add(rlhf.step(p["recipe"], tuned, judge, dataset))


def _evaluate(plan: Plan, p: Parameters) -> None:
    models = {name: evaluation.find_model(reference).key for name, reference in p["models"].items()}
    judge = _found(p["reward"], "reward") if p["reward"] else ""
    _evaluation(plan, p["recipe"], models, _found(p["dataset"], "data"), judge, p["pretrain"])


def _registry(plan: Plan, p: Parameters) -> None:
    model, report = evaluation.find_model(p["model"]), _found(p["report"], "evaluate", "compare")
    _registered(plan, p, model.key, report)


def _retrain(plan: Plan, p: Parameters) -> None:
    before = incumbent.incumbent(p["parent"] or p["name"])
    if before is None or p["start"] == "scratch":
        _, first = deployments.configured(deployments.load(p["scratch"]), [])
        shared = ("name", "data", "evaluation", "gate", "execution")
        _lifecycle(plan, {**first, **{name: p[name] for name in shared}})
        return
    plan.trains(p["pretrain"].batch, p["execution"])
    for step in data.plan(p["data"]):
        dataset = plan.add(step)
    _watched(plan, dataset, p["name"], drift.ProfileRecipe(), drift.DriftRecipe())
    made = steps.status(step)
    if made.reused and made.manifest["digest"] == before.data_digest:
        plan.more.append(Row(f"retrain/{p['name']}", dataset, True, f"nothing new: {before.version} knows these data"))
        return
    earlier = incumbent.files_of(before)
    learnt = plan.add(replay.step(p["replay"], dataset, earlier.key if earlier else ""))
    vocabulary = plan.add(tokenizer.encoding_step(p["encoding"], learnt, before.model.key))
    base = plan.add(pretrain.continue_step(p["pretrain"], vocabulary, before.model.key))
    tuned = plan.add(sft.step(p["sft"], base, learnt))
    pairs = plan.add(preferences.step(p["preferences"], tuned, learnt))
    judge = plan.add(reward.step(p["reward"], tuned, pairs, learnt))
    aligned = plan.add(rlhf.step(p["rlhf"], tuned, judge, learnt))
    models = {"parent" if p["parent"] else "champion": before.model.key, "sft": tuned, "aligned": aligned}
    report = _evaluation(plan, p["evaluation"], models, dataset, judge, pretrain.PretrainRecipe())
    _registered(plan, p, aligned, report)


def _registered(plan: Plan, p: Parameters, model: str, report: str) -> None:
    key = registry.key(p["name"], model, report, p["gate"])
    status = registry.status(p["name"], key)
    plan.more.append(Row(f"registry/{p['name']}", key, status.reused, status.why))


PLANNERS: Mapping[str, Callable[[Plan, Parameters], None]] = {
    "lifecycle": _lifecycle,
    "data": _data,
    "drift": _drift,
    "tokenizer": _tokenizer,
    "scaling-laws": _scaling_laws,
    "pretrain": _pretrain,
    "sft": _sft,
    "rlhf": _rlhf,
    "evaluate": _evaluate,
    "registry": _registry,
    "retrain": _retrain,
}


def _forecast(plan: Plan, rows: Sequence[Row], p: Parameters) -> dict[str, Any]:
    """What the pre-training will take: by the fitted law where the sweep has run, else for the middle candidate.

    Empty for a flow that pre-trains nothing.
    """
    scaling, base = p.get("scaling"), p.get("pretrain")
    fit = plan.named("scaling/fit")
    if scaling is None or base is None or fit is None or plan.named("pretrain/main") is None:
        return {}
    from models.architectures import added_tokens, shape_of
    from models.costs import disk_bytes, flops_per_token, parameters

    fitted = steps.status(fit)
    picked = fitted.manifest["summary"] if fitted.reused else {}
    size = base.size or picked.get("size") or scaling.candidates[len(scaling.candidates) // 2]
    shape, positions = shape_of(int(size), base.family), p["tokenizer"].context
    vocabulary = p["tokenizer"].vocabulary + len(added_tokens(base.family, base.context))
    per_token = flops_per_token(shape, vocabulary, base.context)
    tokens = base.tokens or picked.get("tokens") or round(scaling.compute / per_token)
    earlier = [_seconds(plan.planned[row.key]) for row in rows if row.key in plan.planned and not row.reused]
    return {
        "basis": "fitted scaling law" if picked else "middle candidate; the sweep has not run",
        "size": int(size),
        "parameters": parameters(shape, vocabulary, positions=positions)["total"],
        "tokens": int(tokens),
        "flops": per_token * int(tokens),
        "loss": {name: picked[name] for name in ("loss", "low", "high")} if picked else None,
        "peak_memory_bytes": memory_plan.training_peak(shape, vocabulary, context=base.context, batch=base.batch),
        "disk_bytes": sum(disk_bytes(shape, vocabulary, positions=positions).values()),
        "pretraining_seconds": round(per_token * int(tokens) / _flops_per_second()),
        "seconds": round(sum(earlier)) if all(earlier) else None,
    }


def _seconds(step: steps.Step) -> float:
    """How long the newest step of this name took; 0 where there was none."""
    made = steps.finished(step.stage, step.name)
    return (steps.read_manifest(made[-1]) or {}).get("execution", {}).get("seconds", 0.0) if made else 0.0


def _flops_per_second() -> float:
    """One thread's rate in training: half of what a large fp32 product reaches (bf16 gains what small shapes lose)."""
    import time

    import numpy as np

    matrix = np.ones((768, 768), np.float32)
    matrix @ matrix
    started = time.perf_counter()
    for _ in range(4):
        matrix @ matrix
    return 0.5 * 4 * 2 * 768**3 / (time.perf_counter() - started)
