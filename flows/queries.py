"""`evergreen lineage`, and the queries of `evergreen models`: their options, and how what they find reads.

The options of `evergreen reproduce` are here as well: its own module imports what the parser can do without.
"""

import argparse
import re
from collections.abc import Mapping
from math import inf
from typing import Any

from tasks.errors import UsageError

Rows = list[tuple[str, str]]
UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", nargs="?", help="only the versions of this model")
    parser.add_argument("--data", metavar="X", default="", help="trained on the data with this key, digest or DVC MD5")
    parser.add_argument("--best", metavar="METRIC", default="", help="the best by this metric first")
    parser.add_argument("--under", metavar="N", default="", help="with fewer parameters, as in 2M or 1.5e6")


def add_reproduce_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="NAME, NAME@alias or NAME/version")
    for option, text in (
        ("--with-present-code", "run the checkout as it is, not the recorded commit"),
        ("--rebuild-data", "build the data from their sources, though their version is at hand"),
        ("--whole-chain", "first reproduce the registered models that this one continues"),
        ("--keep", "keep the folder of the run, and print it"),
    ):
        parser.add_argument(option, action="store_true", help=text)


def models(options: argparse.Namespace) -> list[Mapping[str, Any]]:
    """The versions that the options ask for. Raises UsageError for a limit that is no number or limits nothing."""
    from tasks.catalogue import listing, ranked, trained_on

    under = amount(options.under) if options.under else inf
    if options.under and not options.best:
        raise UsageError(f"--under {options.under} limits what --best ranks; name a metric: --best score")
    found: list[Mapping[str, Any]] = list(listing(options.name))
    if options.data:
        found = trained_on(options.data, found)
    return ranked(found, options.best, under) if options.best else found


def nothing(options: argparse.Namespace) -> str:
    """What to say where no version was found."""
    asked = [f"--{name} {value}" for name, value in vars(options).items() if name in ("data", "under") and value]
    return (
        f"no version answers to {' '.join(asked)}" if asked else "no model is registered yet; `evergreen run` makes one"
    )


def amount(text: str) -> float:
    """A count as people write it: 2M, 300k, 1.5e6. Raises UsageError."""
    found = re.fullmatch(r"([\d_,]*\.?\d+(?:e\+?\d+)?)([kmb]?)", text.strip().lower())
    if not found:
        raise UsageError(f"--under {text!r} is no number of parameters; give one as in 2M, 300k or 1.5e6")
    return float(re.sub("[_,]", "", found[1])) * UNITS[found[2]]


def lineage(reference: str) -> dict[str, Any]:
    """A version with its document, and as `parent` the same of the registered model that it continues, or null."""
    from tasks import catalogue
    from tasks import lineage as records

    version = catalogue.find(reference)
    told = records.read(version)
    data = {**told["data"], "commit": told["data"]["commit"] or records.data_commit(told["data"]["md5"])}
    described = catalogue.described(version, catalogue.models()[version.name])
    parent = version.tags.get(records.PARENT)
    return {**described, **told, "data": data, "parent": lineage(parent) if parent else None}


def tree(found: Mapping[str, Any], depth: int = 0) -> Rows:
    """The lines of a lineage as pairs, head and text; a parent below its child, indented."""
    margin = "  " * depth
    aliases = "".join(f" @{alias}" for alias in found["aliases"])
    rows = [(f"{margin}{found['name']}/{found['version']}{aliases}  ", str(found["verdict"]))]
    for head, text in _facts(found):
        rows.append((f"{margin}  {head:<11} ", text))
    rows += [(f"{margin}  {head} ", text) for head, text in _steps(found)]
    if found["parent"]:
        rows.append((f"{margin}  continues", ""))
        rows += tree(found["parent"], depth + 2)
    return rows


def _facts(found: Mapping[str, Any]) -> Rows:
    model, evaluation = found["model"], found["evaluation"]
    rows = [
        (
            "model",
            f"{model['step']} {model['key']}, {model['parameters']:,} parameters, content {model['digest'][:16]}",
        ),
        ("data", _data(found["data"])),
        ("code", _code(found["code"])),
        ("made by", _made_by(found)),
        *(("made from", f"{role}: {_parent(each)}") for role, each in found["parents"].items()),
        ("platform", _platform(found["platform"])),
    ]
    if losses := found["losses"]:
        rows.append(("forecast", ", ".join(f"{name.replace('_', ' ')} {loss:.4g}" for name, loss in losses.items())))
    figures = "  ".join(f"{name} {value:.4g}" for name, value in found["metrics"].items())
    items = f"{evaluation['items']:,} items" if "items" in evaluation else "no items"
    return [*rows, ("evaluation", f"{evaluation['key']}, {items}; MLflow run {evaluation['run_id'] or 'unknown'}"),
            ("", figures or "no metrics")]  # fmt: skip


def _data(data: Mapping[str, Any]) -> str:
    commit = f"in git since {data['commit'][:12]}" if data["commit"] else "in no commit"
    size = f"{data['files']} files, {data['bytes'] / 1e6:,.1f} MB"
    return f"{data['key']}, content {data['digest'][:16]}, DVC {data['md5']}; {size}, {commit}"


def _code(code: Mapping[str, Any]) -> str:
    if not code["commit"]:
        return "outside of git"
    changed = f", with {len(code['changed'])} files changed: {', '.join(code['changed'][:3])}" if code["dirty"] else ""
    return code["commit"][:12] + changed


def _made_by(found: Mapping[str, Any]) -> str:
    flow = found["made_by"]["flow"] or "an unnamed flow"
    return f"{flow}; again: evergreen reproduce {found['name']}/{found['version']}"


def _parent(parent: Mapping[str, str]) -> str:
    return f"{parent['step']} {parent['key']}".strip() + f" content {parent['digest'][:16]}"


def _platform(platform: Mapping[str, Any]) -> str:
    from tasks.machine import sentence

    return sentence(platform)


def _steps(found: Mapping[str, Any]) -> Rows:
    """Every step with its key, its recipe's digest, and what it was made from."""
    titles = {each["key"]: each["step"] for each in found["steps"]}
    parent = found["parent"] and f"{found['parent']['name']}/{found['parent']['version']}"
    return [
        (
            f"{each['step']:<23} {each['key'][:8]}",
            f"recipe {each['recipe_digest'][:8]}"
            + _from([titles.get(key, parent or key) for key in each["identity"]["inputs"].values()]),
        )
        for each in found["steps"]
    ]


def _from(titles: list[str]) -> str:
    shown = titles if len(titles) < 3 else [titles[0], f"{len(titles) - 1} more"]
    return f" <- {', '.join(shown)}" if shown else ""
