"""The report folder and the page, as files; tests/test_report_browser.py shows it in a browser."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.cli import app
from cifar_hpc.collect.leaderboard import make_leaderboard
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.config.catalog import DATASETS
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.records.claims import claim_trial
from cifar_hpc.records.jobs import JobEvent, own_handle
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout
from cifar_hpc.records.schema import EnsembleRecord, EpochRecord
from cifar_hpc.records.store import append_records, read_record, utc_now
from cifar_hpc.report.bundle import choose_drawings, write_report
from cifar_hpc.report.comparisons import comparison_tables
from cifar_hpc.report.figures import PALETTE, looks_for
from cifar_hpc.report.findings import Findings, find
from cifar_hpc.report.page import make_part
from cifar_hpc.report.summary import headline, in_short
from cifar_hpc.report.tables import estimate_text
from cifar_hpc.report.words import words_of
from tests.helpers.training import digits_config

VOID = {"meta", "link", "input", "br", "img", "hr"}


@pytest.fixture
def layout(small_layout: Layout) -> Layout:
    return small_layout


@pytest.fixture
def page(small_page: Path) -> Path:
    return small_page


class Balance(HTMLParser):
    """Collects what is wrong with the nesting, and every address."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for key, value in attrs if key in ("href", "src", "xlink:href") and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.addresses += [value for key, value in attrs if key in ("href", "src", "xlink:href") and value]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)


def test_the_folder_holds_the_page_the_tables_the_figures_and_the_ensembles(page: Path) -> None:
    folder = page.parent
    assert {path.name for path in folder.iterdir()} == {
        "index.html",
        "leaderboard.csv",
        "leaderboard.md",
        "figures",
        "tables",
        "ensembles",
    }
    pngs = {path.stem for path in (folder / "figures").glob("*.png")}
    assert pngs == {path.stem for path in (folder / "figures").glob("*.svg")}
    assert {"ranking", "effects", "heat_map", "freezing", "curves_accuracy", "curves_loss"} <= pngs
    assert read_record(folder / "ensembles" / "greedy.json", EnsembleRecord).method == "greedy"
    member = (folder / "tables" / "weights.csv").read_text().splitlines()[1]
    assert re.match(r"\d+,\"resnet18, .*\",seed \d,", member)  # its row, its configuration and its seed, and no id alone


def test_the_page_is_well_formed_and_needs_nothing_from_a_network(page: Path) -> None:
    found = Balance()
    found.feed(page.read_text())
    assert (found.wrong, found.open) == ([], [])
    outside = [
        address for address in found.addresses if re.match(r"\w+:|//", address) and not address.startswith("data:image/png")
    ]
    assert outside == []
    assert "url(http" not in page.read_text()


def test_figures_in_the_page_keep_every_digit_of_their_labels(page: Path) -> None:
    assert ">0.0001<" in page.read_text()


def test_a_page_that_grows_old_says_so_where_trials_were_still_to_come(page: Path) -> None:
    assert "1 planned. Written" in page.read_text() and "What finished since then is not here." in page.read_text()


def test_every_file_that_the_page_links_is_there(page: Path) -> None:
    found = Balance()
    found.feed(page.read_text())
    links = {address for address in found.addresses if not address.startswith(("#", "data:"))}
    assert links
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_text_from_records_cannot_become_markup(layout: Layout, tmp_path: Path) -> None:
    other = Layout(tmp_path)
    config = dataclasses.replace(next(iter(configs(1, 1, 2))), weights="</script><b>x.pt")
    write_trial(other, config, Images.draw(50, 20))
    pool = scan(other)
    text = write_report([find(section, other) for section in make_sections(pool, other)], other).read_text()
    assert "<b>x.pt" not in text
    found = Balance()
    found.feed(text)
    assert found.wrong == []


