"""index.html: one file that needs nothing else, from findings and drawings. page.html.j2 is its look, page.js what it does."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files as package_files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.trials import Trial
from cifar_hpc.records.layout import Layout
from cifar_hpc.records.store import utc_now
from cifar_hpc.records.ties import files_of
from cifar_hpc.report import caveats, summary
from cifar_hpc.report.explore import explorable
from cifar_hpc.report.figures import BEYOND, Drawing, calm_limits, page_svg, theme_css
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.next_seed import NextSeed, next_seed
from cifar_hpc.report.page_tables import PageTable
from cifar_hpc.report.places import trial_folder
from cifar_hpc.report.tables import Column, best_epoch_text, gap_text, leaderboard_columns, params_text
from cifar_hpc.report.words import (
    how_trained,
    interval_words,
    means_words,
    overlap_words,
    p_text,
    test_of,
    these_networks,
    words_of,
)
from cifar_hpc.status.words import decimals_of, fixed_text, score_text

_MOST_SVG = 4_000_000  # characters of figures in the page; the others are linked
_WIDE_IN = 7.0
_PRINTED = (
    200  # rows of a leaderboard for a reader without scripts and for a printer; a browser makes the others as it shows them
)
_FOLDED = ("gap", "trained", "best epoch")  # columns that stand in a row's details


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the leaderboard. key: what it sorts by; under: a second, smaller line."""

    text: str
    key: float | str | None
    right: bool
    under: str = ""


@dataclass(frozen=True, slots=True)
class PageRow:
    """One point. style: tied, empty, both or none; details: what stands in the row that opens below it, as JSON."""

    cells: Sequence[Cell]
    style: str
    trials: int
    details: Any


@dataclass(frozen=True, slots=True)
class Part:
    """What a page says of one data set and split, or of one trial. number of the leaderboard's columns that stay in sight."""

    name: str
    summary: Sequence[str]
    drawings: Sequence[Drawing]
    tables: Sequence[PageTable]
    trials: Sequence[Trial]
    progress: str = ""
    to_come: bool = False
    failures: Sequence[str] = ()
    caveats: Sequence[str] = ()
    columns: Sequence[Column] = ()
    rows: Sequence[PageRow] = ()
    shading: str = ""
    covers: str = ""
    runs: str = "seeds"
    dots: str = ""
    next_seed: NextSeed | None = None
    explore: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = field(default=())


def make_part(
    found: Findings, drawings: Sequence[Drawing], tables: Sequence[PageTable], layout: Layout, root: str, *, drawn: bool
) -> Part:
    """root: the results folder as seen from the page's own; drawn: whether figures were to be drawn."""
    columns = [column for column in leaderboard_columns(found.board) if column.title not in _FOLDED]
    undrawn = "Figures are drawn for the first data sets and splits only; a report with a filter for these alone draws theirs."
    after = ["time, after: the mean of a trial, and of those whose networks it starts from; ◆ counts both."]
    beside = ["time: of trials that trained side by side, each one's part."]
    return Part(
        name=found.name,
        summary=summary.headline(found),
        drawings=drawings,
        tables=tables,
        trials=found.pool.trials,
        progress=caveats.progress_text(found.pool, found.board),
        to_come=found.pool.to_come > 0 or any(row.unfinished for row in found.board.rows),
        failures=caveats.failures(found.pool.unfinished),
        caveats=caveats.caveats(found.pool, found.board),
        columns=columns,
        rows=[_page_row(row, columns, found, layout, root) for row in found.board.rows],
        shading=_shading(found),
        covers=caveats.covers_text(found.pool.trials) if found.board.measured else "",
        runs=found.board.runs,
        dots=_dots_text(found),
        next_seed=next_seed(found, layout),
        explore=explorable(found.pool, found.board),
        notes=[
            *(after if any(row.begun for row in found.board.rows) else []),
            *(beside if any(t.trunk_shared_by > 1 for row in found.board.rows for t in row.trials) else []),
            *([] if drawn or not found.board.measured else [undrawn]),
        ],
    )


