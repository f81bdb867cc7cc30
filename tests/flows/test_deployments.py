"""prefect.yaml, what `--set` does to it, and what a user reads when it is wrong."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import flow
from prefect.client.schemas.schedules import CronSchedule
from pydantic import BaseModel, ConfigDict, Field

from flows import deployments
from flows.lifecycle import lifecycle
from flows.plan import plan
from flows.running import BESIDE
from tasks.errors import UsageError
from tasks.pretrain import PretrainRecipe
from tasks.scaling_laws import ScalingRecipe
from tasks.settings import OFFLINE, PERFORMANCE, ROOT

MOVES_A_MODEL = {"lifecycle", "registry", "retrain"}


class Inner(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: float = Field(3.0, gt=0)
    mixture: dict[str, float] = {"gloss": 1.0, "topic": 0.5}
    sizes: tuple[int, ...] = (1, 2)


@flow
def example(name: str = "a", sft: Inner = Inner()) -> None:
    """A flow with a recipe."""


EXAMPLE = deployments.Deployment("example/x", f"{__name__}.example", "", {"sft": {"epochs": 2}})


def configured(*assignments: str) -> dict[str, Any]:
    return deployments.configured(EXAMPLE, assignments)[1]


def test_every_deployment_satisfies_its_flow() -> None:
    checked = []
    for name in deployments.names():
        deployment = deployments.load(name)
        target, parameters = deployments.configured(deployment, [])
        assert target.name == deployment.flow_name
        assert set(parameters) == set(target.parameters.properties)
        checked.append(name)
    assert len(checked) >= 11
    assert deployments.DEFAULT in checked


def test_every_deployment_is_described_in_one_sentence_and_tagged() -> None:
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    assert len(entries) == len(deployments.names()), "two deployments share a name"
    for entry in entries:
        assert re.fullmatch(r"[A-Z].{20,120}\.", entry["description"]), entry["name"]
        assert entry["tags"]
        assert entry["work_pool"]["name"] == "local"


def test_a_worker_gets_the_environment_that_the_command_line_sets() -> None:
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    given = content["definitions"]["pool"]["job_variables"]["env"]
    assert given == {**OFFLINE, **PERFORMANCE, **BESIDE}


def test_what_moves_a_model_of_the_registry_runs_one_by_one() -> None:
    """Two at once would judge themselves against the same champion."""
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    moving = [entry for entry in entries if entry["entrypoint"].rpartition(".")[2] in MOVES_A_MODEL]
    assert len(moving) >= 4
    for entry in moving:
        assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}, entry["name"]


def test_no_schedule_starts_anything_before_a_person_has_switched_it_on() -> None:
    """Each of them trains, or brings new data, on which a training follows; the slug keeps what a person has set."""
    entries = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    schedules = [(entry["name"], schedule) for entry in entries for schedule in entry.get("schedules", ())]
    assert len(schedules) >= 2
    for name, schedule in schedules:
        assert schedule["active"] is False, name
        assert schedule["slug"], name
        assert CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


def test_every_parameter_reads_in_a_form() -> None:
    """A title and a sentence for each field, and the default that is used: a factory's would be an empty field."""
    checked = 0
    for entrypoint in {deployments.load(name).entrypoint for name in deployments.names()}:
        target = deployments.flow(entrypoint)
        for owner, recipe in target.parameters.definitions.items():
            assert recipe["description"], owner
            for field, shown in recipe["properties"].items():
                where = f"{target.name}: {owner}.{field}"
                assert shown.get("title"), where
                assert len(shown.get("description", "").split()) >= 2, where
                assert "default" in shown, where
                checked += 1
        for field, shown in target.parameters.properties.items():
            assert "default" in shown, f"{target.name}: {field}"
    assert checked >= 150


@pytest.mark.parametrize("name", ["docker", "kubernetes"])
def test_a_cluster_runs_the_same_flows_with_the_same_environment(name: str) -> None:
    content = yaml.safe_load((ROOT / "deploy" / f"{name}.yaml").read_text())
    assert len(content["deployments"]) >= 2
    for entry in content["deployments"]:
        assert re.fullmatch(r"[A-Z].{20,120}\.", entry["description"])
        assert {"gpu", name} < set(entry["tags"])
        flow_ = deployments.flow(entry["entrypoint"])
        assert deployments.validated(flow_, entry["parameters"])["execution"].device == "cuda"
        if flow_.name in MOVES_A_MODEL:
            assert entry["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        environment = entry["work_pool"]["job_variables"]["env"]
        assert environment.items() >= {**OFFLINE, **PERFORMANCE, **BESIDE}.items()
        assert {"EVERGREEN_HOME", "EVERGREEN_PROJECT", "MLFLOW_TRACKING_URI"} < set(environment)


def test_the_job_variables_of_a_cluster_are_those_of_its_pool() -> None:
    """Kubernetes: our own template. Docker: Prefect's, with the one field that its packaged copy does not have yet."""
    import jsonschema
    import prefect.server.api as server

    packaged = Path(server.__file__).parent / "collections_data" / "views" / "aggregate-worker-metadata.json"
    docker = json.loads(packaged.read_text())["prefect-docker"]["docker"]["default_base_job_configuration"]
    docker["variables"]["properties"]["container_create_kwargs"] = {"type": "object"}
    templates = {"docker": docker, "kubernetes": json.loads((ROOT / "deploy" / "kubernetes-pool.json").read_text())}
    for name, template in templates.items():
        content = yaml.safe_load((ROOT / "deploy" / f"{name}.yaml").read_text())
        variables = content["definitions"]["pool"]["job_variables"]
        assert set(variables) <= set(template["variables"]["properties"])
        jsonschema.validate(variables, template["variables"])
    used = set(re.findall(r"{{ (\w+) }}", json.dumps(templates["kubernetes"]["job_configuration"])))
    assert used == set(templates["kubernetes"]["variables"]["properties"])


def test_an_unknown_deployment_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"'lifecycle/nanno'; did you mean lifecycle/nano"):
        deployments.load("lifecycle/nanno")