def test_the_summary_says_what_won_how_sure_it_is_and_what_it_cost(layout: Layout) -> None:
    (section,) = make_sections(scan(layout, ["small"]), layout)
    text = " ".join(headline(find(section, layout)))
    assert re.match(
        r"Best so far: \w+, [\w ,.]+: [\d.]+ % on validation \(mean of 3 seeds, [\d.]+ to [\d.]+\), [\d.]+ % on test\.", text
    )
    assert words_of(section.board.rows[0]) in text
    assert "Not distinguishable from" in text or "Better than" in text
    assert "t-test over the seeds of all and the images" in text
    assert "GPU-hours" in text
    assert "ensemble" in text


def test_the_page_says_what_its_intervals_cover_and_what_more_seeds_would_change(page: Path) -> None:
    text = page.read_text()
    assert "how lucky that split is, nothing here tells" in text
    assert "its best epoch, which the same images chose: it is flattered, more where" in text
    assert "The chance that" in text


def test_several_data_sets_stand_in_sections_and_are_never_ranked_together(tmp_path: Path) -> None:
    other = Layout(tmp_path)
    for name, mark, accuracy in (("ants_bees", "a", 0.6), ("cats_dogs", "b", 0.9)):
        for config in configs(6, 3, 2):
            own = {"split_seed": config.seed, "split_by_seed": True} if name == "cats_dogs" else {}
            dataset = DatasetConfig(name="folder", folder=f"/home/ann/{name}", fingerprint=mark * 64, **own)
            write_trial(other, dataclasses.replace(config, dataset=dataset), Images.draw(90, 0), accuracy=accuracy)
    code, out, err = run(other, "report")
    assert code == 0
    assert "nothing is ranked across them" in err
    assert [line.split()[0] for line in out.splitlines()] == ["#", "1", "2", "#", "3", "4"]  # a row has one name
    text = (other.report / "index.html").read_text()
    assert 'id="part-1">ants_bees<' in text and 'id="part-2">cats_dogs<' in text
    assert "fingerprint" not in text and "a" * 64 not in text
    first, second = text.split('id="part-2"')
    assert "All trials share one split" in first and "Each seed has a split of its own" not in first
    assert "Each seed has a split of its own" in second and "All trials share one split" not in second
    found = Balance()
    found.feed(text)
    assert (found.wrong, found.open) == ([], [])
    links = {address for address in found.addresses if not address.startswith(("#", "data:"))}
    assert [link for link in links if not (other.report / link).exists()] == []
    rows = list(csv.DictReader((other.report / "leaderboard.csv").open()))
    assert [(row["images"], row["place"]) for row in rows] == [(n, p) for n in ("ants_bees", "cats_dogs") for p in "12"]
    assert re.search(r"60 ± \d \(3\)|60 \(3\)|6\d ± \d \(3\)|5\d ± \d \(3\)", out)  # 90 images: whole percents


@pytest.mark.parametrize(("seeds", "shaded"), [(1, False), (3, True)])
def test_tests_and_shades_are_told_where_they_are_also_of_rows_that_are_measured_in_part(
    tmp_path: Path, seeds: int, shaded: bool
) -> None:
    layout, trials = Layout(tmp_path), list(configs(2 * seeds, seeds=seeds, epochs=1, archs=("resnet18", "vgg11_bn")))
    for trial in trials:
        write_trial(layout, trial, Images.draw(300, 0), accuracy=0.8)
    (section,) = make_sections(scan(layout), layout)
    rows = tuple(dataclasses.replace(row, rounds=row.rounds[: seeds - 1]) for row in section.board.rows)
    section = dataclasses.replace(section, board=dataclasses.replace(section.board, rows=rows))
    found = find(section, layout)
    part, undrawn = (make_part(found, [], [], layout, ".", drawn=drawn) for drawn in (True, False))
    assert ("Shaded: " in part.shading) == ("the tests compare them" in part.dots) == shaded
    assert ("tied" in part.rows[0].style, "empty" in part.rows[0].style) == (shaded, True)
    assert any("Figures are drawn for the first" in note and "cifar-hpc" not in note for note in undrawn.notes)
    assert "◆" not in part.shading or any("◆" in cell.text for row in part.rows for cell in row.cells)


