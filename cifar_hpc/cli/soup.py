"""`cifar-hpc soup`: average the weights of trials that started alike, and keep what comes of it beside the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cifar_hpc.config.trial import TrialConfig
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.executors.slurm.queue import SlurmQueue
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.records.schema import EnsembleMember, EnsembleRecord, TrialResult
from cifar_hpc.records.store import read_record, replaced_whole, utc_now, write_atomic, write_record
from cifar_hpc.status.names import parse_words
from cifar_hpc.status.words import score_text
from cifar_hpc.terminal.tables import Format, TextColumn, print_columns, print_records

if TYPE_CHECKING:
    from cifar_hpc.collect.trials import Trial
    from cifar_hpc.deploy.soup import Soup


def soup(
    words: Annotated[list[str] | None, typer.Argument(metavar="[SWEEP|FILTER...]", help="none: all trials")] = None,
    wise: Annotated[
        bool, typer.Option("--wise", help="the best trial of each start alone: between the start's weights and its own")
    ] = False,
    format: Annotated[Format, typer.Option(help="the form on stdout")] = Format.TABLE,
) -> None:
    """Average the weights of trials that started from the same ones and kept theirs (`keep: weights`): uniform and greedy.

    With --wise, of the best of them and of those that it started from (WiSE-FT). What goes in is chosen on validation; test is
    measured once. `predict` takes the files, and `report` shows them.
    """
    from cifar_hpc.collect.chosen import chosen_pool
    from cifar_hpc.deploy.soup import make_soups
    from cifar_hpc.report.places import report_folder

    layout = Layout(results_root())
    asked = parse_words(words)
    pool = chosen_pool(layout, list(asked.names), asked.terms, SlurmQueue(layout.queue))
    if wise:
        place = report_folder(layout, pool.sweeps, asked.terms)
        _print_curves(layout, [trial for trial in pool.trials if trial.val_acc is not None], place, format)
        return
    families = _families(layout, [trial for trial in pool.trials if trial.val_acc is not None])
    if not families:
        raise CifarHpcError(
            "no two of these trials started from the same weights and kept theirs: `keep: weights` in the spec keeps those of "
            "trials that are still to run, `cifar-hpc reproduce TRIAL` brings back those of a finished one"
        )
    folder = report_folder(layout, pool.sweeps, asked.terms) / "soups"
    rows: list[dict[str, Any]] = []
    with replaced_whole(folder) as fresh:
        for number, family in enumerate(families, 1):
            best, arch = family[0], str(family[0].config["arch"])
            rows.append(_row(arch, "most accurate member", 1, best))
            for found in make_soups([layout.trial(trial.trial_id) for trial in family]):
                stem = found.method if len(families) == 1 else f"{found.method}-{number}"
                record = _save(found, fresh, stem)
                path = str(folder / f"{stem}.json")
                rows.append(_row(arch, found.method, len(found.members), record, path))
    if format in (Format.JSON, Format.CSV):
        print_records(rows, format)
    else:
        titles = ("arch", "soup", "members", "val acc %", "test acc %", "file")
        texts = [_as_text(row) for row in rows]
        print_columns([TextColumn(title, tuple(text[i] for text in texts)) for i, title in enumerate(titles)], format)
    typer.echo("greedy's validation accuracy is nested: chosen on one half of the images, measured on the other", err=True)


def _print_curves(layout: Layout, trials: Sequence[Trial], report: Path, format: Format) -> None:
    from cifar_hpc.deploy.wise import ALPHAS, find_curve

    families = _families(layout, trials, least=1)
    if not families:
        raise CifarHpcError(
            "none of these trials started from weights and kept its own: `keep: weights` in the spec keeps those of trials "
            "that are still to run, `cifar-hpc reproduce TRIAL` brings back those of a finished one"
        )
    rows: list[dict[str, Any]] = []
    with replaced_whole(report / "wise") as fresh:
        for number, (best, *_) in enumerate(families, 1):
            curve = find_curve(layout.trial(best.trial_id))
            stem = "wise" if len(families) == 1 else f"wise-{number}"
            record = _save(curve.soup, fresh, stem)
            whose = {"trial": best.trial_id, "arch": str(best.config["arch"])}
            found = {
                "nested_val_acc": record.val_acc,
                "test_acc": record.test_acc,
                "test_n": record.test_n,
                "file": str(report / "wise" / f"{stem}.json"),
            }
            for alpha, acc in zip(ALPHAS, curve.val_accs, strict=True):
                here = found if alpha == curve.alpha else dict.fromkeys(found)
                rows.append({**whose, "alpha": alpha, "val_acc": acc, "val_n": record.val_n, **here})
            if not curve.whole:
                typer.echo(f"{best.trial_id}: its start has no classifier for these classes: the tuned one stays", err=True)
    if format in (Format.JSON, Format.CSV):
        print_records(rows, format)
    else:
        titles = ("trial", "arch", "alpha", "val acc %", "nested %", "test acc %", "file")
        texts = list(map(_curve_text, rows))
        print_columns([TextColumn(title, tuple(text[i] for text in texts)) for i, title in enumerate(titles)], format)
    typer.echo("alpha 0: as training began, 1: the tuned weights; the one with a file was chosen on validation", err=True)


def _curve_text(row: Mapping[str, Any]) -> tuple[str, ...]:
    scores = [score_text(row["val_acc"], row["val_n"])]
    chosen = row["file"] is not None
    scores.append(score_text(row["nested_val_acc"], row["val_n"]) if chosen else "")
    scores.append(score_text(row["test_acc"], row["test_n"]) if chosen else "")
    return (row["trial"], row["arch"], f"{row['alpha']:.1f}", *scores, row["file"] or "")


def _families(layout: Layout, trials: Sequence[Trial], least: int = 2) -> list[list[Trial]]:
    """Trials whose weights may be averaged, the best on validation first, in families of so many or more."""
    from cifar_hpc.deploy.soup import kin_of

    families: dict[object, list[Trial]] = {}
    for trial in sorted(trials, key=lambda trial: (-(trial.val_acc or 0.0), trial.trial_id)):
        files = layout.trial(trial.trial_id)
        if files.weights.exists():
            kin = kin_of(TrialConfig.from_json(read_record(files.result, TrialResult).config))
            if kin is not None:
                families.setdefault(kin, []).append(trial)
    return [family for family in families.values() if len(family) >= least]


def _save(found: Soup, folder: Path, stem: str) -> EnsembleRecord:
    """<stem>.json, what `predict` takes, and beside it <stem>/ with the weights and predictions, named as a trial's are."""
    import numpy as np

    from cifar_hpc.records.layout import TrialFiles

    files = TrialFiles(folder / stem)
    write_atomic(files.weights, lambda stream: stream.write(found.weights))
    write_atomic(files.predictions, lambda stream: np.savez_compressed(stream, allow_pickle=False, **found.arrays))
    test_n = len(found.arrays["test_labels"]) if "test_labels" in found.arrays else None
    right_N = found.arrays["test_logits"].argmax(1) == found.arrays["test_labels"] if test_n else None
    record = EnsembleRecord(
        method=f"{found.method} soup",
        created_at=utc_now(),
        classes=found.classes,
        members=tuple(EnsembleMember(trial_id=i, weight=1 / len(found.members), temperature=1.0) for i in found.members),
        coefficients=None,
        intercept=None,
        val_acc=found.val_acc,
        val_n=len(found.arrays["val_labels"]),
        test_acc=float(right_N.mean()) if right_N is not None else None,
        test_n=test_n,
        weights=str(files.weights.relative_to(folder)),
    )
    write_record(folder / f"{stem}.json", record)
    return record


def _row(arch: str, soup: str, members: int, of: Trial | EnsembleRecord, file: str | None = None) -> dict[str, Any]:
    measured = {key: getattr(of, key) for key in ("val_acc", "val_n", "test_acc", "test_n")}
    return {"arch": arch, "soup": soup, "members": members, **measured, "file": file}


def _as_text(row: Mapping[str, Any]) -> tuple[str, ...]:
    accuracies = [score_text(row[f"{split}_acc"], row[f"{split}_n"]) for split in ("val", "test")]
    return (row["arch"], row["soup"], str(row["members"]), *accuracies, row["file"] or "")
