"""Pictures of attention: every head of every layer at a glance, and the heads of one layer with the tokens."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.report_plots import INK, LINE, SOFT, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

FONT = "DejaVu Sans"  # comes with matplotlib
SHADES = ("#ffffff", "#cfe0ec", "#86aeca", "#2f6690", "#122c44")  # from no attention to all of it
UNSEEN = "#f0f1f3"  # later tokens, which a causal head does not see
SHARES = (0, 0.01, 0.05, 0.1, 0.2, 0.4, 0.7, 1)  # marked beside the shades
LABELS = 40  # tokens that are written at an edge of a map; of more, every second, third, ...
LETTERS = 14  # of a token, at most
TOKEN = 0.135  # inches that a written token needs
DOTS = 150  # of a side of a map in the overview, at most
NUMBERS = 30  # layers or heads that the overview numbers, or every second, third, ...


def overview(maps: np.ndarray, layers: Sequence[int], path: Path, *, title: str) -> None:
    """A small map of every head of `maps` (L, H, T, T): a row for each of `layers`, a column for each head."""
    small = np.stack([_reduced(maps[layer]) for layer in layers])
    heads, length = small.shape[1:3]
    cell = min(1.9, max(0.36, 8 / heads))
    gap = max(1, round(0.09 * length))
    pitch = length + gap
    size = heads * cell + 1.9, max(2.2, len(layers) * cell) + 1.3

    def draw(whole: "Figure") -> None:
        axes = whole.subplots()
        sheet = np.zeros((len(layers) * pitch - gap, heads * pitch - gap), np.float32)
        for row in range(len(layers)):
            for head in range(heads):
                y, x = row * pitch, head * pitch
                sheet[y : y + length, x : x + length] = small[row, head]
                _frame(axes, x, y, length)
        shown = _drawn(axes, np.ma.masked_array(sheet, _unseen(small, len(layers), heads, gap)))
        _number(axes.xaxis, range(heads), pitch, length, "head")
        _number(axes.yaxis, layers, pitch, length, "layer")
        axes.xaxis.tick_top()
        axes.xaxis.set_label_position("top")
        _scale(whole, shown, [axes])
        _title(whole, f"{title}: attention of every head")

    _save(path, size, draw)


def layer(
    maps: np.ndarray, tokens: Sequence[str], figures: Sequence[Mapping[str, float]], path: Path, *, title: str
) -> None:
    """Each of `maps` (H, T, T) with its tokens, the query down and the key across, and the head's figures above it."""
    heads, length = maps.shape[:2]
    columns = heads if heads <= 2 else 2 if heads <= 4 else 3 if heads <= 9 else 4
    lines = math.ceil(heads / columns)
    side = min(LABELS * TOKEN, max(2.3, length * TOKEN))
    labels = [_label(token) for token in tokens]
    margin = 0.25 + 0.062 * max(map(len, labels))
    size = columns * (side + margin) + 1.2, lines * (side + margin + 0.42) + 0.55

    def draw(whole: "Figure") -> None:
        grid = np.atleast_1d(whole.subplots(lines, columns)).ravel()
        for head, axes in enumerate(grid[:heads]):
            _head(axes, maps[head], labels, f"head {head}", _caption(figures[head]))
        for axes in grid[heads:]:
            axes.set_axis_off()
        _scale(whole, grid[0].images[0], list(grid))
        _title(whole, title)
        whole.supxlabel("token that is looked at", size=9, color=SOFT)
        whole.supylabel("token that looks", size=9, color=SOFT)

    _save(path, size, draw)


def _head(axes: "Axes", shares: np.ndarray, labels: Sequence[str], name: str, caption: str) -> None:
    length = len(labels)
    _drawn(axes, np.ma.masked_array(shares, _later(shares[None, None])))
    _frame(axes, 0, 0, length)
    every = math.ceil(length / LABELS)
    places = list(range(0, length, every))
    written = [labels[place] for place in places]
    style: dict[str, Any] = {"fontsize": 7.5, "color": INK, "parse_math": False}
    axes.set_xticks(places, written, rotation=90, **style)
    axes.set_yticks(places, written, **style)
    axes.tick_params(length=2 if every > 1 else 0, pad=2)
    axes.set_title(caption, loc="left", fontsize=7.5, color=SOFT, weight="normal", pad=4)
    axes.annotate(name, (0, 1), xycoords="axes fraction", xytext=(0, 26), textcoords="offset points", weight="bold",
                  fontsize=9.5)  # fmt: skip


