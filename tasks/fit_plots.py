"""The pictures of a fitted scaling law. They take columns by symbol and the law as a function, whatever its form."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.report_plots import BLUE, GREEN, GREY, INK, LINE, ORANGE, RAMP, SOFT, big, big_ticks, figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap

LABEL = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
Columns = Mapping[str, np.ndarray]
Predict = Callable[[Columns], np.ndarray]

BUDGET_SPREAD = 1.2  # runs whose FLOPs lie within this factor count as one budget
PLACES = 200  # sizes to search for the best of a budget, and again as many between its neighbours


@dataclass(frozen=True)
class Forecast:
    """What the law says along the compute-optimal line, with its interval; each of shape (places,)."""

    compute: np.ndarray
    loss: np.ndarray
    low: np.ndarray
    high: np.ndarray


def loss_by_compute(runs: Columns, predict: Predict, path: Path, *, sizes: np.ndarray | None = None) -> None:
    """Loss over training FLOPs with the law's frontier; where runs share budgets, loss over size for each as well.

    Here and below `sizes` are the N that there may be, where not every one may.
    """
    found = budgets(runs)

    def over_compute(axes: "Axes") -> None:
        dots = axes.scatter(runs["C"], runs["L"], c=np.log10(runs["N"]), cmap=_ramp(), s=20, lw=0, zorder=2)
        _sizes(axes, dots, runs["N"])
        reach = _spaced(runs["C"], 1.3)
        best = frontier(predict, reach, runs, sizes)
        axes.plot(reach, best["L"], color=GREEN, lw=1.8, label=_promised(sizes), zorder=3)
        _flops_axis(axes, reach, most=6)
        _loss_axis(axes, np.concatenate([runs["L"], best["L"]]))
        axes.set_title("Loss and compute")
        axes.legend(loc="upper right")

    def over_size(axes: "Axes") -> None:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import LogNorm

        centres = [float(np.median(runs["C"][each])) for each in found]
        scale = ScalarMappable(LogNorm(min(centres) * 0.999, max(centres) * 1.001), _ramp())
        for each, centre in zip(found, centres, strict=True):
            _slice(axes, runs, each, predict, centre, scale.to_rgba(np.array([centre]))[0])
        axes.set_xscale("log")
        _loss_axis(axes, runs["L"][np.concatenate(found)], room=0.32)
        big_ticks(axes.xaxis, runs["N"][np.concatenate(found)], most=5)
        axes.set(title="Budgets and sizes", xlabel="parameters", ylabel="")
        axes.figure.colorbar(scale, ax=axes, label="training FLOPs", pad=0.02, aspect=32).outline.set_visible(False)
        axes.plot([], [], color=SOFT, lw=1.3, label="parabola through a budget's runs")
        axes.plot([], [], color=SOFT, lw=1.1, ls=":", label="the law")
        axes.plot([], [], "D", color=ORANGE, ms=4, label="best size of a budget")
        axes.legend(loc="upper right")

    _drawn(path, [over_compute, *([over_size] if len(found) > 1 else [])], height=3.9)


def contours(
    runs: Columns, predict: Predict, path: Path, *, compute: float | None = None, sizes: np.ndarray | None = None
) -> None:
    """L(N, D) as lines of equal loss with the runs, the line of the best N and D, and lines of equal FLOPs."""

    def draw(axes: "Axes") -> None:
        budget = [compute] if compute else []
        best = frontier(predict, _spaced(np.append(runs["C"], budget), 1.5), runs, sizes)
        n, d = (_spaced(np.append(runs[symbol], best[symbol] if compute else []), 1.6, 120) for symbol in "ND")
        grid_n, grid_d = np.meshgrid(n, d)
        plane = predict(filled(runs, grid_n.ravel(), grid_d.ravel())).reshape(grid_n.shape)
        axes.pcolormesh(n, d, np.log(plane), cmap=_paper(), shading="gouraud", rasterized=True)
        levels = _round_levels(plane)
        lines = axes.contour(n, d, plane, levels=levels, colors=GREY, linewidths=0.8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.clabel(lines, fmt="%.4g", fontsize=8, colors=INK, manual=_label_places(n, d, plane, levels))
        _equal_flops(axes, n, d)
        axes.plot(best["N"], best["D"], color=GREEN, lw=2, label=_promised(sizes))
        axes.scatter(runs["N"], runs["D"], s=18, color=BLUE, edgecolors="white", linewidths=0.5, zorder=3, label="runs")
        if compute:
            place = frontier(predict, np.array([compute]), runs, sizes)
            label = f"for {_flops(compute)} FLOPs"
            axes.plot(place["N"], place["D"], "D", color=GREEN, ms=7, zorder=4, label=label)
        axes.set(xlim=(n[0], n[-1]), ylim=(d[0], d[-1]), xlabel="parameters", ylabel="training tokens")
        axes.set_title("Lines of equal loss, nats per token")
        axes.grid(False)
        big_ticks(axes.xaxis, n)
        big_ticks(axes.yaxis, d)
        axes.plot([], [], color=SOFT, lw=0.9, ls=(0, (1, 3)), label="equal training FLOPs")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.11), ncols=4)

    _drawn(path, [draw], height=5)


def forecast(
    runs: Columns, expected: Forecast, path: Path, *, at: float | None = None,
    actual: tuple[float, float] | None = None, sizes: np.ndarray | None = None,
) -> None:  # fmt: skip
    """The forecast with its interval beyond the runs. `at` is the planned budget, `actual` FLOPs and loss of the
    run that was then made.
    """

    def draw(axes: "Axes") -> None:
        axes.fill_between(
            expected.compute, expected.low, expected.high, color=GREEN, alpha=0.16, lw=0, label="95% interval"
        )
        axes.plot(expected.compute, expected.loss, color=GREEN, lw=1.8, label=_promised(sizes))
        axes.scatter(runs["C"], runs["L"], s=20, color=BLUE, lw=0, zorder=3, label="runs")
        shown = [runs["L"], expected.loss, expected.low, expected.high]
        if at:
            loss, low, high = (
                _between(at, expected.compute, each) for each in (expected.loss, expected.low, expected.high)
            )
            axes.errorbar([at], [loss], yerr=[[loss - low], [high - loss]], fmt="D", color=GREEN, ms=6, capsize=5,
                          elinewidth=1.6, zorder=4, label=f"forecast {loss:.3f} [{low:.3f}, {high:.3f}]")  # fmt: skip
        if actual:
            axes.plot(
                *[[value] for value in actual], "*", color=ORANGE, ms=14, zorder=5, label=f"actual {actual[1]:.3f}"
            )
            shown.append(np.array([actual[1]]))
        axes.axvline(float(runs["C"].max()), color=GREY, lw=1, ls="--")
        axes.annotate(
            "runs end here", (float(runs["C"].max()), 0.02), xycoords=("data", "axes fraction"), xytext=(5, 0),
            textcoords="offset points", color=SOFT, fontsize=8.5,
        )  # fmt: skip
        _flops_axis(axes, np.concatenate([runs["C"], expected.compute]))
        _loss_axis(axes, np.concatenate(shown))
        axes.set_title("Forecast")
        axes.legend(loc="upper right")

    _drawn(path, [draw], height=3.9)


def residuals(runs: Columns, misses: np.ndarray, names: Sequence[str], path: Path) -> None:
    """ln L_hat - ln L over compute, the farthest named, and against a normal distribution of the same spread."""
    percent = 100 * misses
    spread = float(1.4826 * np.median(np.abs(percent - np.median(percent)))) or float(percent.std()) or 1.0

    def over_compute(axes: "Axes") -> None:
        dots = axes.scatter(runs["C"], percent, c=np.log10(runs["N"]), cmap=_ramp(), s=20, lw=0, zorder=2)
        _sizes(axes, dots, runs["N"])
        axes.axhline(0, color=INK, lw=0.9)
        axes.axhspan(-2 * spread, 2 * spread, color=LINE, alpha=0.45, lw=0, zorder=0)
        for place in np.argsort(-np.abs(percent))[:3].tolist():
            if abs(percent[place]) > 3 * spread and names:
                _name_point(axes, runs["C"], percent, place, names[place])
        _flops_axis(axes, runs["C"], most=6)
        axes.margins(y=0.12)
        axes.set(title="Law minus run", ylabel="ln L̂ − ln L, percent")  # noqa: RUF001

    def against_normal(axes: "Axes") -> None:
        from statistics import NormalDist

        count = len(percent)
        ideal = [NormalDist().inv_cdf((place + 0.5) / count) for place in range(count)]
        reach = max(map(abs, ideal))
        middle = float(np.median(percent))
        axes.plot(
            [-reach, reach], [middle - reach * spread, middle + reach * spread], color=GREY, lw=1.2, label="normal"
        )
        axes.plot(ideal, np.sort(percent), "o", color=BLUE, ms=4, mew=0)
        axes.set(title="Against a normal distribution", xlabel="standard deviations", ylabel="")
        axes.margins(y=0.12)
        axes.legend(loc="upper left")

    _drawn(path, [over_compute, against_normal], height=3.5)


def budgets(runs: Columns) -> list[np.ndarray]:
    """The places of runs that share a budget: nearly equal FLOPs, four runs or more, over sizes a factor of 2 apart.

    Runs that read their tokens more than once stay out: a parabola is one of fresh data.
    """
    order = np.argsort(runs["C"], kind="stable")
    if "U" in runs:
        order = order[(runs["D"] <= 1.01 * runs["U"])[order]]
    groups: list[list[int]] = []
    for place in order.tolist():
        if groups and runs["C"][place] <= BUDGET_SPREAD * runs["C"][groups[-1][0]]:
            groups[-1].append(place)
        else:
            groups.append([place])
    found = [np.array(group) for group in groups if len(np.unique(runs["N"][group])) >= 4]
    return [group for group in found if runs["N"][group].max() >= 2 * runs["N"][group].min()]


def frontier(
    predict: Predict, compute: np.ndarray, runs: Columns, among: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """The N and D that the law likes best for each budget C, and their loss L; each of shape (budgets,).

    Searched among the sizes given, or on a grid, so that it serves a law of any form.
    """
    if among is not None:
        return _best(predict, compute, runs, np.tile(among, (len(compute), 1)))
    low = np.full(len(compute), np.log(runs["N"].min()) - 7)
    high = np.full(len(compute), np.log(runs["N"].max()) + 14)
    for _ in range(2):
        sizes = np.exp(np.linspace(low, high, PLACES, axis=1))
        found = _best(predict, compute, runs, sizes)
        step = (high - low) / (PLACES - 1)
        low, high = np.log(found["N"]) - step, np.log(found["N"]) + step
    return found


def _promised(sizes: np.ndarray | None) -> str:
    return "best N and D of a budget" if sizes is None else "best candidate for a budget"


def _best(predict: Predict, compute: np.ndarray, runs: Columns, sizes: np.ndarray) -> dict[str, np.ndarray]:
    """The best of `sizes` (budgets, choices) for each budget."""
    tokens = compute[:, None] / per_token(runs, sizes)
    losses = predict(filled(runs, sizes.ravel(), tokens.ravel())).reshape(sizes.shape)
    best = np.argmin(np.where(np.isfinite(losses), losses, np.inf), axis=1)
    rows = np.arange(len(compute))
    return {"C": compute, "N": sizes[rows, best], "D": tokens[rows, best], "L": losses[rows, best]}


def filled(runs: Columns, n: np.ndarray, d: np.ndarray) -> dict[str, np.ndarray]:
    """Columns for runs that nobody made: what is neither N, D nor C stays at the runs' median, all tokens are new."""
    rest = {symbol: np.full_like(n, np.median(column)) for symbol, column in runs.items() if symbol.startswith("P")}
    return {**rest, "N": n, "D": d, "C": per_token(runs, n) * d, "U": d}


