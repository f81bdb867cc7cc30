"""The champion: a version that passed the gate takes over in one step, is tried at once, and gives way if it fails.

Every change happens under one lock per model. What a killed process left half done is finished, or taken back, by the
next one that takes the lock.
"""

import getpass
import json
import logging
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks import catalogue, pages, parity, pointers, registry, tracking, versioning
from tasks.artifacts import RegisteredModel
from tasks.catalogue import CHALLENGER, CHAMPION, PASSED, PREVIOUS, PROMOTED, REFUSED, ROLLED_BACK, VERDICT
from tasks.contest import AGAINST, Contest, judged, own_contest
from tasks.errors import GateError, RegistryError, UsageError
from tasks.registry import number as number_of
from tasks.registry import tag
from tasks.settings import project
from tasks.training import EXPORT

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion


logger = logging.getLogger("evergreen.promotion")


@task(task_run_name="judge {registered.name}", cache_policy=NO_CACHE)
def judge(registered: RegisteredModel, contest: Contest) -> RegisteredModel:
    """Holds a registered version against the champion, and stores the verdict with its reasons. Moves no alias.

    A verdict stands: the same version is not judged again unless the champion changes before its promotion.
    """
    with changing(registered.name):
        version = _version(registered)
        if VERDICT not in version.tags:
            version = judged(version, contest)
        return registry.handle(version, registered)


@task(task_run_name="promote {registered.name}", cache_policy=NO_CACHE)
def promote(registered: RegisteredModel, contest: Contest) -> RegisteredModel:
    """Makes a version that passed the gate the champion; leaves any other as it is.

    Where another version became the champion since the verdict, the version is judged again, against that one.
    """
    with changing(registered.name):
        version = _version(registered)
        if version.tags.get(VERDICT) == PASSED:
            version = _promote(version, contest)
        settled = registry.handle(version, registered)
    pages.show_version(settled)
    return settled


def decline(registered: RegisteredModel, reason: str) -> RegisteredModel:
    """A person, or the end of their time, says no to a version that passed the gate."""
    with changing(registered.name):
        return registry.handle(_refuse(_version(registered), [reason]), registered)


def challenge(reference: str) -> dict[str, Any]:
    """`evergreen promote`: judges a version by its own evaluation and gate against the champion of now, and promotes.

    Raises GateError with the reasons where the gate says no, RegistryError where the version cannot be judged.
    """
    version = catalogue.find(reference)
    with changing(version.name), own_contest(version) as contest:
        if _is_champion(version):
            return _said(version)
        version = _promote(judged(version, contest), contest)
        if version.tags[VERDICT] != PROMOTED:
            raise GateError(f"{version.name}/{version.version} is not promoted: {'; '.join(_reasons(version))}")
        return _said(version)


def force(reference: str, *, why: str, by: str = "") -> dict[str, Any]:
    """Makes a version the champion against the gate, or without one; who did it and why is stored with it.

    A model whose export is broken is refused all the same: RegistryError. Raises UsageError without a reason.
    """
    if not why.strip():
        raise UsageError("a forced promotion needs a reason, which is stored with it: --why 'TEXT'")
    version = catalogue.find(reference)
    with changing(version.name):
        if _is_champion(version):
            return _said(version)
        tags = {"forced_by": by or _who(), "forced_why": why, "forced_at": _now(), "reasons": f"forced: {why}"}
        version = _swap(tag(version, {"checks": "[]", **version.tags, **tags}))
        if version.tags[VERDICT] != PROMOTED:
            raise RegistryError(f"{version.name}/{version.version} cannot be used: {'; '.join(_reasons(version))}")
        return _said(version)


def rollback(name: str, *, why: str = "", by: str = "") -> dict[str, Any]:
    """Puts the previous champion back, and what that one had replaced behind it.

    Raises RegistryError where there is no previous champion, and where it cannot be used: nothing has moved then.
    """
    catalogue.find(name)  # says which models there are where this is none
    with changing(name):
        champion, previous = catalogue.aliased(name, CHAMPION), catalogue.aliased(name, PREVIOUS)
        if champion is None or previous is None:
            raise RegistryError(f"{name} has no previous champion to put back: `evergreen models {name}` lists what is")
        with parity.fresh() as process:
            troubles = parity.check(
                process, name, number_of(previous), catalogue.folder_of(previous), _record(previous)
            )
        if troubles:
            raise RegistryError(f"{name}/{previous.version}, the previous champion, cannot be used: {troubles[0]}")
        tag(champion, {VERDICT: ROLLED_BACK, "rolled_back_by": by or _who(), "rolled_back_at": _now(),
                        "rolled_back_why": why})  # fmt: skip
        _place_weights(previous)
        _move(name, {CHAMPION: number_of(previous), PREVIOUS: previous.tags.get("replaced", "")})
        _remember(name, "rollback", champion, previous, why)
        logger.info("%s: version %s is the champion again, version %s is not", name, previous.version, champion.version)
        return _said(previous)


@contextmanager
def changing(name: str) -> Iterator[None]:
    """The lock under which a model's aliases may move; begins by settling what a killed process left."""
    with registry.lock(name), tracking.reachable():
        _recover(name)
        yield


