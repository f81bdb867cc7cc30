"""The parts of `evergreen up`, in the order in which they start: servers, deployments, automations, worker."""

import logging
import os
import urllib.error
import urllib.request
from contextlib import ExitStack
from datetime import UTC, datetime

from flows import automations, deployments, provision
from flows.api import Api
from flows.processes import Child
from flows.running import BESIDE, Standing
from flows.server import PATIENCE, answers
from tasks.errors import EvergreenError
from tasks.settings import ROOT, home, project

WORKER = "up"
LOGS = "log/up"

# The logs are files; what a server says of every request is not worth its room.
PLAIN = {
    "NO_COLOR": "1",
    "PREFECT_LOGGING_COLORS": "false",
    "PREFECT_CLI_COLORS": "false",
    "PREFECT_CLI_WRAP_LINES": "false",
    "PREFECT_SERVER_LOGGING_LEVEL": "WARNING",
    "PYTHONUNBUFFERED": "1",
}

logger = logging.getLogger("evergreen.up")


class Services:
    """Starts the parts one by one, with a line for each. `started` stops them in the reverse order."""

    def __init__(self, standing: Standing, started: ExitStack):
        self.standing, self.started, self.api = standing, started, Api(standing.api)
        self.children: list[Child] = []

    def servers(self, host: str, port: int, mlflow_port: int) -> None:
        """Both at once, for the first start of either takes long. `mlflow_port` is 0 where a server elsewhere is used.

        Raises EvergreenError, as all that follows, when a part does not start.
        """
        prefect = self._start("Prefect server", "prefect", ["prefect", "server", "start", "--host", host, "--port",
                                                            str(port)])  # fmt: skip
        mlflow = mlflow_port and self._start(
            "MLflow server", "mlflow", ["flows.mlflow_server", host, str(mlflow_port)],
            MLFLOW_TRACKING_URI=os.environ.get("MLFLOW_TRACKING_URI", ""),  # its clients' is its own address
        )  # fmt: skip
        prefect.until(lambda: answers(self.standing.api), patience=PATIENCE)
        say("Prefect server", self.standing.prefect)
        if mlflow:
            mlflow.until(lambda: responds(f"{self.standing.mlflow}/health"), patience=PATIENCE)
        say("MLflow server", self.standing.mlflow + ("" if mlflow else ", from MLFLOW_TRACKING_URI"))

    def deploy(self) -> None:
        """What prefect.yaml holds, as `prefect deploy --all` does it; what was switched in the UI stays so."""
        provision.make_pool(self.api)
        if lost := provision.end_orphans(self.api):
            say("flow runs", f"{lost} left by a killed process, now Crashed; Retry in the UI continues them")
        before = provision.schedules(self.api)
        deploying = self._start("prefect deploy", "deploy", ["prefect", "--no-prompt", "deploy", "--all"])
        try:
            deploying.done(patience=PATIENCE)
        except EvergreenError:
            deployments.require_valid()  # says it in one sentence, where it is the file that is wrong
            raise
        self.children.remove(deploying)
        provision.restore_schedules(self.api, before)
        say("deployments", f"{len(deployments.names())} of {deployments.FILE}")

    def automate(self) -> None:
        names = automations.install(self.api)
        say("automations", ", ".join(name.removeprefix("evergreen: ") for name in names))
        if automations.RETRAIN not in deployments.names():
            say("", f"none on changed data: there is no {automations.RETRAIN}")

    def work(self, limit: int) -> None:
        """A worker for at most `limit` flow runs at once."""
        begun = datetime.now(UTC)
        self.started.callback(self._end_orphans)
        worker = self._start("worker", "worker", ["prefect", "worker", "start", "--pool", provision.POOL,
                             "--type", "process", "--name", WORKER, "--limit", str(limit)])  # fmt: skip
        worker.until(lambda: provision.worker_answers(self.api, WORKER, begun), patience=PATIENCE)
        say("worker", f"takes {limit} flow run{'s' if limit > 1 else ''} at once from pool {provision.POOL}")

    def require_all(self) -> None:
        """Raises EvergreenError when a part has ended by itself."""
        for each in self.children:
            if each.process.poll() is not None:
                raise EvergreenError(
                    f"the {each.name} ended by itself ({each.ending()}), so all was stopped; {each.log} may say why. "
                    "Start again with `evergreen up`: it takes over what was left"
                )

    def _start(self, name: str, log: str, arguments: list[str], **variables: str) -> Child:
        environment = {**environment_of(self.standing), **variables}
        made = Child(
            name, arguments, mark=self.standing.mark, environment=environment, log=home() / LOGS / f"{log}.log"
        )
        self.started.callback(made.stop)
        self.children.append(made)
        return made

    def _end_orphans(self) -> None:
        """After the worker has ended: no run of it may stay Running in the UI."""
        try:
            provision.end_orphans(self.api)
        except EvergreenError as error:
            logger.debug("%s", error)  # the server is gone as well; the next start does it


def environment_of(standing: Standing) -> dict[str, str]:
    """What servers, worker and runs need. The flows are those of this checkout, wherever a run has its folder."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ, **{name: os.environ.get(name, value) for name, value in {**PLAIN, **BESIDE}.items()},
        "EVERGREEN_HOME": str(home()), "EVERGREEN_PROJECT": str(project()), "PYTHONPATH": os.pathsep.join(path),
        "PREFECT_API_URL": standing.api, "PREFECT_UI_URL": standing.prefect, "MLFLOW_TRACKING_URI": standing.mlflow,
        "PREFECT_SERVER_UI_API_URL": "/api",  # relative: right for every address by which a browser comes
    }  # fmt: skip


def responds(url: str) -> bool:
    """Whether a web server answers at all, be it that it asks for a password."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def say(part: str, text: str) -> None:
    logger.info("%-16s%s", part, text)