def per_token(runs: Columns, n: np.ndarray) -> np.ndarray:
    """Training FLOPs per token of a size: 6 N times what the runs' own FLOPs are to 6 N D, between their sizes."""
    sizes, places = np.unique(runs["N"], return_inverse=True)
    ratios = np.log(runs["C"] / (6 * runs["N"] * runs["D"]))
    means = np.bincount(places, ratios) / np.bincount(places)
    return 6 * n * np.exp(np.interp(np.log(n), np.log(sizes), means))


def _slice(axes: "Axes", runs: Columns, group: np.ndarray, predict: Predict, centre: float, colour: Any) -> None:
    """The runs of a budget, the parabola in ln N through them with its lowest point, and the law."""
    n, loss = runs["N"][group], runs["L"][group]
    reach = _spaced(n, 1.05)
    axes.plot(n, loss, "o", color=colour, ms=4, mew=0)
    axes.plot(reach, predict(filled(runs, reach, centre / per_token(runs, reach))), color=colour, lw=1.1, ls=":")
    middle = np.log(n).mean()
    curve = np.polynomial.Polynomial.fit(np.log(n) - middle, loss, 2).convert()
    if curve.coef[-1] <= 0:
        return
    axes.plot(reach, curve(np.log(reach) - middle), color=colour, lw=1.3)
    vertex = -curve.coef[1] / (2 * curve.coef[2])
    if np.log(n).min() <= vertex + middle <= np.log(n).max():
        axes.plot([np.exp(vertex + middle)], [curve(vertex)], "D", color=ORANGE, ms=4, zorder=4)


