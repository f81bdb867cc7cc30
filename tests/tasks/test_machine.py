import json

from tasks import machine

RECORD = {"machine": machine.facts(), "threads": 2, "device": "cpu", "bf16": True}


def changed(**facts):
    return {**RECORD, "machine": {**machine.facts(), **facts}}


def test_the_facts_are_json_and_name_what_decides():
    facts = machine.facts()
    assert json.loads(json.dumps(facts)) == facts
    assert facts["libraries"]["torch"][0].isdigit()
    assert facts["machine"] in machine.sentence(facts)
    assert "torch" in machine.sentence(facts)


def test_the_same_platform_differs_in_nothing_and_the_number_of_cores_decides_nothing():
    assert machine.differences(RECORD, RECORD) == []
    assert machine.differences(RECORD, changed(cores=999)) == []


def test_every_difference_is_named_with_both_values():
    old = RECORD | {"machine": {**machine.facts(), "cpu": "A", "flags": ["avx2", "fma"], "gpus": []}}
    libraries = machine.facts()["libraries"] | {"torch": "9.9"}
    now = RECORD | {
        "threads": 4,
        "machine": {**machine.facts(), "cpu": "B", "flags": ["avx512f", "fma"], "gpus": ["H"], "libraries": libraries},
    }
    assert machine.differences(old, now) == [
        "threads 2 -> 4", "cpu A -> B", "gpus none -> H", "instruction sets -avx2 +avx512f",
        f"torch {machine.facts()['libraries']['torch']} -> 9.9",
    ]  # fmt: skip


def test_a_step_whose_machine_nobody_recorded_is_not_called_different():
    assert machine.differences({"seconds": 1.0}, RECORD | {"device": None, "threads": None, "bf16": None}) == []
