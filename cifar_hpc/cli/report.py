"""`cifar-hpc report` and `compare`: print tables and write the report folder. They compute and draw nothing themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from cifar_hpc.cli.speech import ONE_NAME, say
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.plans import read_plan
from cifar_hpc.status.names import parse_words
from cifar_hpc.sweep.accounting import look_up
from cifar_hpc.sweep.where import reader_of
from cifar_hpc.terminal.tables import Format, heading, plain_columns, print_columns, print_records

if TYPE_CHECKING:
    from cifar_hpc.report.asked import TrialReport


class Exported(StrEnum):
    """The tools that `report --export` writes for."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"


def report(
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[SWEEP|TRIAL|FILTER...]",
            help="none: all trials; mysweep lr>1e-3; of SWEEP#3 or an id: its best trial's page",
        ),
    ] = None,
    format: Annotated[Format, typer.Option(help="the form on stdout; all but table only print")] = Format.TABLE,
    top: Annotated[int, typer.Option(min=1, help="rows of the table in the terminal")] = 25,
    pivot: Annotated[
        str | None, typer.Option(metavar="ROWS/COLUMNS", help="only print the best configurations by axes: arch/freeze,augment")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="renew table and page while trials run or wait")] = False,
    serve: Annotated[
        int | None, typer.Option(metavar="PORT", help="--watch, and show the page at 127.0.0.1:PORT until Ctrl-C; 0: any port")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
    export: Annotated[Exported | None, typer.Option(help="only write the trials for that tool, beside the page")] = None,
) -> None:
    """Rank the configurations of sweeps by validation over seeds, and write a page with figures; or show one trial."""
    from cifar_hpc.collect.names import find_trial, means_one

    layout = Layout(results_root())
    asked = parse_words(words)
    names, terms = list(asked.names), asked.terms
    of_sweeps = {"--export": export is not None, "--pivot": pivot is not None, "--watch": watch, "--serve": serve is not None}
    given = [option for option, is_given in of_sweeps.items() if is_given]
    if not given:
        _print_report(layout, words, names, format, top, open_=open_)
    elif means_one(layout, asked):
        find_trial(layout, words or ())  # a name that means nothing is told as that
        raise CifarHpcError(f"{given[0]} is for sweeps, and {' '.join(words or ())} names one configuration or trial")
    elif export is not None:
        _export(layout, names, terms, export)
    elif pivot is not None:
        _print_pivot(layout, names, terms, pivot, format)
    else:
        from cifar_hpc.report.watching import watch_report

        watch_report(layout, names, terms, top, serve, lambda: SlurmQueue(layout.queue), lambda: _account(layout, names))


def compare(
    one: Annotated[str, typer.Argument(metavar="NAME", help=ONE_NAME)],
    other: Annotated[str, typer.Argument(metavar="NAME", help="the one to compare it with")],
) -> None:
    """Compare two configurations, with all their seeds, on the same images: the difference, how sure it is, and accuracy class
    by class."""
    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.names import find_named
    from cifar_hpc.collect.scan import scan
    from cifar_hpc.report.comparison_table import comparison_lines, comparison_table
    from cifar_hpc.report.in_terminal import prose

    layout = Layout(results_root())
    found = [find_named(layout, name) for name in (one, other)]
    ids = [named.row.point_id for named in found]
    if ids[0] == ids[1]:
        raise CifarHpcError(f"compare takes two different configurations; {one!r} and {other!r} are the same one")
    sweeps = {named.sweep for named in found}
    pool = scan(layout, [sweep for sweep in sweeps if sweep] if len(sweeps) == 1 else [])
    both = make_leaderboard(pool.where(lambda trial: trial.point_id in ids))  # named by what tells these two apart
    by_id = {row.point_id: row for row in both.measured}
    for name, named in zip((one, other), found, strict=True):
        if named.row.point_id not in by_id:
            trained_on_all = named.row.config.get("dataset.val_frac") == 0
            why = (
                "held out no validation images: none tells how it compares"
                if trained_on_all
                else "has no figure on validation that counts"
            )
            raise CifarHpcError(f"compare: {name} {why}")
    rows = (by_id[ids[0]], by_id[ids[1]])
    if len({row.config.get("classifier", "linear") == "linear" for row in rows}) > 1:
        # What steers training tells the one that trains from others of its sweep, and not from one that does not.
        rows = (replace(rows[0], axes=found[0].row.all_axes), replace(rows[1], axes=found[1].row.all_axes))
    if rows[0].label == rows[1].label:  # of two data sets, which no axis tells apart
        rows = (replace(rows[0], axes={"name": one}), replace(rows[1], axes={"name": other}))
    (title, table), lines = comparison_table(*rows, layout), comparison_lines(*rows, layout)  # before anything is printed
    prose().print(title, markup=False)
    print_columns(table)
    for line in lines:
        prose().print(line, markup=False)


