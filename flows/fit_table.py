"""How a fitted law reads in a terminal: heads, and the texts that wrap beside them."""

from collections.abc import Mapping, Sequence
from typing import Any

Rows = list[tuple[str, str]]
Figure = Mapping[str, Any]
TITLES = {
    "N": "parameters", "D": "training tokens", "C": "FLOPs", "tokens_per_parameter": "tokens per parameter",
    "loss": "loss", "one_run": "loss of one run", "epochs": "epochs", "saving": "saving",
    "training_C": "FLOPs to train", "inference_C": "FLOPs to serve", "effective_D": "worth, in fresh tokens",
    "loss_one_epoch": "loss, one epoch", "loss_unlimited": "loss, fresh data",
    "a": "N grows as C^", "b": "D grows as C^",
}  # fmt: skip
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
HEAD = 11
NAME, VALUE, RANGE = 25, 11, 23  # columns of a plan
MOST_POINTS = 12  # of those that a frontier passes through


def rows(found: Mapping[str, Any]) -> Rows:
    lines = [
        (_head("law"), f"{found['law']}: {found['formula']}"),
        (_head(""), found["source"]),
        (_head("runs"), f"{found['n']:,}; {found['convention']}"),
    ]
    lines += _frontier(found) if "points" in found else _law(found)
    lines += [(_head("warning"), text) for text in found["warnings"]]
    lines += _comparison(found.get("comparison", ()))
    lines += _plans(found)
    lines += [(_head("left out"), text) for text in found["dropped"][:5]]
    if len(found["dropped"]) > 5:
        lines.append((_head(""), f"and {len(found['dropped']) - 5} more"))
    lines += [(_head("note"), text) for text in found["notes"]]
    return lines + [(_head("picture"), path) for path in found["plots"]]


def _law(found: Mapping[str, Any]) -> Rows:
    lines = [
        (_head("minimised"), f"{found['estimator']}, which is {found['objective']:.6g}"),
        ("", ""),
        (_head(""), f"{'fitted':<14}{'95% by resampling':<26}95% by profile"),
    ]
    for name, value in found["coefficients"].items():
        ranges = f"{_range(*found['intervals'][name]):<26}{_range(*found['profile_intervals'][name])}"
        lines.append((f"  {name:<9}", f"{_plain(value):<14}{ranges}".rstrip()))
    return [*lines, ("", ""), *_health(found)]


