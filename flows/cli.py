"""The command line. Every heavy import waits for the command that needs it, so that `--help` answers at once."""

import argparse
import errno
import json
import os
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from flows import attention as attending
from flows import fit as fitting
from flows import memory as planning
from flows import queries, tables, versions
from flows.tables import WIDTH
from tasks.errors import EvergreenError, GateError, UsageError

FAILED, MISUSED, REFUSED, STOPPED = 1, 2, 3, 130
SCRIPTS = ("Latin", "Cyrillic", "Greek", "Arabic", "Hebrew", "Devanagari", "Thai", "Han", "Japanese", "Korean")

# The terminal is for what Evergreen says; what the user has set stays.
QUIET = {
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}

UNWRITABLE = {
    errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission to write there", errno.ENOTDIR: "a part of the path is a file",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 0 done, 1 failed, 2 wrong use, 3 a gate said no."""
    options = _parser().parse_args(arguments)
    try:
        command: Callable[[argparse.Namespace], int] = options.command
        return command(options)
    except KeyboardInterrupt:
        return _say("stopped; run again to continue", STOPPED)
    except UsageError as error:
        return _say(str(error), MISUSED)
    except GateError as error:
        return _say(str(error), REFUSED)
    except EvergreenError as error:
        return _say(str(error), FAILED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains while it exits
        return FAILED
    except OSError as error:
        if error.errno not in UNWRITABLE or error.filename is None:
            return _unexpected()
        where = f"{UNWRITABLE[error.errno]}: {error.filename}"
        return _say(f"{where}. Free it, or set EVERGREEN_HOME to a folder that can be written; then run again.", FAILED)
    except Exception:
        return _unexpected()


def run(options: argparse.Namespace) -> int:
    from flows import deployments, doctor

    _prepare()
    started = deployments.chosen(options.deployment, options.parameters)
    doctor.require_home()
    server = _server()
    flow, parameters = deployments.configured(started, options.set)
    if server is not None:
        server.wait()
    from tasks import workers

    with workers.ended_by_interrupt():
        flow(**parameters)
    return 0


def plan(options: argparse.Namespace) -> int:
    from flows import deployments

    _prepare()
    chosen = deployments.chosen(options.deployment, options.parameters)
    _, parameters = deployments.configured(chosen, options.set)
    from flows.plan import plan as steps_of

    planned = {"deployment": chosen.name, **steps_of(chosen.flow_name, parameters)}
    return _print(planned, options.json, tables.plan)


def models(options: argparse.Namespace) -> int:
    _prepare()
    return _print(queries.models(options), options.json, lambda found: tables.models(found) or queries.nothing(options))


def forecasts(options: argparse.Namespace) -> int:
    _prepare()
    from tasks.forecasts import history

    return _print(history(), options.json, tables.forecasts)


def lineage(options: argparse.Namespace) -> int:
    _prepare()
    return _print(queries.lineage(options.model), options.json, lambda found: tables.rows(queries.tree(found)))


def reproduce(options: argparse.Namespace) -> int:
    _prepare()
    from flows import reproduce as reproducing

    found = reproducing.reproduce(options.model, reproducing.way_of(options))
    _print(found, options.json, lambda _: tables.rows(reproducing.table(found)))
    return FAILED if reproducing.failed(found) else 0


def promote(options: argparse.Namespace) -> int:
    _prepare()
    from tasks import promotion

    forced, model = options.force, options.model
    found = promotion.force(model, why=options.why) if forced else promotion.challenge(model)
    return _print(found, options.json, tables.champion)


def rollback(options: argparse.Namespace) -> int:
    _prepare()
    from tasks import promotion

    return _print(promotion.rollback(options.name, why=options.why), options.json, tables.champion)


def chat(options: argparse.Namespace) -> int:
    _prepare()
    from tasks.catalogue import resolve

    folder = resolve(options.model)
    from tasks.generation import Chat

    partner = Chat(folder)
    if options.once is not None:
        print(partner.reply([{"role": "user", "content": options.once}]))
        return 0
    return _converse(partner.reply)


def attention(options: argparse.Namespace) -> int:
    _prepare()
    found, rows = attending.attention(options)
    return _print(found, options.json, lambda _: tables.rows(rows))


def validate(options: argparse.Namespace) -> int:
    _prepare()
    from tasks.errors import SourceError
    from tasks.readers import located
    from tasks.suites import Bounds
    from tasks.validate import examine

    try:
        target = located(options.quarantine) if options.quarantine else None
        found = examine(located(options.path), options.kind, Bounds(script=options.script), target)
    except SourceError as error:
        raise UsageError(str(error)) from None
    _print(found, options.json, tables.findings)
    return 0 if found["success"] else REFUSED


def fit(options: argparse.Namespace) -> int:
    _prepare()
    found, rows = fitting.fit(options)
    return _print(found, options.json, lambda _: tables.rows(rows))


def memory(options: argparse.Namespace) -> int:
    _prepare()
    found, rows = planning.memory(options)
    return _print(found, options.json, lambda _: tables.rows(rows))


def data(options: argparse.Namespace) -> int:
    _prepare()
    found, rows = options.action(options)
    return _print(found, options.json, lambda _: tables.rows(rows))


def up(options: argparse.Namespace) -> int:
    _prepare({})
    from flows.up import up as start

    return start(host=options.host, port=options.port, mlflow_port=options.mlflow_port, limit=options.limit)


def doctor(options: argparse.Namespace) -> int:
    _prepare()
    from flows.doctor import examine

    if options.json:
        checks = list(examine())
        print(json.dumps([vars(check) for check in checks], indent=1, ensure_ascii=False))
        return FAILED if any(check.essential and not check.ok for check in checks) else 0
    failed = False
    for check in examine():
        mark = "ok" if check.ok else "missing" if check.essential else "note"
        remedy = "" if check.ok or not check.remedy else f" -> {check.remedy}"
        print(tables.row(f"{mark:<8} {check.name:<10} ", check.found + remedy), flush=True)
        failed |= check.essential and not check.ok
    return FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="evergreen",
        description="From raw text to a gated, registered language model, and kept fresh.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 3 a gate said no.",
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _deployment_command(commands, run, "run a deployment here and now; no server needed")
    planned = _deployment_command(commands, plan, "print its steps, which are reused and why, and the forecast")
    listed = _command(commands, models, "list registered models, versions, aliases, verdicts and metrics")
    queries.add_model_options(listed)
    foreseen = _command(commands, forecasts, "list the forecasts of pre-training runs and how they came true")
    traced = _command(commands, lineage, "lead from a model back to its data, code, recipes, parents and reports")
    traced.add_argument("model", metavar="MODEL", help="NAME, NAME@alias or NAME/version")
    repeated = _command(commands, reproduce, "make a registered model again from its lineage, and compare every step")
    queries.add_reproduce_options(repeated)
    promoted = _command(commands, promote, "make a version the champion, if the gate says yes")
    promoted.add_argument("model", metavar="MODEL", help="NAME, NAME@alias or NAME/version")
    promoted.add_argument("--force", action="store_true", help="against the gate; needs --why, which is stored")
    promoted.add_argument("--why", metavar="TEXT", default="", help="the reason of a forced promotion")
    back = _command(commands, rollback, "put the previous champion back")
    back.add_argument("name", metavar="NAME", help="of the registered model")
    back.add_argument("--why", metavar="TEXT", default="", help="stored with the version that is put aside")
    talk = _command(commands, chat, "talk to a registered model")
    talk.add_argument("model", metavar="MODEL", help="NAME, NAME@alias or NAME/version")
    talk.add_argument("--once", metavar="TEXT", help="print the answer to TEXT and end")
    attending.add_options(_command(commands, attention, "show what a model's heads look at, in pictures"))
    judged = _command(commands, validate, "hold a data file or folder against the suite of its kind")
    judged.add_argument("path", metavar="PATH", help="a file, or a folder of files")
    judged.add_argument("--kind", required=True, choices=("text", "instructions", "preferences"), help="what it holds")
    judged.add_argument("--script", default="Latin", choices=SCRIPTS, help="of most letters (default: %(default)s)")
    judged.add_argument("--quarantine", metavar="FILE", default="", help="write the broken rows there, with the reason")
    fitting.add_options(_command(commands, fit, "fit a scaling law to a table of runs, and plan with it"))
    planning.add_options(_command(commands, memory, "forecast memory, FLOPs, time and disk of any config"))
    versions.add_actions(
        _command(commands, data, "the versions of data and models: status, push, pull, history, remote")
    )
    _up_options(_command(commands, up, "Prefect server and UI, MLflow, deployments and a worker, until Ctrl-C"))
    checked = _command(commands, doctor, "say what is installed and reachable, and what to do about what is not")
    for each in (planned, listed, foreseen, traced, repeated, promoted, back, judged, checked):
        each.add_argument("--json", action="store_true", help="one JSON document on stdout, nothing else there")
    return parser


def _up_options(parser: argparse.ArgumentParser) -> None:
    shown = "(default: %(default)s)"
    parser.add_argument("--host", default="127.0.0.1", help=f"the address that the servers listen on {shown}")
    parser.add_argument("--port", type=_port, default=4200, metavar="PORT", help=f"of the Prefect server {shown}")
    parser.add_argument("--mlflow-port", type=_port, default=5000, metavar="PORT", help=f"of the MLflow server {shown}")
    parser.add_argument("--limit", type=_count, default=2, metavar="N", help=f"flow runs at once, at most {shown}")


def _port(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no port: give a number from 1 to 65535")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs: give one from 1 to 1000")
    return int(text)


def _command(commands: Any, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    made: argparse.ArgumentParser = commands.add_parser(function.__name__, help=text, description=text)
    made.set_defaults(command=function)
    return made


def _deployment_command(
    commands: Any, function: Callable[[argparse.Namespace], int], text: str
) -> argparse.ArgumentParser:
    made = _command(commands, function, text)
    made.add_argument(
        "deployment", metavar="DEPLOYMENT", nargs="?", default="lifecycle/nano",
        help="a name of prefect.yaml, flow/name (default: %(default)s)",
    )  # fmt: skip
    made.add_argument("--parameters", metavar="FILE", help="JSON or YAML with all parameters, not the deployment's")
    made.add_argument(
        "--set",
        metavar="FIELD=VALUE",
        action="append",
        default=[],
        help="change a value, as in sft.epochs=2; repeatable",
    )
    return made


def _prepare(quiet: Mapping[str, str] = QUIET) -> None:
    """Before anything heavy is imported: the environment of a run, and a console for Evergreen's own lines."""
    import warnings

    from flows import console
    from tasks.settings import apply_environment, home

    apply_environment()
    for name, value in {**quiet, "PREFECT_HOME": str(home() / "prefect")}.items():
        os.environ.setdefault(name, value)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    console.attach()


def _server() -> Any:
    """A server of our own, unless PREFECT_API_URL names one, which must then answer, or `evergreen up` has one."""

    from flows import running
    from flows.server import Server, answers

    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return None if running.attach() else Server(Path(os.environ["PREFECT_HOME"]))
    if not answers(url):
        raise EvergreenError(
            f"no Prefect server answers at {url}: start it (`prefect server start`), correct PREFECT_API_URL, "
            "or unset it to run without one"
        )
    return None


def _converse(reply: Callable[[list[dict[str, str]]], str]) -> int:
    """A conversation on standard input; with a terminal it shows a prompt, piped it prints the answers alone."""
    prompt = "> " if sys.stdin.isatty() else ""
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = input(prompt).strip()
        except EOFError:
            return 0
        if text:
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": reply(messages)})
            print(messages[-1]["content"], flush=True)


def _print(value: Any, as_json: bool, table: Callable[[Any], str]) -> int:
    print(_escaped(json.dumps(value, indent=1, ensure_ascii=False, default=str)) if as_json else table(value))
    return 0


def _escaped(document: str) -> str:
    """JSON without the controls and turns of direction that json.dumps lets through: it may be read on a terminal."""
    return re.sub(r"[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]", lambda found: ascii(found[0])[1:-1]
                  .replace("\\x", "\\u00"), document)  # fmt: skip


def _say(message: str, code: int) -> int:
    print(
        textwrap.fill(f"evergreen: {message}", WIDTH, break_on_hyphens=False, break_long_words=False), file=sys.stderr
    )
    return code


def _unexpected() -> int:
    import traceback

    traceback.print_exc()
    return _say("this is a fault of the program, not of yours. `evergreen doctor` may know the cause; "
                "finished steps are kept, so run again to continue.", FAILED)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
