"""make published: renews results/published from the records of results/: tables, figures, and the tables within the pages.

The page of a sweep, results/published/<sweep>/README.md, is written by hand; between the marks `table` and `end of table` stand
the first rows of its leaderboard, which this program writes. A sweep whose trials are not in results/ keeps what it has, and is
named. tests/test_published.py checks the rest: that the prose quotes its tables, and that its commands plan their rows.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from pathlib import Path

from cifar_hpc import CifarHpcError, Results, read_results

ROOT = Path(__file__).resolve().parent.parent
PUBLISHED = ROOT / "results" / "published"
_TABLE = re.compile(r"(<!-- table: (\d+) rows? -->\n).*?(<!-- end of table -->)", re.DOTALL)
# The figures that stand on a sweep's page. `2/layers` is that of the trial page of the leaderboard's second row.
FIGURES = {
    "quickstart": ("ranking",),
    "quickstart_scratch": ("curves_accuracy",),
    "baselines": ("curves_accuracy",),
    "mnist_cnn": ("1/confusion", "1/layers", "1/worst_errors"),
    "alexnet": ("curves_accuracy", "curves_loss", "1/confusion", "1/layers"),
    "convnet_augment": ("ranking", "curves_accuracy", "1/confusion"),
    "vgg11_transfer": ("curves_accuracy",),
    "freeze_depth": ("freezing", "effects"),
    "freeze_networks": ("freezing",),
    "freeze_sizes": ("1_cifar10_train_size_2000_freezing", "2_cifar10_train_size_500_freezing"),
    "reptiles": ("freezing", "curves_accuracy"),
    "transfer_strategies": ("curves_accuracy", "1/layers", "2/layers", "3/layers", "4/layers", "5/layers"),
    "small_sets": ("ranking",),
    "ensemble_zoo": ("ranking", "ensemble_gain"),
    "lr_search": ("along_lr",),  # of the grid; the tables of its search and of PBT are of results folders of their own
}
TABLES = ("leaderboard.csv", "leaderboard.md")
MORE_TABLES = {"ensemble_zoo": ("tables/ensembles.md",)}


def table(leaderboard: str, rows_n: int) -> str:
    """Head and first rows of a leaderboard in Markdown, of each of its sections where it has several."""
    _, *sections = leaderboard.split("## ")
    if not sections:
        return "\n".join(leaderboard.splitlines()[: 2 + rows_n]) + "\n"
    parts = [section.partition("\n\n") for section in sections]
    return "\n".join(f"**{name}**\n\n{table(rows, rows_n)}" for name, _, rows in parts)


def with_table(page: str, leaderboard: str) -> str:
    """The page with the first rows of the leaderboard between its marks."""
    return _TABLE.sub(lambda found: found[1] + "\n" + table(leaderboard, int(found[2])) + "\n" + found[3], page)


def file_of(name: str) -> str:
    """The file of one of FIGURES: that of the first row bears no number."""
    row, _, figure = name.rpartition("/")
    return f"{figure}.png" if row in ("", "1") else f"{figure}_{row}.png"


def renew(results: Results, sweep: str) -> None:
    """Raises CifarHpcError where its report cannot be made: then nothing of what is published changed."""
    source, target = results.report(sweep), PUBLISHED / sweep
    figures = {}
    for name in FIGURES[sweep]:
        row, slash, figure = name.rpartition("/")
        folder = results.report(f"{sweep}#{row}") if slash else source
        figures[file_of(name)] = folder / "figures" / f"{figure}.png"
    for path in target.glob("*.png"):  # all reports are made: a figure of an earlier name goes
        path.unlink()
    for file, path in figures.items():
        shutil.copyfile(path, target / file)
    for name in (*TABLES, *MORE_TABLES.get(sweep, ())):
        shutil.copyfile(source / name, target / Path(name).name)
    page = target / "README.md"
    page.write_text(with_table(page.read_text(), (target / "leaderboard.md").read_text()))


def main() -> None:
    results = Path(os.environ.get("CIFAR_HPC_RESULTS", ROOT / "results")).absolute()
    for sweep in sys.argv[1:] or FIGURES:
        if not (results / sweep / "plan.json").exists():
            print(f"{sweep}: left as it is, {results / sweep} holds no such sweep")
            continue
        try:
            with contextlib.chdir(ROOT):  # where images are, too
                renew(read_results(results), sweep)
        except CifarHpcError as error:
            raise SystemExit(f"{sweep}: {error}") from None
        print(f"{sweep}: renewed")


if __name__ == "__main__":
    main()
