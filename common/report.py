"""Compare runs on one page: `python -m common.report RUN... [--output report.html]`.

One file that needs no network, as HTML; or the same as Markdown with its PNG beside it, or the PNG alone. What cannot be
read, has not ended or has nothing to be compared by is named on stderr, the rest is reported, and the exit status is 2.
"""

import common.system.quiet  # noqa: F401, I001  first: Ctrl-C ends without a traceback from here on

import html
import re
import statistics
import string
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from common.reports import curves
from common.config import TrainConfig
from common.evaluation.metrics import row, shown
from common.flags import Parser, scoped
from common.system.errors import UserError, exit_with_sentence, printable, shortened
from common.system.files import write_atomically
from common.reports.mistakes import Mistakes, Table, all_mistakes
from common.reports.record import (
    SEEDS,
    Record,
    accuracy,
    counted,
    differing_settings,
    gaps,
    groups,
    in_words,
    read_record,
    settings,
    told_apart,
)

SUFFIXES = (".html", ".md", ".png")
AGREEMENT = (
    "min <- median -> max of the results, and in brackets the number of runs. The same seeds give the same images in "
    "every engine, so the columns show how far the engines agree. "
    "They are no ranking of frameworks."
)
TITLE = ("model", "dataset", "weights", "examples_per_class")  # flags in the title of a setting
MACHINE = ("system", "processor", "cores", "accelerators")  # of an environment.json; the rest are versions
LONGEST = 1000  # characters of a cell
PAGE = Path(__file__).with_name("report.html")


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    parser = Parser(prog="python -m common.report", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of big_vision's log")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help=f"{', '.join(SUFFIXES)} (default: report.html)"
    )
    parser.add_argument(
        "--remote", action="store_true", help="also fetch images of mistakes from gs:// and s3:// (default: local ones)"
    )
    with exit_with_sentence():
        args = parser.parse_args()
        if args.output.suffix not in SUFFIXES:
            raise UserError(f"--output {args.output} ends in none of {', '.join(SUFFIXES)}; choose such a name.")
        records, errors = read_records(args.runs)
        if records:
            write_report(records, args.output, errors, remote=args.remote)
            print(printable(f"Wrote {args.output}: {counted(len(records), 'run')}"))
        errors += problems(records)
        if errors:
            raise UserError(" ".join(errors))


def read_records(folders: Sequence[str | Path]) -> tuple[list[Record], list[str]]:
    """(the runs that can be read, a sentence on each of the others)."""
    records, errors = [], []
    for folder in folders:
        try:
            records.append(read_record(folder))
        except UserError as error:
            errors.append(str(error))
        except OSError as error:
            errors.append(f"{folder} cannot be read ({error.strerror or error}); name another run.")
    return told_apart(records), errors


def problems(records: Sequence[Record]) -> list[str]:
    """A sentence on whatever is wrong with the runs that can be read."""
    found = [f"{record.folder} {note}." for record in records for note in record.notes]
    return found + [
        f"{gap.second.folder} has no step in common with {gap.first.folder}, so their losses were not compared."
        for gap in gaps(records)
        if not gap.steps
    ]


def write_report(records: Sequence[Record], path: Path, left_out: Sequence[str] = (), *, remote: bool = False) -> None:
    """Write the report in the form that the suffix names, with a sentence on each run that is `left_out` of it.

    Images in the cloud are fetched if `remote`.

    Raises UserError where it cannot be written.
    """
    if path.suffix == ".html":
        text = as_html(records, left_out, remote=remote)
    elif path.suffix == ".md":
        text = as_markdown(records, urllib.parse.quote(path.with_suffix(".png").name), left_out, remote=remote)
    if path.suffix != ".html":
        curves.write_png(records, path.with_suffix(".png"))
    if path.suffix != ".png":
        write_atomically(path, lambda file: file.write(text.encode()))


# --- what is told


def tables(records: Sequence[Record], left_out: Sequence[str] = ()) -> list[Table]:
    """Everything but the curves; no table without rows."""
    found = [
        overview(records),
        notes(records),
        Table("Left out", ("runs that cannot be read",), [(sentence,) for sentence in left_out]),
        teachers(records),
        seeds(records),
        differences(records),
        different_flags(records),
        environments(records),
    ]
    return [table for table in found if table.rows]


def overview(records: Sequence[Record]) -> Table:
    """One row per run."""
    rows = []
    for record in records:
        judged, loss = accuracy(record), record.last("train/loss")
        rows.append(
            (
                record.name,
                record.framework,
                str(record.config.get("model", "")),
                str(record.config.get("dataset", "")),
                f"{record.step:,}",
                "" if loss is None else f"{loss:.4f}" if abs(loss) < 1e6 else f"{loss:.4g}",
                f"{shown(*judged)} ({in_words(judged[0])})" if judged else "",
                speed(record),
            )
        )
    return Table("Runs", ("run", "engine", "model", "dataset", "steps", "loss", "result", "images/s"), rows)


