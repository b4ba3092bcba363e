"""A report that is written again while trials run: when, and for how long; where it is served meanwhile."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from cifar_hpc.collect.chosen import chosen_pool
from cifar_hpc.collect.sections import chosen_sections
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.asked import SweepsReport
from cifar_hpc.report.in_terminal import print_sections, prose
from cifar_hpc.report.places import report_folder
from cifar_hpc.report.server import serve
from cifar_hpc.status.state import Queue, is_going_on

POLL_EVERY_S = 10.0  # at the records; the page in a browser reloads as often


def watch_report(
    layout: Layout,
    names: Sequence[str],
    terms: str,
    top: int,
    port: int | None,
    queue: Callable[[], Queue],
    account: Callable[[], None],
) -> None:
    """The report again whenever a record changed, until no trial trains or waits, or Ctrl-C; with a port also served, and
    renewed until Ctrl-C, whoever goes on with the sweep meanwhile.

    queue: makes who is asked about the jobs of other machines; account: brings what a cluster has counted up to date. Raises as
    chosen_pool and serve.
    """
    address: str | None = None

    def renew(seen: object) -> tuple[object, bool]:
        pool = chosen_pool(layout, list(names), terms, queue())
        coming = is_going_on(layout, pool.unfinished, pool.sweeps)
        now = (coming, len(pool.trials), *((trial.trial_id, trial.status, trial.epochs) for trial in pool.unfinished))
        if now != seen:
            account()
            report, console = SweepsReport(layout, chosen_sections(layout, names, terms, queue()), terms), prose()
            if console.is_terminal:
                console.clear()
            print_sections(report.sections, top, console)
            page = report.write(refresh_s=POLL_EVERY_S if coming or address else None)
            console.print(
                f"{address}/" if address else str(page), markup=False, soft_wrap=True
            )  # alone on its line, as terminals open it
            console.print(time.strftime("%H:%M:%S") + ("; Ctrl-C ends" if coming or address else ""), markup=False)
        return now, coming

    with contextlib.suppress(KeyboardInterrupt):
        if port is None:
            _repeat(renew, for_ever=False)
            return
        with serve(report_folder(layout, tuple(dict.fromkeys(names)), terms), port) as address:
            _repeat(renew, for_ever=True)
    SweepsReport(
        layout, chosen_sections(layout, names, terms, queue()), terms
    ).write()  # what stays is no page that renews itself


def _repeat(renew: Callable[[Any], tuple[Any, bool]], *, for_ever: bool) -> None:
    """Calls renew(seen) until it says that no trial trains or waits, or for ever. It returns what it saw, given back at the
    next call so that it may skip what has not changed, and whether trials do."""
    seen, coming = renew(None)
    while coming or for_ever:
        time.sleep(POLL_EVERY_S)
        seen, coming = renew(seen)