def _equal_flops(axes: "Axes", n: np.ndarray, d: np.ndarray) -> None:
    """Dotted lines of C = 6 N D at powers of ten, each with its figure where it leaves the plot at the right or top."""
    low, high = np.log10(6 * n[0] * d[0]), np.log10(6 * n[-1] * d[-1])
    powers = np.arange(np.ceil(low), np.floor(high) + 1)
    for power in powers[:: max(1, round(len(powers) / 7))]:
        line = 10**power / (6 * n)
        inside = (line >= d[0]) & (line <= d[-1])
        if inside.sum() < 8:
            continue
        axes.plot(n, line, color=SOFT, lw=0.8, ls=(0, (1, 3)))
        first = int(np.argmax(inside))
        at_top = line[0] > d[-1]
        place, offset = ((n[first], d[-1]), (5, -7)) if at_top else ((n[0], line[0]), (5, 0))
        if first < 0.9 * len(n):
            axes.annotate(f"$10^{{{power:.0f}}}$", place, xytext=offset, textcoords="offset points", color=SOFT,
                          fontsize=8.5, va="top" if at_top else "center", bbox=LABEL)  # fmt: skip


def _round_levels(plane: np.ndarray) -> np.ndarray:
    """About a dozen losses evenly spread in their logarithm, of two figures where these differ."""
    levels = np.exp(np.linspace(np.log(plane.min()), np.log(plane.max()), 13))[1:-1]
    for figures in (2, 3, 4):
        rounded = np.unique([float(f"{level:.{figures}g}") for level in levels])
        if len(rounded) == len(levels):
            break
    return rounded


