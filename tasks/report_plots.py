"""The report's pictures. Drawn without pyplot, which keeps state for the process; bytes depend on the data only."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

Entries = Sequence[Mapping[str, float]]

INK, SOFT, LINE = "#1d2733", "#5c6875", "#dfe4e8"
BLUE, GREEN, ORANGE, GREY = "#2f6690", "#1f7a4d", "#c4722c", "#8b96a1"
RAMP = ("#b7cfe0", "#86aeca", "#5589b0", "#2f6690", "#1d4567", "#122c44")  # light to dark: small to large
ROW_COLOURS = {"aligned": GREEN, "sft": BLUE, "base": "#7fa6c4", "from-scratch": ORANGE}
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9.5, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "axes.edgecolor": LINE, "axes.labelcolor": SOFT, "text.color": INK,
    "xtick.color": SOFT, "ytick.color": SOFT, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.color": "#eceff2", "axes.axisbelow": True, "legend.frameon": False, "legend.fontsize": 8.5,
}  # fmt: skip
OWN_TEXT = {"rougeL", "score"}  # of the human text these are 1 and more by definition


def scaling(fit: Mapping[str, Any], actual: Mapping[str, float] | None, path: Path) -> None:
    """Runs and fitted law, loss over tokens, one line per size; the forecast with its interval and what came true."""

    def draw(axes: "Axes") -> None:
        runs = fit["runs"]
        sizes = sorted({run["N"] for run in runs})
        shades = _shades(len(sizes))
        optimum, expected = fit.get("optimum", {}), fit.get("forecast", {})
        tokens = [run["D"] for run in runs] + ([optimum["tokens"]] if "tokens" in optimum else [])
        for size, shade in zip(sizes, shades, strict=True):
            points = sorted((run["D"], run["loss"]) for run in runs if run["N"] == size)
            axes.plot(*zip(*points, strict=True), "o", color=shade, ms=5, label=f"{big(size)} parameters")
            _law(axes, fit.get("coefficients", {}), size, (min(tokens), max(tokens)), shade)
        if "tokens" in optimum and "loss" in expected:
            _law(axes, fit.get("coefficients", {}), optimum["parameters"], (min(tokens), max(tokens)), GREEN, "--")
            reach = [[expected["loss"] - expected["low"]], [expected["high"] - expected["loss"]]]
            label = f"forecast {expected['loss']:.2f} [{expected['low']:.2f}, {expected['high']:.2f}]"
            place = [optimum["tokens"]], [expected["loss"]]
            axes.errorbar(*place, yerr=reach, fmt="D", color=GREEN, ms=5, capsize=5, elinewidth=1.6, label=label)
        if actual:
            label = f"main run {actual['loss']:.2f}"
            axes.plot([actual["tokens"]], [actual["loss"]], "*", color=ORANGE, ms=13, zorder=1.5, label=label)
        axes.set_xscale("log")
        axes.set(xlabel="training tokens", ylabel="held-out loss, nats per token")
        big_ticks(axes.xaxis, tokens)
        axes.legend(loc="upper right")

    figure(path, [draw], columns=1, height=3.7)


def loss_curves(history: Entries, lines: Mapping[str, float], tuned: Entries, path: Path) -> None:
    """Training and held-out loss of pre-training with what simple models reach, and of fine-tuning if there is any."""

    def pretraining(axes: "Axes") -> None:
        _curve(axes, history, "loss", BLUE, "training")
        _curve(axes, history, "eval_loss", GREEN, "held out", marker="o")
        for (name, value), style in zip(lines.items(), ("--", ":", "-.", (0, (5, 1))), strict=False):
            axes.axhline(value, color=GREY, lw=1.2, ls=style)
            axes.annotate(f"{name} {value:.2f}", (1, value), xycoords=("axes fraction", "data"), xytext=(0, 3),
                          textcoords="offset points", ha="right", va="bottom", color=SOFT, fontsize=8.5)  # fmt: skip
        axes.set(title="Pre-training", xlabel="step", ylabel="loss, nats per token")
        axes.legend(loc="upper right", bbox_to_anchor=(1, 0.8))

    def finetuning(axes: "Axes") -> None:
        _curve(axes, tuned, "loss", BLUE, "training")
        axes.set(title="Instruction fine-tuning", xlabel="step", ylabel="loss, nats per answer token")

    figure(path, [pretraining, *([finetuning] if _has(tuned, "loss") else [])], columns=2, height=3.3)


def alignment(history: Entries, series: Mapping[str, str], path: Path) -> None:
    """One small plot per logged quantity: `series` maps a title to the key in the history."""

    def drawn(title: str, key: str) -> Callable[["Axes"], None]:
        def draw(axes: "Axes") -> None:
            _curve(axes, history, key, BLUE, "", faint=True)
            axes.set(title=title, xlabel="step")

        return draw

    figure(path, [drawn(*each) for each in series.items()], columns=2, height=2.3)


def metrics(rows: Mapping[str, Mapping[str, Mapping[str, float]]], titles: Mapping[str, str], path: Path) -> None:
    """Every row's mean with its interval, one panel per metric: `titles` maps a metric to its title."""

    def drawn(metric: str, title: str) -> Callable[["Axes"], None]:
        def draw(axes: "Axes") -> None:
            shown = [(row, cells[metric]) for row, cells in rows.items() if metric in cells]
            shown = [(row, cell) for row, cell in shown if row != "human" or metric not in OWN_TEXT][::-1]
            for place, (row, cell) in enumerate(shown):
                reach = [[cell["mean"] - cell["low"]], [cell["high"] - cell["mean"]]]
                colour = ROW_COLOURS.get(row, GREY)
                axes.errorbar([cell["mean"]], [place], xerr=reach, fmt="o", ms=5.5, capsize=3, color=colour)
            axes.set_yticks(range(len(shown)), [row for row, _ in shown])
            axes.set_ylim(-0.6, len(shown) - 0.4)
            axes.set_title(title)
            axes.margins(x=0.12)

        return draw

    figure(path, [drawn(*each) for each in titles.items()], columns=2, height=0.3 * len(rows) + 0.6)