def render_page(
    parts: Sequence[Part],
    files: Sequence[str],
    *,
    title: str,
    refresh_s: float | None = None,
    links: Sequence[tuple[str, str]] = (),
) -> str:
    """Any page of the house: words, a leaderboard where there are rows, figures, tables. files: names beside the page to link;
    links: (address, words) of other pages; refresh_s: it loads itself again so often."""
    environment = Environment(
        loader=PackageLoader("cifar_hpc.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["sentence"] = _sentence
    trials, written = [trial for part in parts for trial in part.trials], utc_now()
    shown, more = _fitting([part.drawings for part in parts])
    return environment.get_template("page.html.j2").render(
        title=title,
        written=written[:16].replace("T", " ") + " UTC",
        to_come=any(part.to_come for part in parts),
        refresh_s=refresh_s,
        parts=parts,
        figures=shown,
        more=more,
        files=files,
        links=links,
        theme_css=Markup(theme_css()),
        hardware=", ".join(sorted({f"{t.hardware} ({t.precision})" for t in trials})),
        versions=", ".join(sorted({f"{t.version} ({t.commit[:10]})" if t.commit else t.version for t in trials})),
        printed=_PRINTED,
        library=_script("vendor/echarts.js") if any(part.explore for part in parts) else "",
        script=_script("page.js"),
        data=_json({"parts": [_part_data(part) for part in parts], "refresh_s": refresh_s, "written": written}),
    )


def _shading(found: Findings) -> str:
    """What the shaded rows are, and those with a mark; empty where none is."""
    test = found.comparison and found.comparison.test
    shaded = f"Shaded: the best, and those that cannot be told from it at the 5 % level ({test})."
    front = "◆: no other configuration that was measured in full is better and as fast to train, or faster and as good."
    return " ".join([*([shaded] if test else []), *([front] if any(row.pareto for row in found.board.rows) else [])])


def _dots_text(found: Findings) -> str:
    """What the dots are."""
    board = found.board
    test = ", ◇ test" if any(test_of(row, board.info) for row in board.measured) else ""
    what = f"{means_words(board)}, {interval_words(board)}"
    beyond = BEYOND if calm_limits(board.measured, board.info) else ""
    return f"● validation{test}: {what}; in the order of the table.{overlap_words(found.comparison, board.measured)}{beyond}"


def _page_row(row: Row, columns: Sequence[Column], found: Findings, layout: Layout, root: str) -> PageRow:
    comparison = found.comparison
    shaded = comparison and comparison.test and comparison.decision(row.point_id) in ("best", "tied")
    cells = [
        Cell(
            column.text(row) + (" ◆" if row.pareto and column.title.endswith("time") else ""),
            column.key(row),
            column.right,
            column.under(row),
        )
        for column in columns
    ]
    details = {"facts": _facts(row, found), "trials": _trials(row, layout, root)}
    styles = (*(["empty"] if row.score is None or row.partial else []), *(["tied"] if shaded else []))
    return PageRow(cells, " ".join(styles), row.runs_n, details)


def _facts(row: Row, found: Findings) -> list[str]:
    """What a row's details say beside its trials."""
    facts = [words_of(row)]
    comparison = found.comparison
    difference = comparison.differences.get(row.point_id) if comparison else None
    if difference is not None:
        info = found.board.info
        unit, noun = (100, "pp") if info.share else (1, f"of {info.noun}")
        digits = decimals_of(difference.images, share=info.share)
        networks = f"of {these_networks(found.board.measured[0], row)}, on these images"
        whom = networks if difference.networks else "behind the best"
        interval = f", so few {found.board.runs} tell no interval" if difference.too_few else ""
        if difference.low is not None and difference.high is not None:
            interval = f", {fixed_text(unit * difference.low, digits)} to {fixed_text(unit * difference.high, digits)}"
        facts.append(
            f"{fixed_text(unit * difference.difference, digits)} {noun} {whom} (p {p_text(difference.p_value)}{interval})"
        )
    elif comparison and row.point_id in comparison.untested:
        facts.append(f"not tested against the best: {comparison.untested[row.point_id]}")
    if row.gap is not None:
        facts.append(f"training {gap_text(row)} pp above validation{how_trained(row.config)}")
    if row.trials:
        facts.append(f"{params_text(row)} parameters trained")
    if epoch := best_epoch_text(row):
        facts.append(f"best epoch {epoch}")
    return facts


def _trials(row: Row, layout: Layout, root: str) -> list[tuple[str, str, str, str, str]]:
    """(id, address, what became of it, job, address of its logs) for each trial of the point."""
    found = []
    for trial in row.trials:
        scores = (("val", trial.metric("val_acc"), trial.val_n), ("test", trial.metric("test_acc"), trial.test_n))
        measured = [f"{name} {score_text(acc, n)} %" for name, acc, n in scores if acc is not None]
        page = f"report/{trial_folder(layout, trial).name}/index.html"
        address = f"{root}/{page if _has_page(layout, trial) else f'trials/{trial.trial_id}/'}"
        text = f"{trial.run}: {', '.join(measured) or trial.reason}"
        found.append((trial.trial_id, address, text, trial.job, f"{root}/{trial.job.split('/')[0]}/logs/"))
    for trial in row.contradicted:
        text = f"{trial.run}: left out, its predictions give other numbers than its record"
        found.append(
            (trial.trial_id, f"{root}/trials/{trial.trial_id}/", text, trial.job, f"{root}/{trial.job.split('/')[0]}/logs/")
        )
    for other in (*row.failed, *row.lost, *row.unfinished):
        text = f"{other.run}: {other.status}{f': {other.reason}' if other.reason else ''}"
        found.append((other.trial_id, f"{root}/trials/{other.trial_id}/", text, "", ""))
    return found


def _has_page(layout: Layout, trial: Trial) -> bool:
    """Whether the trial has a page that was written since it ended: one that a search had stopped may have trained on."""
    try:
        page = (trial_folder(layout, trial) / "index.html").stat()
        return page.st_mtime_ns >= files_of(layout, trial).result.stat().st_mtime_ns
    except OSError:
        return False


def _fitting(drawings: Sequence[Sequence[Drawing]]) -> tuple[list[list[dict[str, Any]]], list[list[str]]]:
    """The figures that the page shows, part by part, and the names of those that would make it too big."""
    shown: list[list[dict[str, Any]]] = []
    more: list[list[str]] = []
    size = 0
    for part in drawings:
        shown.append([])
        more.append([])
        for drawing in part:
            svg = "" if size > _MOST_SVG else page_svg(drawing)
            size += len(svg)
            if not svg or size > _MOST_SVG:
                more[-1].append(drawing.name)
                continue
            wide = drawing.figure.get_figwidth() > _WIDE_IN
            facts = {"name": drawing.name, "title": drawing.title, "caption": drawing.caption}
            shown[-1].append({**facts, "svg": Markup(svg), "wide": wide})
    return shown, more


def _part_data(part: Part) -> dict[str, Any]:
    """What page.js makes the leaderboard and the charts of: (cells, style, trials, details) a row."""
    rows = [([_cell_data(cell) for cell in row.cells], row.style, str(row.trials), row.details) for row in part.rows]
    return {"rows": rows, "ids": [point[0] for point in part.explore.get("points", ())], "explore": part.explore or None}


def _cell_data(cell: Cell) -> Any:
    """[text, key, what stands under it]; the text alone where it is its own key."""
    key = None if isinstance(cell.key, float) and not math.isfinite(cell.key) else cell.key
    if cell.under:
        return [cell.text, key, cell.under]
    return cell.text if key == cell.text else [cell.text, key]


def _sentence(text: str) -> Markup:
    """What stands between backticks, which a terminal shows as they are, is code on a page."""
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if number % 2 else part for number, part in enumerate(text.split("`"))
    )


def _script(name: str) -> Markup:
    return Markup(package_files("cifar_hpc.report").joinpath(name).read_text(encoding="utf-8"))


def _json(data: Any) -> Markup:
    """JSON that no browser takes for markup."""
    return Markup(json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c"))