def _frontier(found: Mapping[str, Any]) -> Rows:
    """The power laws of the best N and D, and the points that they pass through."""
    way, points = found["bootstrap"], found["points"]
    how = "runs drawn again" if way["kind"] == "runs" else "noise drawn again"
    lines = [(_head("minimised"), found["estimator"]), ("", ""), (_head(""), f"{'fitted':<14}95% by resampling")]
    for name, value in found["coefficients"].items():
        lines.append((f"  {name:<9}", f"{_plain(value):<14}{_interval(*found['intervals'][name])}"))
    lines += [("", ""), (_head("points"), f"{'FLOPs':<14}{'parameters':<14}{'tokens':<14}{'loss':<10}runs")]
    shown = points if len(points) <= MOST_POINTS else [points[at * (len(points) - 1) // (MOST_POINTS - 1)]
                                                       for at in range(MOST_POINTS)]  # fmt: skip
    for point in shown:
        n, d = (_amount(point[symbol]) for symbol in "ND")
        lines.append((_head(""), f"{_flops(point['C']):<14}{n:<14}{d:<14}{point['loss']:<10.4g}{point['sizes']}"))
    if len(shown) < len(points):
        lines.append((_head(""), f"{len(shown)} of {len(points)} are shown; --json has all"))
    said = f"intervals from {way['draws']:,} resamples ({how}, seed {way['seed']})"
    return [*lines, ("", ""), (_head("fit"), said), (_head(""), f"{found['seconds']:.2g} s in all")]


def laws(found: Sequence[Mapping[str, Any]]) -> Rows:
    width = max(len(law["law"]) for law in found) + 2
    lines = []
    for law in found:
        lines.append((f"{law['law']:<{width}}", law["formula"]))
        lines.append((" " * width, f"{law['source']}; needs {', '.join(law['inputs'])}"))
    return lines


def _health(found: Mapping[str, Any]) -> Rows:
    share, way = found["starts_at_optimum"], found["bootstrap"]
    how = "runs drawn again" if way["kind"] == "pairs" else "noise drawn again"
    return [
        (_head("fit"), f"a run lies {found['noise']:.2%} from the law (one standard deviation of ln L)"),
        (_head(""), f"{share:.0%} of {found['starts']} starts found this optimum, the best; "
                    f"{found['fit_seconds']:.2g} s"),
        (_head(""), f"intervals from {way['draws']:,} resamples ({how}, seed {way['seed']})"),
        (_head(""), f"{found['seconds']:.2g} s in all"),
    ]  # fmt: skip


def _comparison(compared: Sequence[Mapping[str, Any]]) -> Rows:
    if not compared:
        return []
    cut = f"fitted to the runs up to {compared[0]['cut']:.3g} FLOPs, held against those above"
    lines = [("", ""), ("laws compared: ", cut)]
    for each in compared:
        text = each.get("reason") or (
            f"{each['error']:.2%} off above (below {each['error_within']:.2%}, bias {each['bias']:+.2%})"
        )
        lines.append((f"  {each['law']:<18}", text))
    return lines


def _plans(found: Mapping[str, Any]) -> Rows:
    lines: Rows = []
    for name, title in _titles(found).items():
        if name in found:
            heads = f"{'by resampling':<{RANGE}}by profile" if _by_profile(found[name]) else ""
            lines += [("", ""), (f"{title:<{NAME + VALUE}}" if heads else title, heads)]
            lines += [_line(each, value) for each, value in found[name].items() if _shown(each, value)]
            lines += _beyond(found[name])
    for point in found.get("predictions", ()):
        asked = ", ".join(
            f"{name} = {_amount(value)}"
            for name, value in point.items()
            if not isinstance(value, Mapping) and not name.endswith("_the_runs")
        )
        lines += [("", ""), (f"a run with {asked}", "")]
        lines += [*(_line(name, point[name]) for name in ("loss", "one_run")), *_outside(point)]
    return [*lines, ("", "")]


def _titles(found: Mapping[str, Any]) -> dict[str, str]:
    optimum, cheapest = found.get("optimum", {}), found.get("cheapest", {})
    served, unique = found.get("with_inference", {}), found.get("with_unique_data", {})
    return {
        "exponents": "the best N and D of a budget",
        "optimum": f"for {_flops(optimum.get('C'))} FLOPs",
        "cheapest": f"the cheapest with a loss of {cheapest.get('loss', 0):.6g}",
        "with_inference": f"with {_amount(served.get('inference_tokens'))} tokens to serve",
        "with_unique_data": f"with {_amount(unique.get('unique_tokens'))} unique tokens",
    }


def _shown(name: str, value: Any) -> bool:
    return isinstance(value, Mapping) and name in TITLES


def _line(name: str, figure: Figure) -> tuple[str, str]:
    write = {"N": _amount, "D": _amount, "effective_D": _amount, "saving": _share}.get(name, _plain)
    value, low, high = (write(figure[key]) for key in ("value", "low", "high"))
    head = f"{'  ' + TITLES[name]:<{NAME}}"
    if figure["low"] is None and figure["high"] is None:
        return head, f"{value:<{VALUE}}no interval"
    if low == high:
        return head, value
    profiled = " to ".join(map(write, figure["profile"])) if "profile" in figure else ""
    ranges = f"{low + ' to ' + high:<{RANGE}}{profiled}".rstrip()
    return head, ranges if name == "one_run" else f"{value:<{VALUE}}{ranges}"


def _by_profile(plan: Mapping[str, Any]) -> bool:
    return any(isinstance(figure, Mapping) and "profile" in figure for figure in plan.values())


def _beyond(plan: Mapping[str, Any]) -> Rows:
    lines = []
    if "gpu_hours" in plan:
        money = f", {_plain(plan['money'])} in money" if "money" in plan else ""
        lines.append((f"  {'takes':<23}", f"{_plain(plan['gpu_hours'])} accelerator hours{money}"))
    lines += _outside(plan)
    if "decay" in plan:
        lines.append((f"  {'worth of repetition':<23}", f"constants {plan['decay']}"))
    if "epochs_low" in plan:
        low, high = (_plain(plan[name]["value"]) for name in ("epochs_low", "epochs_high"))
        lines.append((f"  {'a flat valley':<23}", f"from {low} to {high} epochs the loss is within 0.1%"))
    return lines


def _outside(plan: Mapping[str, Any]) -> Rows:
    """How far a plan lies beyond the runs, or below them."""
    lines = []
    for name, side, end in (("beyond_the_runs", "beyond", "the largest run's"), ("below_the_runs", "below", "below the "
                                                                                 "smallest run's")):  # fmt: skip
        if (plan.get(name) or 0) > 1:
            lines.append((f"  {side + ' the runs':<23}", f"{plan[name]:,.3g} times {end} FLOPs"))
    return lines


def _head(word: str) -> str:
    return f"{word:<{HEAD}}"


def _interval(low: float | None, high: float | None) -> str:
    return "no interval" if low is None or high is None else _range(low, high)


def _range(low: float | None, high: float | None) -> str:
    return f"{_plain(low, none='0')} to {_plain(high)}"


def _plain(value: float | None, *, none: str = "no limit") -> str:
    if value is None:
        return none
    return f"{value:.3e}" if value >= 1e7 else f"{value:,.0f}" if value >= 1e4 else f"{value:,.4g}"


def _share(value: float | None) -> str:
    return "no limit" if value is None else f"{value:.1%}"


def _flops(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _amount(value: float | None) -> str:
    """A count for people: 1.4 B, 70 M."""
    if value is None:
        return "no limit"
    value = float(f"{value:.3g}")  # or 999.7 B becomes 1e+03 B
    for scale, name in UNITS:
        if scale <= value < 1e15:
            return f"{value / scale:.3g} {name}"
    return f"{value:.3g}"
