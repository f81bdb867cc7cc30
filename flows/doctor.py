"""What is installed, configured and reachable, and what to do about what is not."""

import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from tempfile import NamedTemporaryFile

from tasks.errors import EvergreenError, StoreError
from tasks.settings import ROOT, home, project

LOCK = "requirements.lock"
INSTALL = f"run `pip install -c {LOCK} -e '.[demo,dev]'` in {ROOT}"
LEAST_SPACE = 200_000_000  # bytes without which not even the databases can be written
ENOUGH_SPACE = 3_000_000_000  # bytes: what lifecycle/nano writes, several times over


@dataclass(frozen=True)
class Check:
    """One line of the report. `essential`: without it `evergreen run` cannot work."""

    name: str
    ok: bool
    found: str
    remedy: str = ""
    essential: bool = False


def examine() -> Iterator[Check]:
    """The checks one by one, the quick ones first. A check that fails to run is a failed check."""
    for check in (_python, _packages, _lock, _demo, _home, _space, _torch, _dvc, _mlflow, _prefect):
        yield _guarded(check)


def require_home() -> None:
    """Raises StoreError when the home cannot be written or has no space left: before anything is started."""
    for check in (_home(), _space()):
        if not check.ok and check.essential:
            raise StoreError(f"{check.found}: {check.remedy}")


def _guarded(check: Callable[[], Check]) -> Check:
    name = check.__name__.lstrip("_")
    try:
        return check()
    except EvergreenError as error:
        return Check(name, False, str(error), essential=True)
    except Exception as error:  # whatever a broken installation throws is what the user needs to see
        return Check(name, False, f"{type(error).__name__}: {error}", INSTALL, essential=True)


def _python() -> Check:
    found = sys.version.split()[0]
    return Check("python", sys.version_info >= (3, 11), found, "use Python 3.11 or newer", essential=True)


def _packages() -> Check:
    """The direct dependencies, among them the bounds that `pip check` does not know (see pyproject.toml)."""
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in requires("evergreen") or []]
    core = [each for each in wanted if each.marker is None or each.marker.evaluate({"extra": ""})]
    wrong = [text for each in core if (text := _unmet(each.name, str(each.specifier), each.specifier.contains))]
    found = "; ".join(wrong) if wrong else f"{len(core)} direct dependencies as pinned"
    return Check("packages", not wrong, found, INSTALL, essential=True)


def _lock() -> Check:
    locked = dict(re.findall(r"^([\w.\-]+)==(\S+)$", (ROOT / LOCK).read_text(encoding="utf-8"), re.MULTILINE))
    others = [name for name, wanted in locked.items() if _release(name) not in (wanted, None)]
    shown = ", ".join(f"{name} {_release(name)} (locked {locked[name]})" for name in others[:5])
    found = f"{len(others)} differ: {shown}" if others else f"all {len(locked)} versions as locked"
    return Check("lock", not others, found, f"untested versions may work; to go back, {INSTALL}")


def _demo() -> Check:
    from packaging.requirements import Requirement

    extras = [Requirement(line) for line in requires("evergreen") or [] if "demo" in line.partition(";")[2]]
    wrong = [text for each in extras if (text := _unmet(each.name, str(each.specifier), each.specifier.contains))]
    found = "; ".join(wrong) if wrong else ", ".join(f"{each.name} {_release(each.name)}" for each in extras)
    return Check("demo data", not wrong, found, f"for lifecycle/nano, {INSTALL}")


def _home() -> Check:
    folder = home()
    remedy = "make it writable, or set EVERGREEN_HOME to a folder that is"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        return Check("home", False, f"cannot write {folder} ({error.strerror})", remedy, essential=True)
    return Check("home", True, f"{folder} is writable", essential=True)


def _space() -> Check:
    folder = next(path for path in (home(), *home().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    found = f"{free / 1e9:.1f} GB free at {folder}"
    return Check(
        "disk", free >= ENOUGH_SPACE, found, "free some space, or set EVERGREEN_HOME to a folder on another disk",
        essential=free < LEAST_SPACE,
    )  # fmt: skip


def _torch() -> Check:
    import torch

    if torch.cuda.is_available():
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory
        return Check("torch", True, f"{torch.__version__}, {torch.cuda.device_count()} x {name}, {memory / 1e9:.0f} GB")
    driver = Path("/proc/driver/nvidia/version").exists()
    found = f"{torch.__version__}, CPU with {os.cpu_count()} cores" + (", a GPU is there but unused" if driver else "")
    return Check("torch", not driver, found, "install a CUDA build of torch (README, Moving on)")


def _dvc() -> Check:
    import dvc

    if not (project() / ".dvc").is_dir():
        return Check("dvc", True, f"{dvc.__version__}, {project()} not initialised: the first run does it")
    from dvc.repo import Repo

    with Repo(str(project())) as repository:
        remote = repository.config["core"].get("remote")
    where = f"remote {remote}" if remote else "no remote: versions stay on this machine"
    return Check("dvc", True, f"{dvc.__version__}, {where}")


def _mlflow() -> Check:
    from tasks import tracking

    if not tracking.exists():
        return Check("mlflow", True, f"{_release('mlflow')}, {tracking.uri()} is made by the first run")
    tracking.experiment()
    return Check("mlflow", True, f"{_release('mlflow')}, {tracking.uri()} answers", essential=True)


def _prefect() -> Check:
    from flows import running
    from flows.server import answers

    url, standing = os.environ.get("PREFECT_API_URL"), running.look()
    if not url and standing:
        found = f"{_release('prefect')}, `evergreen up` runs: {standing.prefect}, MLflow at {standing.mlflow}"
        return Check("prefect", answers(standing.api), found, f"it does not answer; {home()}/log/up may say why")
    if not url:
        return Check("prefect", True, f"{_release('prefect')}, no PREFECT_API_URL: runs start a server of their own")
    remedy = "start it, correct PREFECT_API_URL, or unset it to let each run start a server of its own"
    found = f"{_release('prefect')}, {url} " + ("answers" if answers(url) else "does not answer")
    return Check("prefect", answers(url), found, remedy, essential=True)


def _unmet(name: str, wanted: str, contains: Callable[[str], bool]) -> str:
    found = _release(name)
    if found is None:
        return f"{name} is not installed"
    return "" if contains(found) else f"{name} {found}, but {wanted} is needed"


def _release(name: str) -> str | None:
    """The installed version without its build tag."""
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return None