def _caption(figures: Mapping[str, float]) -> str:
    """Two lines."""
    copies = f", induction {figures['induction']:.0%}" if "induction" in figures else ""
    shares = ", ".join(f"{name} {figures[name]:.0%}" for name in ("first", "previous", "itself"))
    return f"entropy {figures['entropy']:.2f}, distance {figures['distance']:.1f}{copies}\n{shares}"


def _drawn(axes: "Axes", shares: np.ndarray) -> Any:
    """The shares as shades by their root, or the small ones, of which most attention is made, would all be white."""
    from matplotlib.colors import PowerNorm

    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes.imshow(shares, cmap=_shades(), norm=PowerNorm(0.5, 0, 1), aspect="equal")


def _frame(axes: "Axes", x: float, y: float, length: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle((x - 0.5, y - 0.5), length, length, fill=False, edgecolor=LINE, linewidth=0.8, clip_on=False)
    )


def _number(axis: "Axis", numbers: Sequence[int], pitch: int, length: int, name: str) -> None:
    """Numbers in the middle of each map's row or column."""
    every = math.ceil(len(numbers) / NUMBERS)
    places = range(0, len(numbers), every)
    axis.set_ticks([place * pitch + (length - 1) / 2 for place in places], [str(numbers[place]) for place in places])
    axis.set_label_text(name)
    axis.set_tick_params(length=0)


def _title(whole: "Figure", text: str) -> None:
    whole.suptitle(text, x=0.02, ha="left", weight="bold", size=11, parse_math=False)


def _scale(whole: "Figure", shown: Any, beside: "Sequence[Axes]") -> None:
    bar = whole.colorbar(shown, ax=beside, ticks=SHARES, format=lambda share, _: f"{share:.0%}", pad=0.02, aspect=32,
                         shrink=min(1.0, 4.5 / whole.get_figheight()))  # fmt: skip
    bar.outline.set_edgecolor(LINE)
    bar.ax.tick_params(length=2, labelsize=8)
    bar.set_label("share of attention", fontsize=9)


def _reduced(maps: np.ndarray) -> np.ndarray:
    """At most DOTS tokens at either side: of longer texts the largest share in each block of tokens, since a mean would
    wash out the lines of heads that look at one token alone.
    """
    starts = np.arange(0, maps.shape[-1], math.ceil(maps.shape[-1] / DOTS))
    return np.maximum.reduceat(np.maximum.reduceat(maps, starts, axis=-1), starts, axis=-2)


def _later(maps: np.ndarray) -> np.ndarray:
    """Where a causal map has nothing to see; nowhere in others. Shape (tokens, tokens)."""
    length = maps.shape[-1]
    above = np.triu(np.ones((length, length), bool), 1)
    return above & (not maps[..., above].any())


def _unseen(maps: np.ndarray, lines: int, columns: int, gap: int) -> np.ndarray:
    """The same for a sheet of maps."""
    later = np.pad(_later(maps), (0, gap))
    return np.tile(later, (lines, columns))[: lines * len(later) - gap, : columns * len(later) - gap]


def _label(token: str) -> str:
    """What the font can draw, at most LETTERS long; other characters as in \\u4e2d."""
    from matplotlib.font_manager import findfont, get_font

    font = get_font(findfont(FONT))
    known = "".join(c if font.get_char_index(ord(c)) else ascii(c)[1:-1] for c in token)
    return known if len(known) <= LETTERS else known[: LETTERS - 1] + "…"


def _shades() -> "Colormap":
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("attention", SHADES).with_extremes(bad=UNSEEN)


def _save(path: Path, size: tuple[float, float], draw: Any) -> None:
    """Draws a figure of so many inches. Its bytes depend on the data only."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with rc_context(STYLE):
        whole = Figure(figsize=size, layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08), facecolor="white")
        FigureCanvasAgg(whole)
        draw(whole)
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.savefig(path, dpi=150, metadata={"Software": None})