def test_a_pool_without_results_still_has_a_page(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_plan(layout, list(configs(2, 1, 2)), "new")
    pool = scan(layout, ["new"])
    text = write_report([find(section, layout) for section in make_sections(pool, layout)], layout).read_text()
    assert "No trial here has a validation accuracy that counts" in text
    assert not [words for words in ("share", "Ledger", "Ran on") if words in text.split("</style>")[1].split("<dialog")[0]]


def run(layout: Layout, *words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, words, env={RESULTS_VARIABLE: str(layout.root), "COLUMNS": "150"})
    return found.exit_code, found.stdout, found.stderr


def test_report_prints_data_on_stdout_and_prose_on_stderr(layout: Layout) -> None:
    code, out, err = run(layout, "report", "small", "--format", "csv", "arch=resnet18")
    assert code == 0
    assert len(out.splitlines()) == 1 + 6
    assert "18 of 18 trials finished" in err


def test_report_of_a_trial_shows_its_classes_and_compare_its_differences(layout: Layout) -> None:
    trials = scan(layout, ["small"]).trials
    code, out, err = run(layout, "report", trials[0].trial_id)
    assert (code, "airplane" in out, "Most often taken for another" in err) == (0, True, True)
    code, out, err = run(layout, "compare", trials[0].trial_id, trials[-1].point_id)
    assert (code, "difference" in out, "paired t-test" in err) == (0, True, True)


def test_a_mistyped_sweep_or_key_is_answered_with_the_nearest(layout: Layout) -> None:
    code, _, err = run(layout, "report", "smal")
    assert (code, "Did you mean 'small'" in err) == (2, True)
    code, _, err = run(layout, "report", "small", "arc=resnet18")
    assert (code, "Did you mean 'arch'" in err) == (2, True)


def test_what_runs_stands_in_the_page_with_its_curve_so_far_and_the_time_left(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    *ended, now = configs(3, 1, 6)
    for config in ended:
        write_trial(layout, config, Images.draw(50, 20))
    write_plan(layout, [*ended, now], "live")
    files = layout.trial(now.trial_id)
    assert claim_trial(files, now.trial_id, "live/job-0001")
    lines = [{"epoch": n, "lr": 0.1, "train_loss": 1.0, "train_acc": 0.3, "val_loss": 1.0, "val_acc": 0.4} for n in (1, 2)]
    append_records(files.metrics, [EpochRecord(**line, train_s=8.0, val_s=2.0) for line in lines])
    text = write_report([find(make_sections(scan(layout, ["live"]), layout)[0], layout)], layout).read_text()
    assert f"<td>{now.trial_id}</td>" in text
    assert all(f"<td>{said}</td>" in text for said in ("2 of 6", "10 s", "40 s"))
    explore = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])["parts"][0]["explore"]
    assert (explore["trials"][-1][2], np.diff(explore["start"]).tolist()) == (now.trial_id, [6, 6, 2])


def test_a_classifier_that_is_being_solved_stands_in_the_page_too(tmp_path: Path) -> None:
    layout, now = Layout(tmp_path), digits_config(freeze="all", classifier="knn")
    write_plan(layout, [now], "live")
    assert claim_trial(layout.trial(now.trial_id), now.trial_id, "live/job-0001")
    epoch = EpochRecord(epoch=1, lr=0.0, train_loss=1.0, train_acc=0.3, val_loss=1.0, val_acc=0.4, train_s=8.0, val_s=2.0)
    append_records(layout.trial(now.trial_id).metrics, [epoch])
    found = find(make_sections(scan(layout, ["live"]), layout)[0], layout)
    assert "<td>1 of 1</td>" in write_report([found], layout).read_text()


def test_a_filtered_report_has_a_place_of_its_own(layout: Layout, page: Path) -> None:
    whole = page.read_text()
    _, _, err = run(layout, "report", "small", "arch=resnet18", "lr>1e-3")
    other = page.parent / "arch=resnet18_lr-above-1e-3" / "index.html"
    assert str(other) in err
    assert (page.read_text(), "vgg11_bn" in other.read_text()) == (whole, False)


