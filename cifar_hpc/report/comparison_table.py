"""Two points side by side: class by class, and the paired tests in words."""

from __future__ import annotations

from collections.abc import Iterator

from cifar_hpc.collect.comparison import compare_points, split_of_both
from cifar_hpc.collect.leaderboard import Row, runs_of
from cifar_hpc.collect.pivot import class_accuracies
from cifar_hpc.collect.statistics import Difference
from cifar_hpc.config.registry import OBJECTIVES, ObjectiveInfo
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.words import p_text, these_networks
from cifar_hpc.status.words import decimals_of, fixed_text, points_text, score_text
from cifar_hpc.terminal.tables import TextColumn, plain_columns

TABLE_TITLES = {
    "val": "Validation accuracy of each class, percent, mean over {runs}:",
    "test": "Test accuracy of each class, percent, mean over {runs} ({why}):",
}


def comparison_table(one: Row, other: Row, layout: Layout) -> tuple[str, list[TextColumn]]:
    """Its title, and the percent of each class' images that are right, mean over seeds or folds: of validation, or of test
    where these alone are the same. Raises CifarHpcError where none are, RecordError on corrupt predictions."""
    split = split_of_both(one, other, layout)
    apart = split == "val" and one.trials[0].own_split
    ours, theirs = ({trial.round for trial in row.trials if trial.told(split)} for row in (one, other))
    first, second = (class_accuracies(row, layout, split, ours & theirs if apart else None) for row in (one, other))
    rows = []
    for name in first:
        if name in second:
            (a, images), (b, _) = first[name], second[name]
            rows.append(
                (name, str(images), *(score_text(acc, images, most=1) for acc in (a, b)), points_text(a - b, images, most=1))
            )
    runs = runs_of([*one.trials, *other.trials]) + (" that both have" if apart and ours != theirs else "")
    seen = one.seen or other.seen
    why = "their validation images are not all new to them" if seen else "their validation splits are not the same"
    title = TABLE_TITLES[split].format(runs=runs, why=why)
    return title, plain_columns(("class", f"{split} images", one.label, other.label, "difference"), rows)


def comparison_lines(one: Row, other: Row, layout: Layout) -> list[str]:
    """A sentence for each split and for what it is measured by: accuracy and, where both had another objective, that; where one
    of them cannot be tested, why.

    Raises CifarHpcError where none can, such as of points that did not see the same images.
    """
    lines, refused, runs = [], [], runs_of([*one.trials, *other.trials])
    for split, measured, info in _asked(one, other):
        try:
            found = compare_points(one, other, layout, split, info)
        except CifarHpcError as error:
            refused.append(error)
            lines.append(f"{measured}: {error}")
            continue
        lines.append(
            f"{measured}: {one.label} is {_amount(found, info)} {other.label}{_interval(found, info, runs)},"
            f" {found.test}, p {p_text(found.p_value)}{f'; of {these_networks(one, other)} alone' if found.networks else ''}."
        )
    if len(refused) == len(lines):
        raise refused[0]
    cut = [f"{row.label} ({row.cut} of {row.runs_n})" for row in (one, other) if row.cut]
    return [
        *lines,
        *([f"A search ended trials early: of {' and '.join(cut)}; their numbers are of fewer epochs."] if cut else []),
    ]


def _asked(one: Row, other: Row) -> Iterator[tuple[str, str, ObjectiveInfo]]:
    """The split, what is compared in words, and the objective that measures it."""
    accuracy = OBJECTIVES["val_acc"]
    for info in (accuracy,) if one.info != other.info else dict.fromkeys((one.info, accuracy)):
        yield "val", f"validation {info.noun}", info
        if one.test_acc and other.test_acc:
            yield "test", f"test {info.noun}", info


def _amount(found: Difference, info: ObjectiveInfo) -> str:
    signed = found.difference if info.mode == "max" else -found.difference  # a difference above 0 is for the better
    text = _signed(signed, found, info)
    if info.share:
        return f"{text} pp against"
    return f"{text[1:]} {'higher' if signed > 0 else 'lower'} than" if float(text) else "as high as"


def _interval(found: Difference, info: ObjectiveInfo, runs: str) -> str:
    if found.low is None or found.high is None:
        return f" (so few {runs} tell no interval)" if found.too_few else ""
    ends = (found.low, found.high) if info.mode == "max" else (-found.high, -found.low)
    low, high = (_signed(end, found, info) for end in ends)
    return f" (95 % interval {low} to {high})"


def _signed(value: float, found: Difference, info: ObjectiveInfo) -> str:
    """'+0.4', '-3'; a zero without a sign where the images cannot tell it: of two equal ones none is higher."""
    if info.share:
        return points_text(value, found.images)
    text = fixed_text(value, decimals_of(found.images, share=False), "+")
    return text if float(text) else text[1:]
