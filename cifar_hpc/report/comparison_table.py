"""Two points side by side: class by class, and the paired tests in words."""

from __future__ import annotations

from cifar_hpc.collect.comparison import compare_points
from cifar_hpc.collect.leaderboard import Row
from cifar_hpc.collect.pivot import class_accuracies
from cifar_hpc.errors import CifarHpcError
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.words import p_text
from cifar_hpc.terminal.tables import TextColumn, plain_columns


def comparison_table(one: Row, other: Row, layout: Layout) -> list[TextColumn]:
    """Percent of each class' validation images that are right, mean over seeds. Raises RecordError on corrupt predictions."""
    first, second = (class_accuracies(row, layout, "val") for row in (one, other))
    for row, found in ((one, first), (other, second)):
        if not found:
            raise CifarHpcError(f"{row.label} has no measured validation split")
    rows = [
        (name, f"{100 * first[name]:.1f}", f"{100 * second[name]:.1f}", f"{100 * (first[name] - second[name]):+.1f}")
        for name in first
        if name in second
    ]
    return plain_columns(("class", one.label, other.label, "difference"), rows)


def comparison_lines(one: Row, other: Row, layout: Layout) -> list[str]:
    """One sentence a split. Raises CifarHpcError where the points did not see the same images."""
    lines = []
    for split in ("val", "test"):
        if split == "test" and not (one.test_acc and other.test_acc):
            continue
        found = compare_points(one, other, layout, split)
        interval = ""
        if found.low is not None and found.high is not None:
            interval = f" (95 % interval {100 * found.low:+.2f} to {100 * found.high:+.2f})"
        lines.append(
            f"{split}: {one.label} is {100 * found.difference:+.2f} points against {other.label}{interval},"
            f" {found.test}, p {p_text(found.p_value)}{'; of these two networks alone' if found.networks else ''}."
        )
    return lines