def test_set_reads_values_as_yaml_and_keeps_the_rest() -> None:
    parameters = configured("sft.sizes=[3, 4]", "name='007'")
    assert parameters == {"name": "007", "sft": Inner(epochs=2, sizes=(3, 4))}


def test_set_changes_one_entry_of_a_default_mapping() -> None:
    assert configured("sft.mixture.topic=0.1")["sft"].mixture == {"gloss": 1.0, "topic": 0.1}


def test_set_leaves_what_it_was_given_alone() -> None:
    shared = {"epochs": 2}
    given = {"a": shared, "b": shared}
    changed = deployments.override(given, ["a.epochs=5", "c.d.e=1"])
    assert changed == {"a": {"epochs": 5}, "b": {"epochs": 2}, "c": {"d": {"e": 1}}}
    assert given == {"a": {"epochs": 2}, "b": {"epochs": 2}}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("sft", "not of the form field.field=value"),
        ("=3", "not of the form"),
        ("sft..epochs=3", "not of the form"),
        ("sft.epochs=[1", "is no YAML value"),
        ("sft.epochs.more=1", r"sft.epochs is the value 2.0 and has no field 'more'"),
        ("sft.epoch=1", r"sft has no field 'epoch'; did you mean sft.epochs\?"),
        ("sft.colour=1", r"sft has no field 'colour'; the fields are sft.epochs, sft.mixture, sft.sizes"),
        ("stf.epochs=1", r"example has no field 'stf'; did you mean sft\?"),
        ("sft.epochs=-1", r"sft.epochs cannot be -1: input should be greater than 0"),
        ("sft=3", r"sft cannot be 3"),
        ("name=12", r"""name cannot be 12.*--set 'name="12"'"""),
    ],
)
def test_a_wrong_set_says_what_is_wrong_and_what_is_right(assignment: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        configured(assignment)


def test_an_entrypoint_that_is_not_there_is_named() -> None:
    with pytest.raises(UsageError, match=r"flows.nothing.here.*No module named"):
        deployments.flow("flows.nothing.here")


def test_an_entrypoint_that_is_no_flow_is_named() -> None:
    with pytest.raises(UsageError, match=r"tasks.settings.home.*is function, not a flow"):
        deployments.flow("tasks.settings.home")


@pytest.mark.parametrize(
    ("text", "message"), [("deployments: [", "is no YAML"), ("name: x", "needs `deployments`"), (None, "is missing")]
)
def test_a_broken_file_is_named(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "prefect.yaml").write_text(text)
    monkeypatch.setattr(deployments, "ROOT", tmp_path)
    with pytest.raises(UsageError, match=message):
        deployments.names()


def test_a_deployment_that_its_flow_refuses_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deployments.require_valid()
    text = (ROOT / "prefect.yaml").read_text()
    (tmp_path / "prefect.yaml").write_text(text.replace("    limit: 400", "    limitt: 400"))
    monkeypatch.setattr(deployments, "ROOT", tmp_path)
    with pytest.raises(UsageError, match=r"^prefect.yaml, lifecycle/tiny: data has no field 'limitt'; did you mean"):
        deployments.require_valid()


def test_a_sweep_that_cannot_fix_the_law_is_wrong_use() -> None:
    with pytest.raises(UsageError, match="sizes and tokens give 4 runs, the law has 5 coefficients"):
        deployments.configured(deployments.load("scaling-laws/nano"), ["recipe.sizes=[2, 3]", "recipe.tokens=[1, 2]"])


def test_a_rule_over_several_fields_is_told_without_the_whole_recipe() -> None:
    with pytest.raises(UsageError, match=r"^execution: sharding is fsdp, device auto and devices 1: FSDP needs"):
        deployments.configured(deployments.load("pretrain/gpt2"), ["execution.sharding=fsdp"])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pretrain": PretrainRecipe(family="bert")}, "family is bert, which is for sweeps and pre-training alone"),
        ({"pretrain": PretrainRecipe(family="gpt2")}, r"--set 'scaling\.families=\[gpt2\]'"),
        (
            {"pretrain": PretrainRecipe(family="gpt2", context=512), "scaling": ScalingRecipe(families=("gpt2",))},
            r"pretrain\.context is 512, and a gpt2 for this tokenizer learns 256 positions",
        ),
    ],
)
def test_a_life_cycle_that_must_fail_later_is_refused_before_it_begins(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        lifecycle.fn(**changes)
    with pytest.raises(UsageError, match=said):
        plan("lifecycle", deployments.validated(lifecycle, changes))


@pytest.mark.parametrize(
    ("given", "said"),
    [("foo", r"cannot be 'foo': a source is builtin:encyclopaedia, package"), ("{}", "names no source"),
     ("{'path:a': -1}", "the weight of path:a must be a finite number above 0")],
)  # fmt: skip
def test_a_wrong_source_is_told_in_one_sentence(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        deployments.configured(deployments.load("data/encyclopaedia"), [f"recipe.source={given}"])
    assert ";" not in str(caught.value).replace("source; give", "")
