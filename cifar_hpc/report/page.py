"""index.html: one file that needs nothing else, from findings and drawings. The look is in page.html.j2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cifar_hpc.collect.leaderboard import Leaderboard, Row
from cifar_hpc.collect.trials import Trial
from cifar_hpc.records.store import utc_now, write_atomic
from cifar_hpc.report import summary
from cifar_hpc.report.figures import Drawing, page_svg
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.tables import Column, leaderboard_columns
from cifar_hpc.status.words import percent_text
from cifar_hpc.terminal.tables import TextColumn, to_csv, to_markdown

_MOST_SVG = 4_000_000  # characters of figures in the page; the others are linked
_WIDE_IN = 7.0


@dataclass(frozen=True, slots=True)
class PageTable:
    """A small table under the figures, as text."""

    anchor: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the leaderboard; key: what it sorts by."""

    text: str
    key: float | str | None
    right: bool


@dataclass(frozen=True, slots=True)
class PageRow:
    """One point. style: tied, empty or none; trials: how many it has."""

    cells: Sequence[Cell]
    style: str
    trials: int


def render_page(
    found: Findings,
    drawings: Sequence[Drawing],
    tables: Sequence[PageTable],
    files: Sequence[str],
    *,
    title: str,
    root: str,
    refresh_s: float | None = None,
) -> str:
    """The page of sweeps. root: the results folder as seen from the page's own; files: names beside the page to link."""
    columns = [*leaderboard_columns(found.board)]
    after = next(i for i, column in enumerate(columns) if column.title == "val acc %") + 1
    columns[after:after] = _certainty_columns(found)
    return render(
        title=title,
        progress=summary.progress_text(found.pool, found.board),
        summary=summary.headline(found),
        drawings=drawings,
        tables=tables,
        trials=found.pool.trials,
        root=root,
        failures=summary.failures(found.pool.unfinished),
        caveats=summary.caveats(found.pool, found.board),
        columns=columns,
        rows=[_page_row(row, columns, found) for row in found.board.rows],
        points=[_trials(row) for row in found.board.rows],
        files=files,
        refresh_s=refresh_s,
    )


