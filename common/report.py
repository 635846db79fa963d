"""Runs side by side: `python -m common.report RUN... [--output report.html]`.

One file that needs no network, as HTML; or the same as Markdown with its PNG beside it, or the PNG alone. A run whose
folder cannot be read is named on stderr, the others are reported, and the exit status is 2.
"""

import dataclasses
import html
import statistics
import string
from collections.abc import Sequence
from pathlib import Path

from common import curves
from common.config import Parser
from common.errors import UserError, exit_with_sentence
from common.files import write_atomically
from common.record import Record, accuracy, differing_settings, gaps, groups, read_record

SUFFIXES = (".html", ".md", ".png")
AGREEMENT = (
    "The same seeds give the same images in every engine, so the columns show how far the engines agree. "
    "They are no ranking of frameworks."
)
PAGE = Path(__file__).with_name("report.html")


@dataclasses.dataclass(frozen=True)
class Table:
    """Text for a person, before it is HTML or Markdown."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def main() -> None:
    """The command; a UserError ends with exit status 2."""
    parser = Parser(prog="python -m common.report", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run, or of big_vision's log")
    parser.add_argument(
        "--output", type=Path, default=Path("report.html"), help=f"{', '.join(SUFFIXES)} (default: report.html)"
    )
    with exit_with_sentence():
        args = parser.parse_args()
        if args.output.suffix not in SUFFIXES:
            raise UserError(f"--output {args.output} ends in none of {', '.join(SUFFIXES)}; choose such a name.")
        records, errors = read_records(args.runs)
        if records:
            write_report(records, args.output)
            print(f"Wrote {args.output}: {len(records)} runs")
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
    return records, errors


def write_report(records: Sequence[Record], path: Path) -> None:
    """Write the report in the form that the suffix names. Raises UserError where it cannot be written."""
    if path.suffix == ".html":
        text = as_html(records)
    elif path.suffix == ".md":
        text = as_markdown(records, path.with_suffix(".png").name)
    if path.suffix != ".html":
        curves.write_png(records, path.with_suffix(".png"))
    if path.suffix != ".png":
        write_atomically(path, lambda file: file.write(text.encode()))


# --- what is told


def tables(records: Sequence[Record]) -> list[Table]:
    """Everything but the curves; no table without rows."""
    found = [
        overview(records),
        seeds(records),
        differences(records),
        settings(records),
        environments(records),
        notes(records),
    ]
    return [table for table in found if table.rows]


def overview(records: Sequence[Record]) -> Table:
    """One row per run."""
    rows = []
    for record in records:
        judged, loss, speeds = accuracy(record), record.last("train/loss"), record.points("images_per_second")
        rows.append(
            (
                record.name,
                record.framework,
                str(record.config.get("model", "")),
                str(record.config.get("dataset", "")),
                f"{max((line['step'] for line in record.lines), default=0):,}",
                f"{loss:.4f}" if loss is not None else "",
                f"{judged[1]:.2%} ({judged[0]})" if judged else "",
                f"{statistics.median(speed for _, speed in speeds):,.0f}" if speeds else "",
            )
        )
    return Table("Runs", ("run", "engine", "model", "dataset", "steps", "loss", "accuracy", "images/s"), rows)


def seeds(records: Sequence[Record]) -> Table:
    """One row per engine and setting of which there are several seeds."""
    rows = []
    for group in groups(records):
        values = [judged[1] for judged in map(accuracy, group) if judged]
        if len(values) > 1:
            spread = f"{min(values):.1%} <- {statistics.median(values):.1%} -> {max(values):.1%}"
            rows.append((group[0].framework, title(group[0]), str(len(values)), spread))
    return Table("Over the seeds", ("engine", "setting", "runs", "min <- median -> max"), rows, AGREEMENT)


def title(record: Record) -> str:
    """A few words on what a run was asked to do."""
    config = record.config
    few = config.get("examples_per_class")
    start = {"none": "from scratch", "pretrained": "fine-tuned"}.get(config.get("weights"), config.get("weights"))
    return f"{config.get('model')} on {config.get('dataset')}, {start}" + (f", {few} images a class" if few else "")


def differences(records: Sequence[Record]) -> Table:
    """Runs of two engines with the same settings and seeds."""
    rows = []
    for gap in gaps(records):
        if gap.steps:
            loss = (f"{gap.loss:.1e} (step {gap.at:,})", f"{gap.steps:,}")
        else:
            loss = ("no step with a loss in common", "0")
        end = f"{gap.accuracy:.2%}" if gap.accuracy is not None else ""
        rows.append((f"{gap.second.name} - {gap.first.name}", gap.second.framework, gap.first.framework, *loss, end))
    columns = ("runs", "engine", "against", "largest loss difference", "losses compared", "accuracy difference")
    return Table("Engines with the same settings and seed", columns, rows)


def settings(records: Sequence[Record]) -> Table:
    """The flags in which the runs differ."""
    ours = [record for record in records if record.config]
    rows = [(f"--{name}", *map(str, values)) for name, values in differing_settings(ours).items()]
    return Table("Settings that differ", ("flag", *(record.name for record in ours)), rows)


def environments(records: Sequence[Record]) -> Table:
    """Where the runs ran, and in which versions."""
    ours = [record for record in records if record.environment]
    names = dict.fromkeys(name for record in ours for name in record.environment)
    rows = [(name, *(str(record.environment.get(name, "")) for record in ours)) for name in names]
    return Table("Hardware and versions", ("", *(record.name for record in ours)), rows)


def notes(records: Sequence[Record]) -> Table:
    """What a reader should know of single runs."""
    return Table("Notes", ("run", ""), [(record.name, note) for record in records for note in record.notes])


# --- in which form


def as_markdown(records: Sequence[Record], picture: str) -> str:
    """The report as Markdown that shows the file `picture`."""
    parts = [f"# {headline(records)}", f"![Curves]({picture})"]
    for table in tables(records):
        cell = lambda text: text.replace("|", "\\|")
        lines = [f"## {table.title}", "", *(["", table.note, ""] if table.note else [])]
        lines += [f"| {' | '.join(map(cell, table.columns))} |", "|" + "---|" * len(table.columns)]
        lines += [f"| {' | '.join(map(cell, row))} |" for row in table.rows]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def as_html(records: Sequence[Record]) -> str:
    """The report as one page."""
    figures = "".join(f"<figure>{svg}</figure>" for svg in curves.svgs(records).values())
    sections = "".join(as_section(table) for table in tables(records))
    page = string.Template(PAGE.read_text())
    return page.substitute(title=html.escape(headline(records)), figures=figures, sections=sections)


def as_section(table: Table) -> str:
    """One table as HTML; it scrolls by itself where it is wider than the screen."""
    row = lambda cells, tag: "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"
    note = f"<p>{html.escape(table.note)}</p>" if table.note else ""
    body = "".join(row(cells, "td") for cells in table.rows)
    return (
        f"<section><h2>{html.escape(table.title)}</h2>{note}<div class=wide><table><thead>{row(table.columns, 'th')}"
        f"</thead><tbody>{body}</tbody></table></div></section>"
    )


def headline(records: Sequence[Record]) -> str:
    """What the runs have in common."""
    names = dict.fromkeys(record.framework for record in records)
    runs = records[0].name if len(records) == 1 else f"{len(records)} runs"
    return f"{runs}: {', '.join(names)}"


if __name__ == "__main__":
    main()
