"""The deployments of prefect.yaml: the one place that holds recipes, for the command line as for the Prefect server."""

import difflib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from tasks.errors import UsageError
from tasks.settings import ROOT

if TYPE_CHECKING:
    from prefect import Flow
    from pydantic import BaseModel, ValidationError

DEFAULT = "lifecycle/nano"
FILE = "prefect.yaml"


@dataclass(frozen=True)
class Deployment:
    """One entry of prefect.yaml, by its full name `flow/name`."""

    name: str
    entrypoint: str
    description: str
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def flow_name(self) -> str:
        """The flow's name in Prefect, known without importing it."""
        return self.name.split("/")[0]


def names() -> list[str]:
    """The full names of all deployments, in the order of the file."""
    return list(_read())


def load(name: str) -> Deployment:
    """Raises UsageError with the nearest names when there is no such deployment."""
    deployments = _read()
    if name not in deployments:
        raise UsageError(f"no deployment is called {name!r}; {_nearest(name, list(deployments), 'deployments')}")
    return deployments[name]


def override(parameters: Mapping[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Parameters with each `a.b=value` set, the value read as YAML; what lies between is made where it is missing.

    Raises UsageError for an assignment that cannot be read or that reaches into a plain value. Whether a field
    exists is for `validated` to say, which knows the flow.
    """
    import yaml

    changed = _copy(parameters)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise UsageError(f"--set {assignment!r} is not of the form field.field=value, as in sft.epochs=2")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            first = str(error).splitlines()[0]
            raise UsageError(f"--set {assignment!r}: {text!r} is no YAML value ({first}); quote it") from error
        _assign(changed, keys, value, assignment)
    return changed


def configured(deployment: Deployment, assignments: Sequence[str]) -> tuple["Flow[..., Any]", dict[str, Any]]:
    """The flow and its validated parameters, the assignments made on top of the recipes with their defaults filled in.

    One entry of a default mapping can so be set without losing the others. Raises UsageError.
    """
    target = flow(deployment.entrypoint)
    checked = validated(target, deployment.parameters)
    if not assignments:
        return target, checked
    full = _signature(target).model_validate(checked).model_dump()
    return target, validated(target, override(full, assignments))


def require_valid() -> None:
    """Raises UsageError with the first deployment whose flow or parameters are wrong. Imports every flow."""
    for deployment in _read().values():
        try:
            configured(deployment, [])
        except UsageError as error:
            raise UsageError(f"{FILE}, {deployment.name}: {error}") from error


def flow(entrypoint: str) -> "Flow[..., Any]":
    """Imports the flow behind a dotted entrypoint. Raises UsageError when there is none."""
    from prefect import Flow

    module, _, name = entrypoint.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ModuleNotFoundError, AttributeError, ValueError) as error:
        raise UsageError(f"{FILE} names the entrypoint {entrypoint!r}, which cannot be imported: {error}") from error
    if not isinstance(found, Flow):
        raise UsageError(f"{FILE} names the entrypoint {entrypoint!r}, which is {type(found).__name__}, not a flow")
    return found


def validated(target: "Flow[..., Any]", parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Every parameter of the flow, as its own type and with defaults filled in.

    Raises UsageError that names each wrong field, its value and what is allowed there.
    """
    from pydantic import ValidationError

    model = _signature(target)
    try:
        checked = model.model_validate(dict(parameters))
    except ValidationError as error:
        raise UsageError(_complaint(error, model, target.name)) from error
    return {name: getattr(checked, name) for name in model.model_fields}


def chosen(name: str, file: str | None) -> Deployment:
    """The deployment; with the parameters of a file where one is named, and then a flow's entrypoint is one as well.

    Raises UsageError.
    """
    if not file:
        return load(name)
    known = "/" in name or "." not in name
    return with_parameters(load(name) if known else _deployment({"name": file, "entrypoint": name}), Path(file))


def with_parameters(deployment: Deployment, file: Path) -> Deployment:
    """The deployment with the whole of its parameters from a JSON or YAML file. Raises UsageError."""
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"--parameters {file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"--parameters {file} is neither JSON nor YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UsageError(f"--parameters {file} holds {type(content).__name__}; it must map each parameter to its value")
    return replace(deployment, parameters=content)


def _read() -> dict[str, Deployment]:
    import yaml

    try:
        content = yaml.safe_load((ROOT / FILE).read_text(encoding="utf-8"))
        entries = [_deployment(entry) for entry in content["deployments"]]
    except FileNotFoundError as error:
        raise UsageError(f"{ROOT / FILE} is missing; restore it with `git checkout {FILE}`") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{ROOT / FILE} is no YAML: {error}") from error
    except (KeyError, TypeError) as error:
        raise UsageError(f"{ROOT / FILE} needs `deployments`, each with `name` and `entrypoint`: {error!r}") from error
    return {entry.name: entry for entry in entries}


def _deployment(entry: Mapping[str, Any]) -> Deployment:
    flow_name = entry["entrypoint"].rpartition(".")[2].replace("_", "-")
    return Deployment(
        name=f"{flow_name}/{entry['name']}",
        entrypoint=entry["entrypoint"],
        description=entry.get("description", ""),
        parameters=entry.get("parameters") or {},
    )


def _copy(value: Any) -> Any:
    """A copy in which YAML anchors no longer share one object: setting one stage must not set another."""
    return {key: _copy(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _assign(target: dict[str, Any], keys: Sequence[str], value: Any, assignment: str) -> None:
    for depth, key in enumerate(keys[:-1], start=1):
        inner = target.setdefault(key, {})
        if not isinstance(inner, dict):
            reached = ".".join(keys[:depth])
            raise UsageError(f"--set {assignment!r}: {reached} is the value {inner!r} and has no field {keys[depth]!r}")
        target = inner
    target[keys[-1]] = value


def _signature(target: "Flow[..., Any]") -> "type[BaseModel]":
    from pydantic import ConfigDict, create_model

    hints = get_type_hints(target.fn, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints.get(name, Any), ... if parameter.default is inspect.Parameter.empty else parameter.default)
        for name, parameter in inspect.signature(target.fn).parameters.items()
    }
    return create_model(target.fn.__name__, __config__=ConfigDict(extra="forbid"), **fields)


def _complaint(error: "ValidationError", model: "type[BaseModel]", flow_name: str) -> str:
    return "; ".join(_sentence(each, model, flow_name) for each in error.errors()[:5])


def _sentence(error: Any, model: "type[BaseModel]", flow_name: str) -> str:
    path = [str(part) for part in error["loc"]]
    where = ".".join(path)
    if error["type"] == "extra_forbidden":
        owner, fields = _fields(model, path[:-1])
        known = [".".join([*path[:-1], name]) for name in fields]
        return f"{owner or flow_name} has no field {path[-1]!r}; {_nearest(where, known, 'fields')}"
    if error["type"] == "missing":
        return f"{flow_name} needs {where}: give it with --set {where}=..."
    said = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], Mapping):  # a rule over several fields: what it says names them
        return f"{where}: {said[0].lower()}{said[1:]}"
    text = f"{where} cannot be {error['input']!r}: {said[0].lower()}{said[1:]}"
    if error["type"] == "string_type":
        text += f" (to give it as text: --set '{where}=\"{error['input']}\"')"
    return text


def _fields(model: "type[BaseModel]", path: Sequence[str]) -> tuple[str, list[str]]:
    """The dotted name of a nested recipe and the names of its fields."""
    from pydantic import BaseModel

    current: Any = model
    for part in path:
        found = current.model_fields.get(part)
        candidates = [found.annotation, *get_args(found.annotation)] if found else []
        models = [each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel)]
        if not models:
            return ".".join(path), []
        current = models[0]
    return ".".join(path), list(current.model_fields)


def _nearest(word: str, known: Sequence[str], what: str) -> str:
    """A hint at the names closest to `word`, judged by the last part of dotted names; all of them where none is."""
    lasts = {name.rsplit(".", 1)[-1] if what == "fields" else name: name for name in known}
    last = word.rsplit(".", 1)[-1] if what == "fields" else word
    close = difflib.get_close_matches(last, list(lasts), n=3, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(lasts[each] for each in close) + "?"
    return f"the {what} are {', '.join(known)}" if known else f"it has no {what}"