def render(
    *,
    title: str,
    progress: str,
    summary: Sequence[str],
    drawings: Sequence[Drawing],
    tables: Sequence[PageTable],
    trials: Sequence[Trial],
    root: str,
    failures: Sequence[str] = (),
    caveats: Sequence[str] = (),
    columns: Sequence[Column] = (),
    rows: Sequence[PageRow] = (),
    points: Sequence[Any] = (),
    files: Sequence[str] = (),
    refresh_s: float | None = None,
) -> str:
    """Any page of the house: words, a leaderboard where there are rows, figures, tables. refresh_s: it loads itself again."""
    environment = Environment(
        loader=PackageLoader("cifar_hpc.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    shown, more = _fitting(drawings)
    return environment.get_template("page.html.j2").render(
        title=title,
        written=utc_now()[:16].replace("T", " ") + " UTC",
        progress=progress,
        refresh_s=refresh_s,
        summary=summary,
        failures=failures,
        caveats=caveats,
        columns=columns,
        rows=rows,
        figures=shown,
        more=more,
        tables=tables,
        files=files,
        hardware=", ".join(sorted({f"{t.hardware} ({t.precision})" for t in trials})) or "nothing yet",
        versions=", ".join(sorted({f"{t.version} ({t.commit[:10]})" if t.commit else t.version for t in trials})) or "-",
        data=_json({"root": root, "points": points, "refresh_s": refresh_s}),
    )


def save_tables(tables: Sequence[PageTable], folder: Path) -> None:
    """<anchor>.csv and <anchor>.md of each; tables of an earlier report that are none of these are removed."""
    for table in tables:
        columns = [TextColumn(title, tuple(row[i] for row in table.rows)) for i, title in enumerate(table.header)]
        records = [dict(zip(table.header, row, strict=True)) for row in table.rows]
        for suffix, text in ((".csv", to_csv(records)), (".md", to_markdown(columns))):
            write_atomic(folder / f"{table.anchor}{suffix}", lambda stream, text=text: stream.write(text.encode()))  # type: ignore[misc]
    names = {table.anchor for table in tables}
    for path in folder.glob("*.*"):
        if path.suffix in (".csv", ".md") and path.stem not in names:
            path.unlink()


def _certainty_columns(found: Findings) -> list[Column]:
    def interval(row: Row) -> str:
        estimate = row.val_acc
        if estimate is None or estimate.low is None or estimate.high is None:
            return ""
        return f"{100 * max(estimate.low, 0):.1f} to {100 * min(estimate.high, 1):.1f}"

    def behind(row: Row) -> str:
        difference = found.comparison and found.comparison.differences.get(row.point_id)
        return f"{100 * difference.difference:.2f} (p {summary.p_text(difference.p_value)})" if difference else ""

    def behind_key(row: Row) -> float | None:
        difference = found.comparison and found.comparison.differences.get(row.point_id)
        return difference.difference if difference else None

    columns = [
        Column("interval", interval, lambda row: row.val_acc.low if row.val_acc else None),
        Column("behind", behind, behind_key),
    ]
    return [column for column in columns if any(column.text(row) for row in found.board.rows)]


def _page_row(row: Row, columns: Sequence[Column], found: Findings) -> PageRow:
    tied = found.comparison is not None and found.comparison.tied(row.point_id)
    mark = " ◆" if row.pareto else ""
    cells = [
        Cell(column.text(row) + (mark if column.title == "time" else ""), column.key(row), column.right) for column in columns
    ]
    seeds = len(row.trials) + len(row.failed) + len(row.unfinished)
    return PageRow(cells, "tied" if tied else "" if row.score else "empty", seeds)


def _trials(row: Row) -> list[tuple[str, int, str, str]]:
    """(id, seed, what became of it, job) for each trial of the point."""
    found = []
    for trial in row.trials:
        measured = [f"{name} {100 * acc:.2f} %" for name in ("val", "test") if (acc := trial.metric(f"{name}_acc")) is not None]
        found.append((trial.trial_id, trial.seed, ", ".join(measured) or trial.reason, trial.job))
    found += [
        (t.trial_id, t.seed, f"{t.status}: {t.reason}" if t.reason else str(t.status), "")
        for t in (*row.failed, *row.unfinished)
    ]
    return found


def _fitting(drawings: Sequence[Drawing]) -> tuple[list[dict[str, Any]], list[str]]:
    """The figures that the page shows, and the names of those that would make it too big."""
    shown: list[dict[str, Any]] = []
    more: list[str] = []
    size = 0
    for drawing in drawings:
        svg = "" if size > _MOST_SVG else page_svg(drawing)
        size += len(svg)
        if not svg or size > _MOST_SVG:
            more.append(drawing.name)
            continue
        wide = drawing.figure.get_figwidth() > _WIDE_IN
        shown.append(
            {"name": drawing.name, "title": drawing.title, "caption": drawing.caption, "svg": Markup(svg), "wide": wide}
        )
    return shown, more


def _json(data: Any) -> Markup:
    """JSON that no browser takes for markup."""
    return Markup(json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))


def ledger_table(found: Findings) -> PageTable:
    """Hours by outcome, then what killed attempts lost beside them and what cohorts saved."""
    ledger = found.ledger
    entries = [
        *sorted(ledger.by_outcome.items(), key=lambda item: -item[1].hours),
        *(((device, "lost to preemption, not in the above"), entry) for device, entry in ledger.lost.items()),
        *(((device, "saved by cohorts, not in the above"), entry) for device, entry in ledger.saved.items()),
    ]
    rows = [
        ("GPU" if device == "cuda" else device.upper(), outcome, f"{entry.trials:,}", summary.hours_text(entry.hours))
        for (device, outcome), entry in entries
    ]
    notes = []
    if ledger.reused.trials:
        reused = summary.hours_text(ledger.reused.hours)
        notes.append(f"{ledger.reused.trials} of these trials were trained by other sweeps: {reused} hours saved.")
    if ledger.lost:
        notes.append("Lost: training since the last checkpoint of attempts that were killed, whoever killed them.")
    if ledger.saved:
        notes.append("Saved: batches drawn and passed through frozen blocks once for all, in training alone: at least so much.")
    return PageTable("ledger", "Ledger", ("device", "outcome", "trials", "hours"), rows, " ".join(notes))


def ensemble_tables(found: Findings) -> list[PageTable]:
    """Every ensemble beside its best member, and greedy's weights; nothing where there are no ensembles."""
    ensembles = found.ensembles
    if ensembles is None:
        return []
    best = ensembles.best
    header = ("method", "members", "val acc %", "val against the best", "test acc %", "test against the best")
    rows = [("best member", "1", percent_text(best.val_acc), "", percent_text(best.test_acc), "")]
    for one in (*ensembles.measured, *ensembles.soups):
        record = one.record
        val, test = (summary.difference_text(difference) for difference in (one.val, one.test))
        size = str(len(record.members))
        rows.append((record.method, size, percent_text(record.val_acc), val, percent_text(record.test_acc), test))
    note = (
        f"From {ensembles.members} trials. Members and weights are chosen on validation; an ensemble's validation accuracy is"
        " nested (chosen on four fifths, measured on the fifth), so it is fair; the best member's is the best of many. Test was"
        " measured once. p: McNemar on the same images. Files: ensembles/METHOD.json."
    )
    weights = [
        (one.record.method, member.trial_id, f"{100 * member.weight:.1f}", f"{member.temperature:.2f}")
        for one in ensembles.measured
        if one.record.method == "greedy" and len(one.record.members) > 1
        for member in one.record.members
    ]
    weights_table = PageTable("weights", "Greedy's weights", ("method", "trial", "weight %", "temperature"), weights)
    return [PageTable("ensembles", "Ensembles", header, rows, note), *([weights_table] if weights else [])]


def title_of(board: Leaderboard, sweeps: Sequence[str]) -> str:
    """The page's title."""
    return ", ".join(sweeps) if sweeps else f"All trials ({len(board.rows)} points)"