def teachers(records: Sequence[Record]) -> Table:
    """One row for every evaluated split of a distilled run: the student beside its teachers."""
    names = ("top1", "teacher_top1", "agreement", "kl")
    rows = []
    for record in records:
        for judged in record.metrics("/teacher_top1"):
            split = judged.rpartition("/")[0]
            values = {name: record.last(f"{split}/{name}") for name in names}
            rows.append((record.name, split, *("" if v is None else shown(name, v) for name, v in values.items())))
    columns = ("run", "split", "student's top-1", "teacher's top-1", "agreement", "KL from the teacher")
    return Table("Students and teachers", columns, rows, "Of several teachers, the mean.")


def speed(record: Record) -> str:
    """The median of what a run has logged."""
    for metric, unit in (("images_per_second", ""), ("images_per_second_per_core", " a core")):
        if points := record.points(metric):
            return f"{statistics.median(value for _, value in points):,.0f}{unit}"
    return ""


def seeds(records: Sequence[Record]) -> Table:
    """One row per setting of which an engine has several seeds that have ended, one column per engine."""
    by_setting: dict[tuple, dict[str, list[Record]]] = {}
    for group in groups([record for record in records if record.has_ended]):
        judged = [record for record in group if accuracy(record)]
        if group[0].config and judged:
            by_setting.setdefault(settings(group[0], seeds=False), {})[group[0].framework] = judged
    told = [runs for runs in by_setting.values() if any(len(seeds) > 1 for seeds in runs.values())]
    engines = list(dict.fromkeys(name for runs in told for name in runs))
    titles = setting_titles([next(iter(runs.values()))[0] for runs in told])
    rows = [(text, *(spread(runs.get(name, [])) for name in engines)) for text, runs in zip(titles, told)]
    return Table("Over the seeds", ("setting", *engines), rows, AGREEMENT)


def spread(records: Sequence[Record]) -> str:
    """`40.0% <- 50.0% -> 60.0% (3)` of the runs' results."""
    judged = [accuracy(record) for record in records]
    values = [value for _, value in judged]
    short = lambda value: f"{value:.1%}" if row(judged[0][0]).unit == "%" else f"{value:.3f}"
    if len(values) < 2:
        return "".join(f"{short(value)} (1)" for value in values)
    return f"{short(min(values))} <- {short(statistics.median(values))} -> {short(max(values))} ({len(values)})"


def setting_titles(records: Sequence[Record]) -> list[str]:
    """A title for each, with the further flags in which they differ."""
    left_out = scoped(TrainConfig, "run", "machine").union(SEEDS, TITLE)
    further = [name for name in differing_settings(records) if name not in left_out]
    return [title(r) + "".join(f", --{name} {r.config.get(name)}" for name in further) for r in records]


def title(record: Record) -> str:
    """A few words on what a run was asked to do."""
    config = record.config
    few = config.get("examples_per_class")
    start = {"none": "from scratch", "pretrained": "fine-tuned"}.get(str(config.get("weights")), config.get("weights"))
    shots = f", {counted(few, 'image')} a class" if few else ""
    return f"{config.get('model')} on {config.get('dataset')}, {start}{shots}"


def differences(records: Sequence[Record]) -> Table:
    """Runs of two engines with the same settings and seeds."""
    rows = []
    for gap in gaps(records):
        if gap.steps:
            loss = (f"{gap.loss:.1e} (step {gap.at:,})", f"{gap.steps:,}")
        else:
            loss = ("no step with a loss in common", "0")
        end = shown(accuracy(gap.first)[0], gap.accuracy) if gap.accuracy is not None else ""
        rows.append((f"{gap.second.name} - {gap.first.name}", gap.second.framework, gap.first.framework, *loss, end))
    columns = ("runs", "engine", "against", "largest loss difference", "losses compared", "difference of results")
    return Table("Engines with the same settings and seed", columns, rows)


def different_flags(records: Sequence[Record]) -> Table:
    """The flags in which the runs differ; what most of them do not share is shaded."""
    ours = [record for record in records if record.config]
    rows, shades = [], {}
    for name, values in differing_settings(ours).items():
        words = [*map(str, values)]
        usual = statistics.mode(words)
        shades |= {(len(rows), column): 1.0 for column, word in enumerate(words, 1) if word != usual}
        rows.append((f"--{name}", *words))
    return Table("Settings that differ", ("flag", *(record.name for record in ours)), rows, shades=shades)


def environments(records: Sequence[Record]) -> Table:
    """Hardware and versions of the runs: one row for those that ran in the same way."""
    found: dict[tuple, list[str]] = {}
    for record in records:
        if record.environment:
            facts = {name: str(value) for name, value in record.environment.items() if name != "engine"}
            machine = [facts.pop(name, "") for name in MACHINE]
            versions = ", ".join(f"{name} {version}" for name, version in facts.items())
            found.setdefault((record.framework, versions, *machine), []).append(record.name)
    rows = [(framework, ", ".join(names), *facts) for (framework, *facts), names in found.items()]
    columns = ("engine", "runs", "versions", *MACHINE)
    told = [i for i in range(len(columns)) if any(row[i] for row in rows)]
    rows = [[row[i] for i in told] for row in rows]
    return Table("Hardware and versions", [columns[i] for i in told], rows)