def test_a_filter_that_nothing_meets_is_answered_with_the_values_there(layout: Layout, tmp_path: Path) -> None:
    code, out, err = run(layout, "report", "small", "lr>1")
    assert (code, out, "lr is 0.0001, 0.1" in err) == (2, "", True)
    code, out, err = run(Layout(tmp_path), "report")
    assert (code, out, "cifar-hpc sweep SPEC" in err) == (2, "", True)


def _two_points(folder: Path, seeds: int, *accuracies: float) -> Findings:
    """Points that differ in lr alone, of those expected accuracies."""
    layout = Layout(folder)
    for lr, accuracy in zip((0.01, 0.1), accuracies, strict=True):
        for config in configs(seeds, seeds, 2):
            write_trial(layout, dataclasses.replace(config, lr=lr), Images.draw(400, 100), accuracy=accuracy)
    pool = scan(layout)
    return find(make_sections(pool, layout)[0], layout)


@pytest.mark.parametrize(
    ("seeds", "accuracies", "words"),
    [
        (3, (0.9, 0.5), ("Best: ", "Better than the other.")),
        (3, (0.9, 0.9), ("Best: ", "Not distinguishable from the other.")),
        (1, (0.9, 0.5), ("First by validation: ", "one seed each says nothing of the configurations")),
    ],
)
def test_only_what_a_test_over_seeds_tells_is_said_of_configurations(
    tmp_path: Path, seeds: int, accuracies: tuple[float, float], words: tuple[str, str]
) -> None:
    found = _two_points(tmp_path, seeds, *accuracies)
    lines = headline(found)
    assert lines[0].startswith(words[0]) and words[1] in lines[0]
    assert any("three seeds or more" in line for line in lines) == (seeds == 1)
    page = write_report([found], Layout(tmp_path)).read_text()
    assert ('<tr class="tied"' in page) == (seeds == 3)
    assert ("(<code>seeds: 3</code>)" in page) == (seeds == 1)  # and no backticks


def test_more_seeds_are_not_advised_for_a_population_which_has_one(tmp_path: Path) -> None:
    """Populations of other seeds have other configurations."""
    found = _two_points(tmp_path, 1, 0.9, 0.5)
    rows = tuple(dataclasses.replace(row, axes={**row.axes, "weights": f"trial/{row.point_id}"}) for row in found.board.rows)
    heirs = dataclasses.replace(found, board=dataclasses.replace(found.board, rows=rows))
    assert any("seeds" in line for line in in_short(found)[1:]) and not any("seeds" in line for line in in_short(heirs)[1:])


def test_an_ensemble_without_gain_is_not_announced_and_tiny_sweeps_have_no_empty_figures(tmp_path: Path) -> None:
    found = _two_points(tmp_path, 1, 0.95, 0.4)
    (line,) = (line for line in headline(found) if " ensemble" in line)  # of others nothing is said, whose p may be lower
    assert re.match(r"The most accurate ensemble, \w+, is not measurably better than the most accurate of 2 trials: ", line)
    assert {drawing.name for drawing in choose_drawings(found)} == {"ranking", "curves_accuracy", "curves_loss"}


def test_the_page_compares_choices_and_tunes_numbers_within_them(layout: Layout, page: Path) -> None:
    """Architectures across and the other choice down; lr, a number, is no column but the best of it is taken."""
    rows = list(csv.reader((page.parent / "tables" / "compare_test.csv").open()))
    assert rows[0] == ["freeze", "resnet18", "vgg11_bn"]
    assert [row[0] for row in rows[1:]] == ["none", "0.5", "all"]
    board = make_leaderboard(scan(layout, ["small"]))
    best = next(row for row in board.measured if (row.axes["arch"], row.axes["freeze"]) == ("resnet18", 0.5))
    assert rows[2][1] == estimate_text(best.test_acc)
    classes = list(csv.reader((page.parent / "tables" / "by_class.csv").open()))
    assert len(classes) == 1 + 6
    assert set(classes[0][2:]) == set(DATASETS["cifar10"].classes)