def _recover(name: str) -> None:
    """A champion without the last tag of a promotion was never tried: it is now. Its weights follow it."""
    champion = catalogue.aliased(name, CHAMPION)
    if champion is None:
        return
    if champion.tags.get(VERDICT) != PROMOTED and "replaced" in champion.tags:
        logger.warning(
            "version %s of %s became the champion in a run that was killed; trying it", champion.version, name
        )
        with parity.fresh() as process:
            _finish(champion, parity.smoke(process, name, CHAMPION, number_of(champion), _record(champion)))
        champion = catalogue.aliased(name, CHAMPION)
    recorded = champion.tags.get("dvc.md5", "") if champion else ""
    if champion is not None and recorded and pointers.read(project() / "models" / name).md5 != recorded:
        _place_weights(champion)


def _promote(version: "ModelVersion", contest: Contest) -> "ModelVersion":
    if version.tags.get(AGAINST) != number_of(catalogue.aliased(version.name, CHAMPION)):
        logger.info(
            "version %s of %s was judged against another champion; judging again", version.version, version.name
        )
        version = judged(version, contest)
    return _swap(version) if version.tags[VERDICT] == PASSED else version


def _swap(version: "ModelVersion") -> "ModelVersion":
    """Tries the export, versions the weights, moves the alias in one call, tries it again as its users have it.

    Whatever fails before the call leaves the champion that was; what fails after it brings that one back.
    """
    name, number = version.name, number_of(version)
    champion, previous, recorded = (
        catalogue.aliased(name, CHAMPION),
        catalogue.aliased(name, PREVIOUS),
        _record(version),
    )
    with parity.fresh() as process:
        troubles = parity.check(process, name, number, catalogue.folder_of(version), recorded)
        if troubles:
            return _refuse(version, [f"its export is not the model that was trained: {each}" for each in troubles])
        version = tag(version, {"replaced": number_of(champion), "replaced_previous": number_of(previous)})
        version = _place_weights(version)
        _move(name, {PREVIOUS: number_of(champion) or number_of(previous), CHAMPION: number})
        troubles = parity.smoke(process, name, CHAMPION, number, recorded)
    return _finish(version, troubles)


def _finish(version: "ModelVersion", troubles: list[str]) -> "ModelVersion":
    """The last tag of a promotion, or the way back to the champion before it."""
    name, tags = version.name, version.tags
    before = catalogue.find(f"{name}/{tags['replaced']}") if tags["replaced"] else None
    if troubles:
        _move(name, {CHAMPION: tags["replaced"], PREVIOUS: tags["replaced_previous"]})
        if before is None:
            versioning.drop_model(name)
        else:
            _place_weights(before)
        logger.warning(
            "version %s of %s failed as the champion and was taken back: %s", version.version, name, troubles[0]
        )
        return _refuse(version, [f"it failed as the champion and was taken back: {each}" for each in troubles])
    if number_of(catalogue.aliased(name, CHALLENGER)) == number_of(version):
        _move(name, {CHALLENGER: ""})
    _remember(name, "promotion", before, version, tags.get("forced_why", ""))
    logger.info("version %s of %s is the champion", version.version, name)
    return tag(version, {VERDICT: PROMOTED, "promoted_at": _now()})


def _refuse(version: "ModelVersion", reasons: list[str]) -> "ModelVersion":
    return tag(version, {VERDICT: REFUSED, "reasons": "\n".join(reasons)})


def _place_weights(version: "ModelVersion") -> "ModelVersion":
    """`models/<name>/` and its pointer become this version's."""
    pointer = versioning.version_model.fn(catalogue.folder_of(version), version.name)
    return tag(version, {f"dvc.{field}": str(value) for field, value in pointer.items()})


def _move(name: str, aliases: Mapping[str, str]) -> None:
    """Points each alias to a version number, or takes it away where that is empty."""
    store, there = tracking.client(), catalogue.aliases(name)
    for alias, number in aliases.items():
        if number:
            store.set_registered_model_alias(name, alias, number)
        elif alias in there:
            store.delete_registered_model_alias(name, alias)


def _remember(name: str, what: str, before: "ModelVersion | None", now: "ModelVersion", why: str) -> None:
    """Every change of the champion is a run of its own, so that MLflow knows when and why it happened."""
    params = {
        "model": name,
        "change": what,
        "from": number_of(before),
        "to": number_of(now),
        "why": why,
        "by": _who(),
    }
    with tracking.run(stage="promotion", name=name, key=f"{name}/{_now()}", params=params, tags={"model": name}):
        pass


def _record(version: "ModelVersion") -> dict[str, Any] | None:
    """What the model said when its training ended; None for one that no stage here has trained."""
    from mlflow.exceptions import MlflowException

    if not version.run_id or EXPORT not in {each.path for each in tracking.client().list_artifacts(version.run_id)}:
        return None
    with TemporaryDirectory() as folder:
        try:
            path = tracking.client().download_artifacts(version.run_id, EXPORT, folder)
        except MlflowException:
            return None
        found: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
        return found


def _version(registered: RegisteredModel) -> "ModelVersion":
    return catalogue.find(f"{registered.name}/{registered.summary['version']}")


def _is_champion(version: "ModelVersion") -> bool:
    return number_of(catalogue.aliased(version.name, CHAMPION)) == str(version.version)


def _reasons(version: "ModelVersion") -> list[str]:
    return version.tags.get("reasons", "").splitlines()


def _said(version: "ModelVersion") -> dict[str, Any]:
    found = tracking.client().get_model_version(version.name, version.version)
    return {**catalogue.described(found, catalogue.aliases(found.name)), "reasons": _reasons(found)}


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