def figure(path: Path, draws: Sequence[Callable[["Axes"], None]], *, columns: int, height: float) -> None:
    """A grid of plots, each `height` inches high, 9 inches wide in all."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(columns, len(draws))
    lines = math.ceil(len(draws) / columns)
    with rc_context(STYLE):
        layout = ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
        whole = Figure(figsize=(9, height * lines), layout=layout, facecolor="white")
        FigureCanvasAgg(whole)
        grid = whole.subplots(lines, columns, squeeze=False).ravel()
        for axes, draw in zip(grid, draws, strict=False):
            draw(axes)
        for axes in grid[len(draws) :]:
            axes.set_axis_off()
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.savefig(path, dpi=150, metadata={"Software": None})


def _curve(
    axes: "Axes", history: Entries, key: str, colour: str, label: str, *, marker: str = "", faint: bool = False
) -> None:
    points = [(entry["step"], entry[key]) for entry in history if key in entry]
    if not points:
        return
    x, y = [step for step, _ in points], [value for _, value in points]
    if faint and len(y) >= 20:  # single steps of reinforcement learning are noise; the line is a running mean
        axes.plot(x, y, color=colour, lw=1, alpha=0.3)
        y = _running_mean(y, max(3, len(y) // 10))
    axes.plot(x, y, color=colour, lw=1.8, marker=marker, ms=5, label=label)


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    """Mean of the last `width` values, of fewer at the start."""
    windows = (values[max(0, end - width) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _has(history: Entries, key: str) -> bool:
    return any(key in entry for entry in history)


def _law(
    axes: "Axes", law: Mapping[str, float], size: float, tokens: tuple[float, float], colour: str, style: str = "-"
) -> None:
    """L = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2) over D."""
    if not {"E", "A", "B", "alpha", "beta"} <= law.keys():
        return
    ratio = tokens[1] / tokens[0]
    steps = [tokens[0] * ratio ** (i / 60) for i in range(61)]
    loss = [law["E"] + law["A"] / size ** law["alpha"] + law["B"] / d ** law["beta"] for d in steps]
    axes.plot(steps, loss, color=colour, lw=1.3, ls=style, alpha=0.8)


def _shades(count: int) -> list[str]:
    return [RAMP[round(i * (len(RAMP) - 1) / max(1, count - 1))] if count > 1 else RAMP[3] for i in range(count)]


def big_ticks(
    axis: "Axis", values: Iterable[float], *, most: int = 11, shown: Callable[[float], str] | None = None
) -> None:
    """Ticks at 1, 2 and 5 times the powers of ten inside the data, as 200 k or 5 M; at fewer where that is too many."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = list(values)
    low, high = min(values), max(values)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for multiples in ((1, 2, 5), (1, 3), (1,)):
        ticks = [m * 10.0**p for p in powers for m in multiples if low * 0.8 <= m * 10.0**p <= high * 1.25]
        if len(ticks) <= most:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: (shown or big)(value)))


def big(value: float) -> str:
    for unit, name in ((1e12, " T"), (1e9, " B"), (1e6, " M"), (1e3, " k")):
        if value >= unit:
            return f"{value / unit:.3g}{name}"
    return f"{value:.3g}"
