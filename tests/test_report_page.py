"""The report folder and the page, as files and, where Chromium is installed, as a browser shows it."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import re
import shutil
import subprocess
from html import unescape
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
from cifar_hpc.collect.trials import CURVES, Curves
from cifar_hpc.config.catalog import DATASETS
from cifar_hpc.config.dataset import DatasetConfig
from cifar_hpc.records.claims import claim_trial
from cifar_hpc.records.jobs import JobEvent, own_handle
from cifar_hpc.records.layout import RESULTS_VARIABLE, Layout
from cifar_hpc.records.schema import EnsembleRecord, EpochRecord
from cifar_hpc.records.store import append_records, read_record, utc_now
from cifar_hpc.report.bundle import choose_drawings, write_report
from cifar_hpc.report.findings import Findings, find
from cifar_hpc.report.page import make_part, render_page
from cifar_hpc.report.summary import headline
from cifar_hpc.report.tables import estimate_text
from cifar_hpc.report.trial_page import most_confused
from cifar_hpc.report.words import words_of

VOID = {"meta", "link", "input", "br", "img", "hr"}
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """Two architectures, three depths, two rates, three seeds, in the sweep 'small'; one trial has not run."""
    layout = Layout(tmp_path_factory.mktemp("results"))
    base = list(configs(6, seeds=3, epochs=4))
    trials = [
        dataclasses.replace(config, freeze=freeze, lr=lr)
        for freeze, lr in itertools.product(("none", 0.5, "all"), (1e-4, 0.1))
        for config in base
    ]
    for config in trials[:-1]:
        write_trial(layout, config, Images.draw(200, 100), sweep="small")
    write_plan(layout, trials, "small")
    return layout


@pytest.fixture(scope="module")
def page(layout: Layout) -> Path:
    pool = scan(layout, ["small"])
    return write_report([find(section, layout) for section in make_sections(pool, layout)], layout)


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
    assert "t-test over seeds and images" in text
    assert "GPU-hours" in text
    assert "ensemble" in text


def test_the_page_says_what_its_intervals_cover_and_what_more_seeds_would_change(page: Path) -> None:
    text = page.read_text()
    assert "how lucky that split is, nothing here tells" in text
    assert "its best epoch, which the same images chose: it is flattered a little" in text
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
    assert "All seeds share one split" in first and "Each seed has a split of its own" not in first
    assert "Each seed has a split of its own" in second and "All seeds share one split" not in second
    found = Balance()
    found.feed(text)
    assert (found.wrong, found.open) == ([], [])
    links = {address for address in found.addresses if not address.startswith(("#", "data:"))}
    assert [link for link in links if not (other.report / link).exists()] == []
    rows = list(csv.DictReader((other.report / "leaderboard.csv").open()))
    assert [(row["images"], row["place"]) for row in rows] == [(n, p) for n in ("ants_bees", "cats_dogs") for p in "12"]
    assert re.search(r"60 ± \d \(3\)|60 \(3\)|6\d ± \d \(3\)|5\d ± \d \(3\)", out)  # 90 images: whole percents


def test_a_pool_without_results_still_has_a_page(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    write_plan(layout, list(configs(2, 1, 2)), "new")
    pool = scan(layout, ["new"])
    text = write_report([find(section, layout) for section in make_sections(pool, layout)], layout).read_text()
    assert "No trial has finished" in text
    assert not [words for words in ("share", "Ledger", "Ran on") if words in text.split("</style>")[1].split("<dialog")[0]]


def run(layout: Layout, *words: str) -> tuple[int, str, str]:
    found = CliRunner().invoke(app, words, env={RESULTS_VARIABLE: str(layout.root), "COLUMNS": "150"})
    return found.exit_code, found.stdout, found.stderr


def test_confusions_that_are_as_frequent_as_the_second_are_named_too() -> None:
    assert most_confused([("4", "9", 5)]) == "4 for 9 (5)"
    assert most_confused([("4", "9", 5), ("7", "1", 4), ("3", "5", 3)]) == "4 for 9 (5) and 7 for 1 (4)"
    assert (
        most_confused([("4", "9", 5), ("7", "1", 5), ("9", "0", 5), ("6", "1", 4)])
        == "4 for 9 (5), 7 for 1 (5) and 9 for 0 (5)"
    )
    assert most_confused([("a", "b", 2), *[("c", "d", 1)] * 4]) == "a for b (2) and c for d (1); others as often"


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


USE = """<script>
  const seen = [], say = text => seen.push(text), wait = () => new Promise(done => setTimeout(done, 150));
  const $ = q => document.querySelector(q), $$ = q => [...document.querySelectorAll(q)];
  const visible = () => $$(".board tbody tr:not(.seeds)"), chart = kind => echarts.getInstanceByDom($(`.chart.${kind}`));
  const mouse = (holder, type, x, y) => {
    const box = holder.getBoundingClientRect(), at = { clientX: box.left + x, clientY: box.top + y, bubbles: true, buttons: 1 };
    $(`${"." + holder.className.replace(" ", ".")} canvas`).parentNode.dispatchEvent(new MouseEvent(type, at));
  };
  (async () => { try { %s } catch (error) { say("error " + error.stack); } document.title = seen.join("; "); })();
