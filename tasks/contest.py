"""How a version is judged: by its report, the gate, and the champion of the moment."""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tasks import catalogue, registry, tracking
from tasks.catalogue import CHAMPION, PASSED, REFUSED, VERDICT
from tasks.errors import RegistryError
from tasks.gate import Gate, decide
from tasks.latency import Latency, measure_latency
from tasks.rival import REPORT, Rival, has_row, of_row, yardstick
from tasks.settings import Execution

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

AGAINST = "judged_against"  # the champion's number at the time of the verdict; empty where there was none
Again = Callable[["ModelVersion"], Rival]  # evaluates the champion by the yardstick of a report

logger = logging.getLogger("evergreen.contest")


@dataclass(frozen=True)
class Contest:
    """What a version is judged by: the folder of its report, the gate, and a way to measure the champion again."""

    report: Path
    gate: Gate
    execution: Execution
    again: Again
    answer_tokens: int = 24  # of the longest answer that is timed


def judged(version: "ModelVersion", contest: Contest) -> "ModelVersion":
    """The version with the gate's verdict, its reasons and the champion that it was held against, in the store too."""
    champion = catalogue.aliased(version.name, CHAMPION)
    rival = _rival(champion, contest) if champion and not has_row(contest.report, CHAMPION) else None
    timed = _timed(version, champion, contest) if champion and contest.gate.latency_ratio is not None else None
    verdict = decide(contest.report, rival, contest.gate, latency=timed)
    tags = {
        "reasons": "\n".join(verdict.reasons),
        "checks": json.dumps([check.model_dump() for check in verdict.checks]),
        "skipped": "\n".join(verdict.skipped),
        AGAINST: registry.number(champion),
        VERDICT: PASSED if verdict.promote else REFUSED,
    }
    logger.info("version %s of %s: the gate says %s", version.version, version.name, "yes" if verdict.promote else "no")
    return registry.tag(version, tags)


def _rival(champion: "ModelVersion", contest: Contest) -> Rival:
    """The champion's scores by the report's yardstick: its own where that was the same, else it is measured again."""
    from mlflow.exceptions import MlflowException

    with TemporaryDirectory() as folder:
        try:
            for name in REPORT:
                tracking.client().download_artifacts(champion.run_id or "", name, folder)
            if yardstick(Path(folder)) == yardstick(contest.report):
                return of_row(Path(folder), champion.tags[registry.ROW])
        except (MlflowException, OSError, RegistryError):
            logger.info("version %s, the champion, has no scores of its own", champion.version)
    logger.info("version %s, the champion, was scored by another yardstick; evaluating it again", champion.version)
    return contest.again(champion)


def _timed(version: "ModelVersion", champion: "ModelVersion", contest: Contest) -> Latency:
    folders = catalogue.folder_of(version), catalogue.folder_of(champion)
    return measure_latency(*folders, contest.report, contest.execution, max_new_tokens=contest.answer_tokens)


@contextmanager
def own_contest(version: "ModelVersion") -> Iterator[Contest]:
    """The evaluation and the gate that a version was registered with."""
    from mlflow.exceptions import MlflowException

    def again(champion: "ModelVersion") -> Rival:
        raise RegistryError(
            f"{version.name}/{champion.version}, the champion, was scored by another yardstick than "
            f"{version.name}/{version.version}; `evergreen run registry/nano` evaluates it again and judges"
        )

    store = tracking.client()
    with TemporaryDirectory() as folder:
        try:
            for name in (*REPORT, registry.GATE):
                store.download_artifacts(version.run_id or "", name, folder)
        except (MlflowException, OSError) as error:
            raise RegistryError(
                f"{version.name}/{version.version} was registered without an evaluation, so the gate cannot judge it; "
                "evaluate it with `evergreen run registry/nano`, or give a reason: --force --why 'TEXT'"
            ) from error
        gate = Gate.model_validate_json((Path(folder) / registry.GATE).read_text(encoding="utf-8"))
        yield Contest(Path(folder), gate, Execution(), again)