def notes(records: Sequence[Record]) -> Table:
    """Notes on single runs."""
    return Table("Notes", ("run", ""), [(record.name, note) for record in records for note in record.notes])


# --- in which form


MARKDOWN = re.compile(r"""[\\`*\[\]|] | <(?=[A-Za-z/!?]) | &(?=\#?\w+;) | (?<!\w)_ | _(?!\w)""", re.VERBOSE)


def in_markdown(text: str) -> str:
    """Any text as it is, where Markdown and the HTML within it would take some of it for theirs."""
    return MARKDOWN.sub(r"\\\g<0>", printable(shortened(text, LONGEST)))


def in_html(text: str) -> str:
    """Any text as it is, in HTML."""
    return html.escape(printable(shortened(text, LONGEST)))


def as_markdown(records: Sequence[Record], picture: str, left_out: Sequence[str] = (), *, remote: bool = False) -> str:
    """The report as Markdown that shows the picture at the address `picture`."""
    parts = [
        f"# {in_markdown(headline(records))}",
        f"![Curves]({picture})",
        *(as_markdown_table(t, "##") for t in tables(records, left_out)),
    ]
    for told in all_mistakes(records, remote=remote):
        parts += [f"## {in_markdown(told.title)}", *(as_markdown_table(table, "###") for table in told.tables)]
        parts += [
            f"### {told.heading}",
            "\n".join(f"- {in_markdown(picture.caption)}" for picture in told.pictures) or in_markdown(told.note),
        ]
    return "\n\n".join(parts) + "\n"


def as_markdown_table(table: Table, level: str) -> str:
    """One table; what is shaded fully is bold."""

    def row(cells: Sequence[str], number: int = -1) -> str:
        bold = lambda column: "**" if table.shades.get((number, column)) == 1 else ""
        return f"| {' | '.join(f'{bold(i)}{in_markdown(cell)}{bold(i)}' for i, cell in enumerate(cells))} |"

    lines = [f"{level} {table.title}", "", *([in_markdown(table.note), ""] if table.note else [])]
    lines += [row(table.columns), "|" + "---|" * len(table.columns), *(row(r, i) for i, r in enumerate(table.rows))]
    return "\n".join(lines)


def as_html(records: Sequence[Record], left_out: Sequence[str] = (), *, remote: bool = False) -> str:
    """The report as one page; images of mistakes in the cloud are fetched if `remote`."""
    figures = "".join(f"<figure>{svg}</figure>" for svg in curves.svgs(records).values())
    sections = "".join(f"<section>{as_html_table(table, 'h2')}</section>" for table in tables(records, left_out))
    if told := all_mistakes(records, remote=remote):
        sections += (
            "<section><h2>Mistakes</h2>" + "".join(as_details(t, is_open=t is told[0]) for t in told) + "</section>"
        )
    page = string.Template(PAGE.read_text(encoding="utf-8"))
    return page.substitute(title=in_html(headline(records)), figures=figures, sections=sections)


def as_html_table(table: Table, level: str) -> str:
    """One table; it scrolls by itself where it is wider than the screen."""

    def cell(text: str, place: tuple[int, int]) -> str:
        shade = table.shades.get(place)
        return f"<td{f' style=--shade:{shade:.2f}' if shade else ''}>{in_html(text)}</td>"

    note = f"<p>{in_html(table.note)}</p>" if table.note else ""
    head = "".join(f"<th><span>{in_html(text)}</span></th>" for text in table.columns)
    rows = ("".join(cell(text, (i, j)) for j, text in enumerate(row)) for i, row in enumerate(table.rows))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    kind = in_html(table.title.lower().replace(" ", "-"))
    return (
        f"<{level}>{in_html(table.title)}</{level}>{note}<div class=wide><table class={kind}>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def as_details(told: Mistakes, *, is_open: bool) -> str:
    """The mistakes of one run, to be unfolded."""
    figures = "".join(
        f'<figure{" class=whole" if picture.is_whole else ""}><img alt="" src="{picture.source}"><figcaption>{in_html(picture.caption)}</figcaption></figure>'
        for picture in told.pictures
    )
    note = f"<p>{in_html(told.note)}</p>" if told.note else ""
    parts = [as_html_table(table, "h3") for table in told.tables]
    parts.append(f"<h3>{told.heading}</h3>{note}<div class=pictures>{figures}</div>")
    return (
        f"<details{' open' if is_open else ''}><summary>{in_html(told.title)}</summary>"
        f"<div class=told>{''.join(f'<div>{part}</div>' for part in parts)}</div></details>"
    )


def headline(records: Sequence[Record]) -> str:
    """The settings that all runs share."""
    names = dict.fromkeys(record.framework for record in records)
    runs = records[0].name if len(records) == 1 else f"{len(records)} runs"
    return f"{runs}: {', '.join(names)}"


if __name__ == "__main__":
    main()