</script>"""


def browse(page: Path, script: str, folder: Path, address: str = "") -> list[str]:
    """What a script at the page's end says that it saw, using the page as a reader does."""
    copy = folder / "page.html"
    copy.write_text(page.read_text().replace("</body>", USE % script + "</body>"))
    flags = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
    where = ["--disable-component-update", "--window-size=1280,900", f"--user-data-dir={folder / 'profile'}"]
    command = [str(CHROMIUM), *flags.split(), *where, "--virtual-time-budget=20000", "--dump-dom", copy.as_uri() + address]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", dom, re.DOTALL)
    assert title
    return unescape(title[1]).split("; ")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_sorts_filters_unfolds_and_enlarges(page: Path, tmp_path: Path) -> None:
    seen = browse(
        page,
        """
        say("rows " + visible().length);
        const acc = $$(".board th").findIndex(h => h.textContent.startsWith("val acc"));
        const button = $$(".board th button")[acc], numbers = () => visible().map(r => parseFloat(r.cells[acc].textContent));
        button.click(); button.click();
        const up = numbers(); say("ascending " + up.every((v, i) => !i || up[i - 1] <= v));
        $(".filter").value = "arch=resnet18 freeze=none"; $(".filter").dispatchEvent(new Event("input"));
        say("filtered " + visible().length + " " + $(".shown").textContent);
        $(".filter").value = ""; $(".filter").dispatchEvent(new Event("input"));
        $(".board .open").click(); say("trials " + $$("tr.seeds a[href*='/trials/']").length);
        $$("figure > button")[0].click(); say("dialog " + $("dialog").open + " " + $$("dialog svg").length);
        $("#theme").click(); say("theme " + document.documentElement.dataset.theme);
        """,
        tmp_path,
    )
    assert seen == ["rows 12", "ascending true", "filtered 2 2 of 12 configurations", "trials 3", "dialog true 1", "theme dark"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_charts_follow_what_is_chosen_and_tell_what_is_pointed_at(page: Path, tmp_path: Path) -> None:
    seen = browse(
        page,
        r"""
        await wait();
        const colored = () => chart("curves").getOption().series.filter(s => s.lineStyle.width === 2.5).map(s => s.point);
        say("best five " + new Set(colored()).size);
        const scale = (kind, axis) => chart(kind).getModel().getComponent(axis).axis.scale.getExtent();
        say("at most the whole " + (scale("dots", "xAxis")[1] <= 1 && scale("curves", "yAxis")[1] <= 1));
        const top = chart("dots").getModel().getComponent("xAxis").get("max");
        say("no further " + [[0.9, 0.92], [0.2, 0.92], [0.95, 0.95], [0.1, 0.1]].map(([min, max]) => top({ min, max })));
        const box = visible()[7].querySelector("input"); box.focus(); box.click();
        const point = +visible()[7].dataset.point;
        say("chosen alone " + colored().every(p => p === point) + " " + colored().length);
        say("swatch " + (visible()[7].querySelector(".swatch").style.background !== "transparent"));
        say("still focused " + (document.activeElement === box));
        const option = chart("curves").getOption(), n = option.series.findIndex(s => s.lineStyle.width === 2.5);
        const [x, y] = chart("curves").convertToPixel({ seriesIndex: n }, option.series[n].data[2]);
        mouse($(".chart.curves"), "mousemove", x, y); await wait();
        say("hovered " + visible()[7].classList.contains("hot") + " " + /mean of 3 trials/.test($(".said").textContent));
        const named = $(".said").textContent;
        say("says its accuracy " + /: \d+\.\d % on validation/.test(named));
        $$(".metric button")[1].click(); say("loss " + $(".lines").textContent.startsWith("Loss"));
        """,
        tmp_path,
    )
    assert seen == [
        "best five 5", "at most the whole true", "no further ,1,1,", "chosen alone true 1", "swatch true", "still focused true",
        "hovered true true", "says its accuracy true", "loss true",
    ]  # fmt: skip


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_mean_that_is_pointed_at_says_of_how_many_trials_its_last_epoch_is(layout: Layout, tmp_path: Path) -> None:
    pool = scan(layout, ["small"])
    first = {trial.point_id: trial.trial_id for trial in reversed(pool.trials)}
    lengths = [5 if first[trial.point_id] == trial.trial_id else 2 for trial in pool.trials]  # two of three end early
    start = np.cumsum([0, *lengths], dtype=np.int64)
    curves = Curves(start, {name: np.full(start[-1], 0.5, np.float32) for name in CURVES})
    found = find(make_sections(dataclasses.replace(pool, curves=curves), layout)[0], layout)
    (tmp_path / "uneven.html").write_text(
        render_page([make_part(found, [], [], layout, "..", drawn=False)], [], title="uneven")
    )
    point = """
        await wait();
        const n = chart("curves").lines.findIndex(l => l.trial === undefined && l.id.startsWith("val"));
        chart("curves").trigger("mouseover", { seriesIndex: n }); await wait(); say($(".said").textContent);
        """
    (said,) = browse(tmp_path / "uneven.html", point, tmp_path)
    assert "mean of 1 of 3 trials: 50.0 % on validation after epoch 5" in said


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_brushed_axis_filters_all_and_the_address_brings_the_choice_back(rated: Path, tmp_path: Path) -> None:
    brush = """
        await wait();
        const top = 36, bottom = $(".chart.axes").clientHeight - 18, holder = $(".chart.axes");
        mouse(holder, "mousedown", 70, (top + bottom) / 2); mouse(holder, "mousemove", 70, bottom - 40);
        mouse(holder, "mousemove", 70, bottom);
        mouse(holder, "mouseup", 70, bottom); await wait();
        """
    look = """
        await wait();
        const rates = visible().map(r => +r.cells[$$(".board th").findIndex(h => h.textContent === "lr")].textContent);
        say($(".shown").textContent); say("dots " + chart("dots").points.length); say(location.hash);
        const [low, high] = location.hash.slice(4).split("..").map(Number);
        say("inside " + rates.every(rate => low <= rate && rate <= high));
        """
    seen = browse(rated, brush + look, tmp_path)
    assert [*seen[:2], seen[2][:4], seen[3]] == ["8 of 16 configurations", "dots 16", "#lr=", "inside true"], seen
    assert browse(rated, look, tmp_path, seen[2]) == seen


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of 9,999 trials of 30 epochs, three seeds a point."""
    layout, epochs, seeds = Layout(tmp_path_factory.mktemp("big")), 30, 3
    one = next(configs(1, seeds=1, epochs=epochs))
    write_trial(layout, one, Images.draw(200, 100), sweep="big")
    write_plan(layout, [one], "big")
    pool = scan(layout, ["big"])
    rates = [f"{n:04d}" for n in range(10_000 // seeds)]
    trials = [
        dataclasses.replace(
            pool.trials[0],
            trial_id=f"{n * seeds + seed:012x}",
            point_id=f"{n:012x}",
            seed=seed,
            config={**pool.trials[0].config, "lr": 1e-4 * (1 + n), "freeze": ("none", 0.5, "all")[n % 3]},
            val_acc=0.5 + 0.4 * n / len(rates),
        )
        for n in range(len(rates))
        for seed in range(seeds)
    ]
    rng = np.random.default_rng(0)
    start = np.arange(len(trials) + 1, dtype=np.int64) * epochs
    curves = Curves(start, {name: rng.random(start[-1], np.float32) for name in CURVES})
    found = find(make_sections(dataclasses.replace(pool, trials=trials, curves=curves), layout)[0], layout)
    text = render_page([make_part(found, [], [], layout, "..", drawn=False)], [], title="big")
    page = layout.root / "big.html"
    page.write_text(text)
    return page


def test_a_page_of_ten_thousand_trials_stays_below_ten_megabytes(big: Path) -> None:
    assert big.stat().st_size < 10_000_000


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_page_of_ten_thousand_trials_shows_its_first_rows_and_filters_all(big: Path, tmp_path: Path) -> None:
    look = """
        await wait(); say(visible().length + " rows, " + $(".shown").textContent); say(chart("curves").lines.length + " lines");
        say($(".dotted").textContent.trim());
        $(".filter").value = "lr>0.3"; $(".filter").dispatchEvent(new Event("input")); say($(".shown").textContent);
        """
    assert browse(big, look, tmp_path) == [
        "200 rows, 3,333 of 3,333 configurations",
        "130 lines",
        "Its first 16 of 3,333 rows.",
        "333 of 3,333 configurations",
    ]


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
    text = write_report(
        [find(section, layout) for section in make_sections(scan(layout, ["live"]), layout)], layout
    ).read_text()
    assert f"<td>{now.trial_id}</td>" in text
    assert all(f"<td>{said}</td>" in text for said in ("2 of 6", "10 s", "40 s"))
    explore = json.loads(re.findall(r'id="data">(.*?)</script>', text)[0])["parts"][0]["explore"]
    assert (explore["trials"][-1][2], np.diff(explore["start"]).tolist()) == (now.trial_id, [6, 6, 2])


@pytest.fixture(scope="module")
def rated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of four rates by four depths."""
    layout = Layout(tmp_path_factory.mktemp("rated"))
    (base,) = configs(1, seeds=1, epochs=3)
    trials = [
        dataclasses.replace(base, freeze=freeze, lr=lr)
        for freeze, lr in itertools.product(("none", 0.25, 0.5, "all"), (1e-4, 1e-3, 1e-2, 0.1))
    ]
    for config in trials:
        write_trial(layout, config, Images.draw(200, 100), sweep="rated")
    write_plan(layout, trials, "rated")
    return write_report([find(section, layout) for section in make_sections(scan(layout, ["rated"]), layout)], layout)


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


def test_an_ensemble_without_gain_is_not_announced_and_tiny_sweeps_have_no_empty_figures(tmp_path: Path) -> None:
    found = _two_points(tmp_path, 1, 0.95, 0.4)
    assert any(line.startswith("No ensemble is measurably better") for line in headline(found))
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


def test_a_pivot_takes_any_axes_and_knows_the_nearest(layout: Layout) -> None:
    code, out, _ = run(layout, "report", "small", "--pivot", "lr/arch,freeze", "--format", "csv")
    assert code == 0
    assert out.splitlines()[0] == "split,lr," + ",".join(
        f'"{arch}, {freeze}"' for arch in ("resnet18", "vgg11_bn") for freeze in ("freeze none", "freeze 0.5", "freeze all")
    )
    assert len(out.splitlines()) == 1 + 2 * 2
    code, _, err = run(layout, "report", "small", "--pivot", "arhc")
    assert (code, "Did you mean 'arch'" in err) == (2, True)


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
