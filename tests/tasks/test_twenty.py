"""Twenty processes promote at once: one champion remains, and none that its gate refused."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing.synchronize import Barrier

import pytest

from tasks import catalogue, parity, pointers
from tasks.artifacts import Checkpoint, EvaluationReport
from tasks.settings import project
from tests import contest
from tests.contest import aliases

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("registry_places")]
# Once, not in each of the twenty processes and in each of the twenty that try what they have registered.
IMPORTS = [
    "tests.contest", "tasks.generation", "models.architectures", "models.exported", "mlflow.transformers",
    "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store", "transformers.models.llama.modeling_llama", "peft",
    "dvc.repo",
]  # fmt: skip
SHARES = [round(0.70 + 0.30 * (7 * n % 20) / 19, 3) for n in range(20)]  # of good answers, in no order


def test_twenty_at_once(
    registry_folders: dict[str, str], model: Callable[[int], Checkpoint], report: Callable[[float], EvaluationReport]
) -> None:
    entrants = [(model(number), report(share)) for number, share in enumerate(SHARES)]
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTS)
    gate = server.Barrier(len(entrants))
    started = [server.Process(target=_promote, args=(registry_folders, gate, *entrant)) for entrant in entrants]
    for process in started:
        process.start()
    for process in started:
        process.join(600)
    assert [process.exitcode for process in started] == [0] * len(entrants)

    listed = {each["version"]: each for each in catalogue.listing("crowd")}
    assert sorted(listed) == list(range(1, 21))
    assert {each["verdict"] for each in listed.values()} == {"promoted", "not promoted"}
    champion = aliases("crowd")["champion"]
    assert listed[champion]["verdict"] == "promoted"
    tags = {number: catalogue.find(f"crowd/{number}").tags for number in listed}
    assert pointers.read(project() / "models" / "crowd").md5 == tags[champion]["dvc.md5"]
    chain = _chain(tags, champion)
    assert sorted(chain) == sorted(number for number, each in listed.items() if each["verdict"] == "promoted")
    scores = [listed[number]["metrics"]["score"] for number in chain]
    assert scores == sorted(scores), "a champion gave way to a worse model"


def _promote(environment: dict[str, str], gate: Barrier, made: Checkpoint, told: EvaluationReport) -> None:
    os.environ.update(environment)
    parity.fresh = _forked  # type: ignore[assignment]
    gate.wait(300)
    contest.submit(made, told, "crowd")


def _forked() -> Executor:
    """A process for the trials that takes its imports, and nothing else, from the one that all twenty come from."""
    return ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver"))


def _chain(tags: dict[int, dict[str, str]], champion: int) -> list[int]:
    """From the first champion to the last, by what each had replaced."""
    found = [champion]
    while before := tags[found[0]]["replaced"]:
        found.insert(0, int(before))
    return found