def _label_places(n: np.ndarray, d: np.ndarray, plane: np.ndarray, levels: np.ndarray) -> list[tuple[float, float]]:
    """Where a line of equal loss crosses an upright near the right, or else a level near the top, clear of the rim."""
    upright, level_line = int(0.88 * len(n)), int(0.84 * len(d))
    places = []
    for level in levels:
        for along, values, at in ((d, plane[:, upright], "right"), (n, plane[level_line], "top")):
            where = int(np.argmax(values <= level))
            if 0.06 * len(along) < where < 0.94 * len(along):
                places.append((n[upright], along[where]) if at == "right" else (along[where], d[level_line]))
                break
    return places


def _flops_axis(axes: "Axes", compute: np.ndarray, *, most: int = 11) -> None:
    axes.set_xscale("log")
    big_ticks(axes.xaxis, compute, most=most, shown=_flops)
    axes.set_xlabel("training FLOPs")


def _flops(value: float) -> str:
    mantissa, _, power = f"{value:.2e}".partition("e")
    times = "" if float(mantissa) == 1 else rf"{float(mantissa):g}\cdot"
    return f"${times}10^{{{int(power)}}}$"


def _loss_axis(axes: "Axes", losses: np.ndarray, *, room: float = 0.12) -> None:
    """A logarithmic axis with plain figures, and `room` for a legend above the losses."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    low, high = float(losses.min()), float(losses.max())
    axes.set_yscale("log")
    axes.set_ylim(low / (high / low) ** 0.08, high * (high / low) ** room)
    ticks = MaxNLocator(7, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if tick > 0]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.set_ylabel("loss, nats per token")


def _sizes(axes: "Axes", dots: Any, n: np.ndarray) -> None:
    """The bar that says which shade is which size."""
    from matplotlib.ticker import FixedLocator, FuncFormatter

    bar = axes.figure.colorbar(dots, ax=axes, label="parameters", pad=0.02, aspect=32)
    bar.outline.set_visible(False)
    low, high = np.log10(n.min()), np.log10(n.max())
    ticks = [p + m for p in range(int(low) - 1, int(high) + 2) for m in (0, np.log10(3)) if low <= p + m <= high]
    if len(np.unique(n)) <= 6:
        ticks = np.log10(np.unique(n)).tolist()
    bar.ax.yaxis.set_major_locator(FixedLocator(ticks))
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: big(10**value)))


def _name_point(axes: "Axes", x: np.ndarray, y: np.ndarray, place: int, name: str) -> None:
    right = np.log(x[place]) > (np.log(x.min()) + np.log(x.max())) / 2
    axes.annotate(name[:24], (x[place], y[place]), xytext=(-6 if right else 6, 0), textcoords="offset points",
                  ha="right" if right else "left", va="center", fontsize=8, color=SOFT)  # fmt: skip


def _between(at: float, compute: np.ndarray, values: np.ndarray) -> float:
    return float(np.exp(np.interp(np.log(at), np.log(compute), np.log(values))))


def _spaced(values: np.ndarray, margin: float, count: int = 80) -> np.ndarray:
    """Logarithmic places from a little below the values to a little above."""
    return np.geomspace(values.min() / margin, values.max() * margin, count)


def _paper() -> "Colormap":
    """Shades so light that lines and figures stay legible on them; the lowest loss is the darkest."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("paper", ("#c3d8e6", "#e3edf4", "#f8fafc"))


def _ramp() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("evergreen", RAMP)


def _drawn(path: Path, draws: Sequence[Callable[["Axes"], None]], *, height: float) -> None:
    figure(path, draws, columns=2, height=height)
