"""The small tables under a page's figures: the ledger, the ensembles; and how a table becomes files. Formats numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.trials import Trial
from cifar_hpc.records.schema import EnsembleRecord
from cifar_hpc.records.store import write_text
from cifar_hpc.report.findings import Findings
from cifar_hpc.report.words import LOST, difference_text, words_of
from cifar_hpc.status.words import duration_text, hours_text, score_text
from cifar_hpc.terminal.harmless import to_csv_text
from cifar_hpc.terminal.tables import left_columns, to_markdown


@dataclass(frozen=True, slots=True)
class PageTable:
    """A small table under the figures, as text."""

    anchor: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def save_tables(tables: Sequence[PageTable], folder: Path) -> None:
    """<anchor>.csv and <anchor>.md of each; tables of an earlier report that are none of these are removed."""
    for table in tables:
        columns = left_columns(table.header, table.rows)
        for suffix, text in ((".csv", to_csv_text([table.header, *table.rows])), (".md", to_markdown(columns))):
            write_text(folder / f"{table.anchor}{suffix}", text)
    names = {table.anchor for table in tables}
    for path in folder.glob("*.*"):
        if path.suffix in (".csv", ".md") and path.stem not in names:
            path.unlink()


def running_table(found: Findings) -> list[PageTable]:
    """What trains now and how far it is; none where nothing does."""
    rows = []
    for row in found.board.rows:
        for trial in (trial for trial in row.unfinished if trial.running):
            last, wanted = trial.running[-1], int(row.config["epochs"] or 1)  # one that is solved has one
            epoch_s = sum(epoch.train_s + epoch.val_s for epoch in trial.running) / len(trial.running)
            val = found.board.measured[0].val_acc if found.board.measured else None
            acc = score_text(last.val_acc, val.images if val else None)
            took_s = (epoch_s, epoch_s * max(wanted - last.epoch, 0)) if trial.shared_by == 1 else (None, None)
            times = map(duration_text, took_s)
            rows.append((trial.trial_id, words_of(row), trial.run, f"{last.epoch} of {wanted}", acc, *times))
    header = ("trial", "configuration", "run", "epoch", "val acc %", "an epoch", "left")
    return (
        [PageTable("running", "Running now", header, rows, "left: at the mean of its epochs so far, at most.")] if rows else []
    )


def ledger_table(found: Findings) -> list[PageTable]:
    """Hours by outcome, then beside them what attempts lost, cohorts saved and other sweeps spent; empty where nothing ran."""
    ledger = found.ledger
    entries = [
        *sorted(ledger.by_outcome.items(), key=lambda item: -item[1].hours),
        *(
            ((device, f"{what}, not in the above"), entry)
            for what, beside in (
                (LOST, ledger.lost),
                ("saved by cohorts", ledger.saved),
                ("trained by other sweeps", ledger.reused),
            )
            for device, entry in beside.items()
        ),
    ]
    rows = [
        ("GPU" if device == "cuda" else device.upper(), outcome, f"{entry.trials:,}", hours_text(entry.hours))
        for (device, outcome), entry in entries
    ]
    notes = []
    if ledger.lost:
        notes.append("Lost: training since the last checkpoint of attempts that failed or were killed, whoever killed them.")
    if ledger.saved:
        notes.append(
            "Saved, at least: training batches were made and passed through frozen blocks once for all trials of a cohort."
        )
    columns = ("device", "outcome", "trials", "hours")
    return [PageTable("ledger", "Ledger", columns, rows, " ".join(notes))] if rows else []


_OF_FOLDS = (
    "; the networks of the folds of one run are one member: on validation each answers for the images that it did not train on,"
    " on test the mean of their probabilities counts"
)


_OF_SOUPS = (
    " A greedy soup is chosen on one half of the validation images and measured on the other, and the other way round; a"
    " uniform one takes all members."
)


def ensemble_tables(found: Findings) -> list[PageTable]:
    """Every ensemble beside its best member, and greedy's weights; nothing where there are no ensembles."""
    ensembles = found.ensembles
    if ensembles is None:
        return []
    best = ensembles.best
    header = ("method", "networks", "val acc %", "val against that member", "test acc %", "test against that member")
    scores = score_text(best.val_acc, best.val_n), score_text(best.test_acc, best.test_n)
    rows = [("most accurate member", str(ensembles.best_n), scores[0], "", scores[1], "")]
    trials = {trial.trial_id: (row, trial) for row in found.board.rows for trial in row.trials}
    for one in (*ensembles.measured, *ensembles.soups):
        record = one.record
        val, test = (difference_text(difference) for difference in (one.val, one.test))
        size = str(len(record.members))
        scores = score_text(record.val_acc, record.val_n), score_text(record.test_acc, record.test_n)
        rows.append((_method(record, trials), size, scores[0], val, scores[1], test))
    of_folds = _OF_FOLDS if ensembles.best_n > 1 else ""
    of_soups = _OF_SOUPS if ensembles.soups else ""
    if of_soups and ensembles.best.own_split:
        of_soups += (
            " Soups are measured on the images of their members' split, which may be others than those of the rows above."
        )
    note = (
        f"From {ensembles.trials} trials{of_folds}. Members and weights are chosen on validation: on a part of its images,"
        " and measured on the others, in turn, so that the choice does not flatter an ensemble's accuracy; that of the most"
        " accurate member is the highest of many, and flattered. Test was measured once and chooses nothing. p: McNemar's test"
        " on the same images, one-sided on validation; it speaks of these networks, not of their configurations."
        f" Files: ensembles/METHOD.json.{of_soups}"
    ) + "".join(f" Left out: {reason}." for reason in ensembles.left_out)
    weights = [
        (*_named(member.trial_id, trials), f"{100 * member.weight:.1f}", f"{member.temperature:.2f}", member.trial_id)
        for one in ensembles.measured
        if one.record.method == "greedy" and len(one.record.members) > 1
        for member in one.record.members
    ]
    titles = ("#", "configuration", "run", "weight %", "temperature", "trial")
    weights_table = PageTable("weights", "Greedy's weights", titles, weights)
    return [PageTable("ensembles", "Ensembles", header, rows, note), *([weights_table] if weights else [])]


def _method(record: EnsembleRecord, trials: Mapping[str, tuple[Row, Trial]]) -> str:
    """'uniform soup (best member: #3, seed 1)': a sweep has one of each method for each start."""
    number, _, run = _named(record.members[0].trial_id, trials)
    return f"{record.method} (best member: #{number}, {run})" if record.weights and number else record.method


def _named(trial_id: str, trials: Mapping[str, tuple[Row, Trial]]) -> tuple[str, str, str]:
    """A member's row in the leaderboard, its configuration and its seed in words; empty for one of another sweep."""
    if trial_id not in trials:
        return "", "", ""
    row, trial = trials[trial_id]
    return str(row.number or ""), words_of(row), trial.run