def test_class_by_class_takes_the_best_kinds_and_says_of_how_many(tmp_path: Path) -> None:
    layout, trials = Layout(tmp_path), list(configs(10, seeds=1, epochs=2, archs=("resnet18",)))
    for number, trial in enumerate(trials):
        write_trial(layout, trial, Images.draw(100, 0), accuracy=0.3 + 0.06 * number, sweep="kinds")
    write_plan(layout, trials, "kinds")
    found = find(make_sections(scan(layout, ["kinds"]), layout)[0], layout)
    by_class = next(table for table in comparison_tables(found, layout) if table.anchor == "by_class")
    best = found.board.measured[:8]
    assert {tuple(row[:2]) for row in by_class.rows} == {(str(r.axes["augment"]), str(r.axes["freeze"])) for r in best}
    assert "Of the table above each row's best, of its 10 rows the best 8." in by_class.note


def test_a_pivot_takes_any_axes_and_knows_the_nearest(layout: Layout) -> None:
    code, out, _ = run(layout, "report", "small", "--pivot", "lr/arch,freeze", "--format", "csv")
    assert code == 0
    assert out.splitlines()[0] == "split,lr," + ",".join(
        f'"{arch}, {freeze}"' for arch in ("resnet18", "vgg11_bn") for freeze in ("freeze none", "freeze 0.5", "freeze all")
    )
    assert len(out.splitlines()) == 1 + 2 * 2
    told = {
        form: run(layout, "report", "small", "--pivot", "lr/arch", "--format", form)[1] for form in ("md", "latex", "table")
    }
    assert re.findall(r"^## lr by arch: (\w+) accuracy %\n\n\|", told["md"], re.M) == ["validation", "test"]
    assert re.findall(r"^% lr by arch: (\w+) accuracy %\n.begin", told["latex"], re.M) == ["validation", "test"]
    assert re.findall(r"^lr by arch: (\w+) accuracy %$", told["table"], re.M) == ["validation", "test"]
    code, _, err = run(layout, "report", "small", "--pivot", "arhc")
    assert (code, "Did you mean 'arch'" in err) == (2, True)
    code, _, err = run(layout, "report", "small", "--pivot", "arch/freeze/lr")
    assert (code, "'freeze/lr' is no axis here" in err) == (2, True), "not the table without lr"


def test_a_watched_report_is_renewed_where_records_changed_until_all_trials_have_ended(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    trials = list(configs(3, 1, 2))
    write_plan(layout, trials, "live")
    write_trial(layout, trials[0], Images.draw(50, 20))
    ids = tuple(config.trial_id for config in trials)
    begun = JobEvent(at=utc_now(), event="submitted", job_id="job-0001", trial_ids=ids, executor="inline", handle=own_handle())
    append_records(layout.sweep("live").jobs, [begun])
    written: list[str] = []
    page = layout.sweep("live").report / "index.html"

    def next_look(seconds: float) -> None:
        written.append(page.read_text())
        if len(written) > 1:  # nothing new at the first look
            for config in trials[1:]:
                write_trial(layout, config, Images.draw(50, 20))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.sleep", next_look)
        code, out, _ = run(layout, "report", "live", "--watch")
    assert code == 0
    assert len(written) == 2
    assert written[0] == written[1]
    assert '"refresh_s":10.0' in written[0]
    assert '"refresh_s":null' in page.read_text()
    assert out.count("val acc") == 2


def test_no_two_lines_of_a_figure_look_alike_however_many_there_are() -> None:
    for values in ([f"net {k}" for k in range(20)], [0.001 * (k + 1) for k in range(12)], ["a", "b"], [None, "a"]):
        looks = looks_for(values)
        assert len({(look.color, look.mark) for look in looks.values()}) == len(values)
        assert len({look.mark for look in looks.values()}) == 1 or len(values) > len(PALETTE)
    rates = list(looks_for([0.001 * (k + 1) for k in range(12)]).values())
    assert all(one.mark != other.mark for one, other in itertools.pairwise(rates))  # neighbours hardly differ in colour
