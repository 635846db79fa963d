"""Curves of one run or several, one over the other: as a PNG, and as SVG that takes the colours of its page."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from common.evaluation.metrics import METRICS
from common.reports.record import Record, in_words
from common.system.errors import printable
from common.system.files import write_atomically

# Distinguishable with every kind of colour vision, on white and on black.
COLOURS = {"bit_pytorch": "#d95926", "bit_jax": "#2a78d6", "bit_tf2": "#1a9e6b", "big_vision": "#8b5fbf"}
OTHERS = ("#2a78d6", "#d95926", "#1a9e6b", "#8b5fbf", "#c2891b", "#c0417f")
GREY = "#808080"
STYLES = ("-", "--", ":", "-.", (0, (8, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (1, 4)))
MARKS = "osD^vPX"
FEW_POINTS = 20  # are marked
TITLES = dict.fromkeys(metric.panel for metric in METRICS.values() if metric.panel)
PANELS = {title: [name for name, metric in METRICS.items() if metric.panel == title] for title in TITLES}
ALWAYS = {"loss": ["train/loss"], "lr": ["train/lr"]}  # first in their panels
LONGEST = 40  # characters of a name in a legend
MOST_POINTS = 2000  # of a curve, and more than a panel has pixels
PLAIN = {"text.parse_math": False}  # a run may be called $x$
CURRENT = "#010203"  # stands for the page's own colour of text until the SVG is written


def shown(record: Record, title: str) -> list[str]:
    """The metrics of a run that a panel shows."""
    always = [metric for name in PANELS[title] for metric in ALWAYS.get(name, [])]
    found = [m for name in PANELS[title] for m in record.metrics(name) if m.rpartition("/")[2] == name]
    return [*dict.fromkeys(always + found)]


def draw(axes, title: str, records: Sequence[Record]) -> None:
    """One panel: each engine has a colour, or each run where all have one engine; each metric has dashes and marks.

    Of engines, each is drawn thinner than the one below it, so that all are seen where they agree.
    """
    engines = list(dict.fromkeys(record.engine for record in records))
    metrics = list(dict.fromkeys(name for record in records for name in shown(record, title)))
    who = {}  # name -> how its lines look
    for number, record in enumerate(records):
        above = len(engines) - 1 - engines.index(record.engine)
        style = {"color": OTHERS[number % len(OTHERS)], "linewidth": 1.4 + 1.3 * above, "zorder": 3 - above / 10}
        if len(engines) > 1:
            style["color"] = COLOURS.get(record.engine)
        if has_points(title, [record]):
            who[record.framework if len(engines) > 1 else record.name] = style
        for metric in shown(record, title):
            points = points_of(record, metric)
            look = {**line_of(metric, metrics, len(points)), **style, "markersize": 4 + 1.5 * above}
            axes.plot(*np.reshape(points, (-1, 2)).T, **look)
    axes.set(title=title, xlabel="step", xlim=(0, 1.02 * max(1, *(record.step for record in records))))
    if "second" in title:
        axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    if METRICS[PANELS[title][0]].unit == "%":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.4g} %")
    axes.grid(alpha=0.3)
    counts = {metric: max(len(points_of(record, metric)) for record in records) for metric in metrics}
    explain(axes, who, {metric: line_of(metric, metrics, count) for metric, count in counts.items()})


def points_of(record: Record, metric: str) -> list[tuple[int, float]]:
    """(step, value) to be joined by lines: of the learning rate every step, since only some of them are logged."""
    points = record.rates if metric == "train/lr" else record.points(metric)
    chosen = np.unique(np.linspace(0, len(points) - 1, min(len(points), MOST_POINTS)).astype(int))
    return [points[i] for i in chosen]


def line_of(metric: str, metrics: Sequence[str], num_points: int) -> dict:
    """The dashes of the line of one of several metrics and, where it has few points, their marks."""
    number = metrics.index(metric)
    look = {"linestyle": STYLES[number % len(STYLES)] if num_points > 1 else "none"}
    return look | ({"marker": MARKS[number % len(MARKS)]} if num_points < FEW_POINTS else {})


def explain(axes, who: dict[str, dict], metrics: dict[str, dict]) -> None:
    """The legend: who has which colour, and which metric which line."""
    from matplotlib.lines import Line2D

    colour = next(iter(who.values()))["color"] if len(who) == 1 else GREY
    handles = [Line2D([], [], label=short(name), **style) for name, style in who.items() if len(who) > 1]
    told = len(metrics) > 1 or (len(who) == 1 and [in_words(name) for name in metrics] != [axes.get_title().lower()])
    for metric, look in metrics.items() if told else ():
        look = look | {"color": colour, "linewidth": 1.4, "markersize": 4}
        handles.append(Line2D([], [], label=short(in_words(metric)), **look))
    if handles:
        axes.legend(handles=handles, fontsize="small", framealpha=0, ncols=1 + (len(handles) > 6))


def short(name: str) -> str:
    """A name that fits into a legend, shortened in the middle, where names differ least."""
    name = printable(name)
    return name if len(name) <= LONGEST else f"{name[: LONGEST // 2]}...{name[-LONGEST // 2 :]}"


def has_points(title: str, records: Sequence[Record]) -> bool:
    """Whether any run has something to show in a panel."""
    return any(points_of(record, metric) for record in records for metric in shown(record, title))


def write_png(records: Sequence[Record], path: Path) -> None:
    """The panels side by side."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    titles = [title for title in PANELS if has_points(title, records)] or ["Loss"]
    with matplotlib.rc_context(PLAIN):
        figure = Figure(figsize=(4 * len(titles), 3.6), layout="constrained")
        for axes, title in zip(figure.subplots(1, len(titles), squeeze=False)[0], titles):
            draw(axes, title, records)
        write_atomically(path, lambda file: FigureCanvasAgg(figure).print_png(file))


def svgs(records: Sequence[Record]) -> dict[str, str]:
    """{title: an `svg` element} of every panel that has points. Its text is text, and small enough for a phone."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {"svg.fonttype": "none", "font.family": "sans-serif", "text.color": CURRENT, "axes.labelcolor": CURRENT}
    style |= PLAIN | {
        "axes.edgecolor": CURRENT,
        "axes.titlecolor": CURRENT,
        "axes.facecolor": "none",
        "xtick.color": CURRENT,
        "ytick.color": CURRENT,
        "svg.hashsalt": "report",
    }
    found = {}
    for title in PANELS:
        if not has_points(title, records):
            continue
        with matplotlib.rc_context(style):
            figure = Figure(figsize=(4.6, 3.2), layout="constrained", facecolor="none")
            axes = figure.subplots()
            draw(axes, title, records)
            text = io.StringIO()
            FigureCanvasSVG(figure).print_svg(text, metadata={"Date": None})
        svg = text.getvalue()
        found[title] = svg[svg.index("<svg") :].replace(CURRENT, "currentColor")
    return found
