"""`cifar-hpc soup`: average the weights of trials that started from one network, and keep the mean beside the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.cli.speech import say
from cifar_hpc.config.words import plural
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.store import replaced_whole
from cifar_hpc.status.names import parse_words
from cifar_hpc.status.words import score_text
from cifar_hpc.terminal.tables import Format, left_columns, print_rows

if TYPE_CHECKING:
    from cifar_hpc.collect.trials import Trial
    from cifar_hpc.records.schema import EnsembleRecord

HOW_TO_KEEP = (
    "`keep: weights` in the spec keeps those of trials that are still to run, `cifar-hpc reproduce TRIAL` brings back those "
    "of a finished one"
)


def soup(
    words: Annotated[list[str] | None, typer.Argument(metavar="[SWEEP|FILTER...]", help="none: all trials")] = None,
    wise: Annotated[
        bool,
        typer.Option("--wise", help="the most accurate trial of each start alone: between the start's weights and its own"),
    ] = False,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Average the weights of trials that have one pretrained start and kept theirs (`keep: weights`): uniform, greedy.

    With --wise, of the most accurate of them and of that network (WiSE-FT). What goes in is chosen by accuracy on
    validation; test is measured once. `predict` and `export` take their names; beside its ensembles `report` shows all but
    those of --wise.
    """
    from cifar_hpc.collect.leaderboard import SEEN
    from cifar_hpc.collect.names import ensemble_name
    from cifar_hpc.collect.sections import chosen_sections
    from cifar_hpc.deploy.soup import families_of, make_soups, save_soup
    from cifar_hpc.report.places import report_folder

    layout = Layout(results_root())
    asked = parse_words(words)
    pools = [section.pool for section in chosen_sections(layout, asked.names, asked.terms, SlurmQueue(layout.queue))]
    trials = _best_first(trial for pool in pools for trial in pool.trials)
    if contradicted_n := sum(layout.trial(trial.trial_id).weights.exists() for pool in pools for trial in pool.contradicted):
        say(f"left out: {plural(contradicted_n, 'trial')} whose predictions contradict the result")
    place = report_folder(layout, pools[0].sweeps, asked.terms)
    if seen_n := sum(layout.trial(one).weights.exists() for one in trials if any(one in pool.seen for pool in pools)):
        say(f"{plural(seen_n, 'trial')} ({SEEN}): their accuracy on validation, and that of what is made of them, is flattered")
    if wise:
        _print_curves(layout, trials, place, format)
        return
    families = families_of(map(layout.trial, trials))
    if not families:
        raise CifarHpcError(
            "no two of these trials have a figure on validation, kept weights, one pretrained start and the same images: "
            + HOW_TO_KEEP
        )
    folder = place / "soups"
    rows: list[dict[str, Any]] = []
    with replaced_whole(folder) as fresh:
        for number, family in enumerate(families, 1):
            best = trials[family[0].folder.name]
            rows.append(_row(best, "most accurate member", 1, best))
            for found in make_soups(family):
                stem = found.method if len(families) == 1 else f"{found.method}-{number}"
                record = save_soup(found, layout, fresh, stem)
                path = folder / f"{stem}.json"
                names = {"name": ensemble_name(layout, path), "file": str(path)}
                rows.append(_row(best, found.method, len(found.members), record) | names)
    titles = ("arch", "most accurate", "soup", "members", "val acc %", "test acc %", "name")
    print_rows(rows, left_columns(titles, list(map(_as_text, rows))), format)
    typer.echo(
        "what goes in is chosen by accuracy, whatever the objective; greedy's is nested: chosen on one half of the images,"
        " measured on the other",
        err=True,
    )


def _print_curves(layout: Layout, trials: Mapping[str, Trial], report: Path, format: Format) -> None:
    from cifar_hpc.collect.names import ensemble_name
    from cifar_hpc.deploy.soup import families_of, save_soup
    from cifar_hpc.deploy.wise import ALPHAS, find_curve

    families = families_of(map(layout.trial, trials), least=1)
    if not families:
        raise CifarHpcError(
            f"none of these trials has a figure on validation, a pretrained start and kept weights: {HOW_TO_KEEP}"
        )
    rows: list[dict[str, Any]] = []
    with replaced_whole(report / "wise") as fresh:
        for number, (files, *_) in enumerate(families, 1):
            best, curve = trials[files.folder.name], find_curve(files)
            stem = "wise" if len(families) == 1 else f"wise-{number}"
            record = save_soup(curve.soup, layout, fresh, stem)
            path = report / "wise" / f"{stem}.json"
            whose = {"trial": best.trial_id, "arch": str(best.config["arch"])}
            found = {
                "nested_val_acc": record.val_acc,
                "test_acc": record.test_acc,
                "test_n": record.test_n,
                "name": ensemble_name(layout, path),
                "file": str(path),
            }
            for alpha, acc in zip(ALPHAS, curve.val_accs, strict=True):
                here = found if alpha == curve.alpha else dict.fromkeys(found)
                rows.append({**whose, "alpha": alpha, "val_acc": acc, "val_n": record.val_n, **here})
            if not curve.whole:
                typer.echo(f"{best.trial_id}: its start has no classifier for these classes: the tuned one stays", err=True)
    titles = ("trial", "arch", "alpha", "val acc %", "nested %", "test acc %", "name")
    print_rows(rows, left_columns(titles, list(map(_curve_text, rows))), format)
    typer.echo("alpha 0: as training began, 1: the tuned weights; the one with a name was chosen on validation", err=True)


def _curve_text(row: Mapping[str, Any]) -> tuple[str, ...]:
    scores = [score_text(row["val_acc"], row["val_n"])]
    chosen = row["name"] is not None
    scores.append(score_text(row["nested_val_acc"], row["val_n"]) if chosen else "")
    scores.append(score_text(row["test_acc"], row["test_n"]) if chosen else "")
    return (row["trial"], row["arch"], f"{row['alpha']:.1f}", *scores, row["name"] or "")


def _best_first(trials: Iterable[Trial]) -> dict[str, Trial]:
    """By id, those measured on validation."""
    measured = [trial for trial in trials if trial.val_acc is not None]
    return {trial.trial_id: trial for trial in sorted(measured, key=lambda trial: (-(trial.val_acc or 0.0), trial.trial_id))}


def _row(best: Trial, soup: str, members: int, of: Trial | EnsembleRecord) -> dict[str, Any]:
    """best: the most accurate of those that start alike, which tells them from others of their architecture."""
    measured = {key: getattr(of, key) for key in ("val_acc", "val_n", "test_acc", "test_n")}
    return {
        "arch": str(best.config["arch"]),
        "most_accurate": best.trial_id,
        "soup": soup,
        "members": members,
        **measured,
        "name": None,
        "file": None,
    }


def _as_text(row: Mapping[str, Any]) -> tuple[str, ...]:
    accuracies = [score_text(row[f"{split}_acc"], row[f"{split}_n"]) for split in ("val", "test")]
    return (row["arch"], row["most_accurate"], row["soup"], str(row["members"]), *accuracies, row["name"] or "")