def _print_report(
    layout: Layout, words: Sequence[str] | None, names: Sequence[str], format: Format, top: int, *, open_: bool
) -> None:
    from cifar_hpc.report.asked import TrialReport, asked_report
    from cifar_hpc.report.in_terminal import print_answers, print_sections, print_state, prose, sections_text, show_page

    _account(layout, names)
    report, console = asked_report(layout, words, SlurmQueue(layout.queue)), prose()
    if isinstance(report, TrialReport):
        _print_trial(report, format)
    elif format is Format.TABLE:
        print_sections(report.sections, top, console)
        print_answers(report.findings, console)
    else:
        typer.echo(sections_text(format, report.sections), nl=False)
        for section in report.sections:
            print_state(section, console)
    if format is Format.TABLE:
        show_page(report.write(), console, opened=open_)


def _account(layout: Layout, names: Sequence[str]) -> None:
    """Brings up to date what the cluster's accounting says of these sweeps, which the report tells."""
    for name in names:
        if layout.has_sweep(name):
            look_up(layout, name, reader_of(layout, read_plan(layout, name)).read)


def _print_trial(report: TrialReport, format: Format) -> None:
    from cifar_hpc.report.in_terminal import prose
    from cifar_hpc.report.trial_page import trial_summary, trial_tables

    told = report.trial, report.found, report.split
    if format in (Format.JSON, Format.CSV):
        print_records([{"class": name, **asdict(scores)} for name, scores in report.found.scores.items()], format)
    else:
        classes = trial_tables(*told)[0]
        print_columns(plain_columns(classes.header, classes.rows), format)
    for line in trial_summary(*told, seen=report.trial.trial_id in report.pool.seen):
        prose().print(line, markup=False)


def _export(layout: Layout, names: list[str], terms: str, to: Exported) -> None:
    from cifar_hpc.collect.chosen import chosen_pool
    from cifar_hpc.collect.leaderboard import make_leaderboard
    from cifar_hpc.collect.sections import make_sections
    from cifar_hpc.report.caveats import left_out
    from cifar_hpc.report.export import Tracker, export_pool
    from cifar_hpc.report.places import report_folder

    pool = chosen_pool(layout, names, terms, SlurmQueue(layout.queue))
    shown = [section.pool for section in make_sections(pool, layout)]  # without what its own predictions contradict
    ids = {trial.trial_id for part in shown for trial in part.trials}
    rejected = tuple(dict.fromkeys(one for part in shown for one in part.rejected))
    pool = replace(pool.where(lambda trial: trial.trial_id in ids), rejected=rejected)
    folder = report_folder(layout, pool.sweeps, terms) / to.value
    typer.echo(export_pool(pool, make_leaderboard(pool), folder, Tracker(to.value)))
    for line in (*pool.notes, *left_out(pool)):
        say(line)


def _print_pivot(layout: Layout, names: list[str], terms: str, axes: str, format: Format) -> None:
    from cifar_hpc.collect.sections import chosen_sections
    from cifar_hpc.report.comparisons import asked_pivot, axes_of
    from cifar_hpc.report.in_terminal import prose

    tables = asked_pivot(chosen_sections(layout, names, terms, SlurmQueue(layout.queue)), axes)
    if format in (Format.JSON, Format.CSV):
        records = [
            {"split": split, **dict(zip(table.header, row, strict=True))}
            for split, table in tables.items()
            for row in table.rows
        ]
        print_records(records, format, ["split", *(title for table in tables.values() for title in table.header)])
        return
    for number, table in enumerate(tables.values()):
        typer.echo(("\n" if number else "") + heading(table.title, format))
        print_columns(plain_columns(table.header, table.rows, len(axes_of(axes)[0])), format)
        prose().print(table.note, markup=False)
