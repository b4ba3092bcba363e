"""The report's page at work, as a browser shows it: tables and charts that follow their reader, also of ten thousand trials."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.collect.scan import scan
from cifar_hpc.collect.sections import make_sections
from cifar_hpc.collect.trials import CURVES, Curves
from cifar_hpc.records.layout import Layout
from cifar_hpc.report.bundle import write_report
from cifar_hpc.report.findings import find
from cifar_hpc.report.page import make_part, render_page
from tests.helpers.reported import browse, needs_browser


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


@needs_browser
def test_a_browser_sorts_filters_unfolds_and_enlarges(small_page: Path, tmp_path: Path) -> None:
    seen = browse(
        small_page,
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
        data.written = new Date().toISOString(); age(); say("age " + $(".age").textContent);
        data.written = new Date(Date.now() - 3 * 3600e3).toISOString(); age(); say($(".age").textContent);
        """,
        tmp_path,
    )
    assert seen == [
        "rows 12",
        "ascending true",
        "filtered 2 2 of 12 configurations",
        "trials 3",
        "dialog true 1",
        "theme dark",
        "age ",
        ", 3 hours ago",
    ]


@needs_browser
def test_the_pages_filter_compares_as_the_commands_do_and_says_what_it_does_not_know(small_page: Path, tmp_path: Path) -> None:
    words = (
        "lr=1e-4,0.1",
        "lr != 0.1",
        "arch=ResNet18",
        "arch=r*18",
        "trials>2",
        "test_acc=null",
        "epochs=4",
        "gap>2 lr=0.1",
        "lr>high",
        "seeds>=3",
    )
    middle = """
        const c = $$(".board th").findIndex(h => h.textContent === "val acc %");
        const scores = visible().map(r => parseFloat(r.cells[c].textContent)).sort((a, b) => a - b), low = scores[5] + 0.25;
        const above = scores.filter(x => x > low).length;
        const found = text => {
            $(".filter").value = text; $(".filter").dispatchEvent(new Event("input"));
            return visible().length ? String(visible().length) : $(".shown").textContent.split("; ")[0];
        };
        for (const text of [`val_acc>${low / 100}`, `val acc>${low}`]) say(found(text) === String(above));
        """
    seen = browse(small_page, middle + "".join(f"say(found({text!r}));" for text in words), tmp_path)
    columns = "arch, freeze, lr, val_acc, test_acc, mean_time, seeds, id, trials"
    unknown = [
        f"{term}: no column has that name. The filter takes words, and comparisons (= != > < >= <=) of {columns}"
        for term in ("epochs=4", "gap>2")
    ]
    wrong = ("lr>high: > compares with a number", "seeds>=3: no number stands there")
    no_numbers = [unknown[0].replace("epochs=4: no column has that name", said) for said in wrong]
    assert seen == ["true", "true", "12", "6", "6", "6", "12", "0 of 12 configurations", *unknown, *no_numbers]


@needs_browser
def test_charts_follow_what_is_chosen_and_tell_what_is_pointed_at(small_page: Path, tmp_path: Path) -> None:
    seen = browse(
        small_page,
        r"""
        await wait();
        const colored = () => chart("curves").getOption().series.filter(s => s.lineStyle.width === 2.5).map(s => s.point);
        say("best five " + new Set(colored()).size);
        const scale = (kind, axis) => chart(kind).getModel().getComponent(axis).axis.scale.getExtent();
        say("folded names " + chart("dots").getOption().yAxis[0].axisLabel.lineHeight + " px a line");
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
        "best five 5", "folded names 14 px a line", "at most the whole true", "no further ,1,1,",
        "chosen alone true 1", "swatch true", "still focused true", "hovered true true", "says its accuracy true", "loss true",
    ]  # fmt: skip


@needs_browser
def test_the_address_keeps_the_curve_that_is_looked_at_and_the_figures_that_are_open(small_page: Path, tmp_path: Path) -> None:
    choose = """
        await wait(); $$('.metric button')[1].click(); $('#figures').open = true; await wait(); say(location.hash);
        say("Figures, each as PNG and SVG: " + $$("#figures figcaption b").map(b => b.textContent).join(", "));
        say($("#figures summary").textContent);
        """
    look = """
        await wait(); const loss = $$(".metric button")[1];
        say($(".lines").textContent.split(":")[0] + " " + loss.ariaPressed + " " + $("#figures").open);
        """
    address, there, told = browse(small_page, choose, tmp_path)
    assert there == told and "The best configurations" in there
    assert browse(small_page, look, tmp_path) == ["Accuracy false false"]
    assert browse(small_page, look, tmp_path, address) == ["Loss true true"]


@needs_browser
def test_more_chosen_rows_than_colours_are_told_apart_by_marks(small_page: Path, tmp_path: Path) -> None:
    seen = browse(
        small_page,
        r"""
        await wait();
        visible().slice(0, 9).forEach(r => r.querySelector("input").click()); await wait();
        const bold = chart("curves").lines.filter(l => l.lineStyle.width === 2.5);
        const mark = l => l.symbol ? l.data.map((_, n) => l.symbol(null, { dataIndex: n })).find(m => m !== "none") : "";
        const colours = bold.map(l => l.lineStyle.color), looks = bold.map(l => l.lineStyle.color + mark(l));
        say("looks " + new Set(looks).size + " colours " + new Set(colours).size);
        say(visible().slice(6, 9).map(r => r.querySelector(".swatch").className.trim()).join(", "));
        say($(".lines").textContent.split(". ").at(-1));
        """,
        tmp_path,
    )
    assert seen == [
        "looks 9 colours 7",
        "swatch, swatch rect, swatch rect",
        "From the eighth chosen row on colours come again, with marks.",
    ]


@needs_browser
def test_a_mean_that_is_pointed_at_says_of_how_many_trials_its_last_epoch_is(small_layout: Layout, tmp_path: Path) -> None:
    pool = scan(small_layout, ["small"])
    first = {trial.point_id: trial.trial_id for trial in reversed(pool.trials)}
    lengths = [5 if first[trial.point_id] == trial.trial_id else 2 for trial in pool.trials]  # two of three end early
    start = np.cumsum([0, *lengths], dtype=np.int64)
    curves = Curves(start, {name: np.full(start[-1], 0.5, np.float32) for name in CURVES})
    found = find(make_sections(dataclasses.replace(pool, curves=curves), small_layout)[0], small_layout)
    (tmp_path / "uneven.html").write_text(
        render_page([make_part(found, [], [], small_layout, "..", drawn=False)], [], title="uneven")
    )
    point = """
        await wait();
        const n = chart("curves").lines.findIndex(l => l.trial === undefined && l.id.startsWith("val"));
        chart("curves").trigger("mouseover", { seriesIndex: n }); await wait(); say($(".said").textContent);
        """
    (said,) = browse(tmp_path / "uneven.html", point, tmp_path)
    assert "mean of 1 of 3 trials: 50.0 % on validation after epoch 5" in said


@needs_browser
def test_a_loss_axis_that_is_cut_says_where_and_of_how_many_configurations(small_layout: Layout, tmp_path: Path) -> None:
    pool = scan(small_layout, ["small"])
    start = np.arange(len(pool.trials) + 1, dtype=np.int64) * 4
    values = {name: np.full(start[-1], 0.5, np.float32) for name in CURVES}
    values |= {name: np.full(start[-1], 1.04, np.float32) for name in ("train_loss", "val_loss")}
    values["val_loss"][:2] = 400  # one trial diverged for two epochs
    found = find(make_sections(dataclasses.replace(pool, curves=Curves(start, values)), small_layout)[0], small_layout)
    (tmp_path / "cut.html").write_text(
        render_page([make_part(found, [], [], small_layout, "..", drawn=False)], [], title="cut")
    )
    look = """
        await wait(); say($(".lines").textContent.split(". ").length);
        $$(".metric button")[1].click(); say($(".lines").textContent.split(". ").at(-1));
        """
    assert browse(tmp_path / "cut.html", look, tmp_path) == [
        "1",
        "The axis ends at 1.1, which one configuration exceeds in some epochs.",
    ]


@needs_browser
def test_a_brushed_axis_filters_all_and_the_address_brings_the_choice_back(rated: Path, tmp_path: Path) -> None:
    brush = """
        await wait();
        const bottom = $(".chart.axes").clientHeight - 18, from = (36 + bottom) / 2 + 20, holder = $(".chart.axes");
        mouse(holder, "mousedown", 70, from);
        for (let y = from; y < bottom; y += 5) { mouse(holder, "mousemove", 70, y); await wait(); }
        mouse(holder, "mousemove", 70, bottom); await wait();
        mouse(holder, "mouseup", 70, bottom); await wait();
        """
    look = """
        await wait();
        const rates = visible().map(r => +r.cells[$$(".board th").findIndex(h => h.textContent === "lr")].textContent);
        say($(".shown").textContent); say("dots " + chart("dots").points.length); say(location.hash);
        const [low, high] = location.hash.slice(4).split("..").map(Number);
        say("inside " + rates.every(rate => low <= rate && rate <= high));
        """
    let_go = """
        for (const type of ["mousedown", "mouseup", "click"]) mouse($(".chart.axes"), type, 70, 60);
        await wait(); say($(".shown").textContent + " " + location.hash);
        """
    seen = browse(rated, brush + look, tmp_path)
    assert [*seen[:2], seen[2][:4], seen[3]] == ["8 of 16 configurations", "dots 16", "#lr=", "inside true"], seen
    assert browse(rated, look + let_go, tmp_path, seen[2]) == [*seen, "16 of 16 configurations "]


@pytest.fixture(scope="module")
def renewed(small_layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the small sweep while trials run, which loads itself again after three seconds."""
    found = find(make_sections(scan(small_layout, ["small"]), small_layout)[0], small_layout)
    page = tmp_path_factory.mktemp("renewed") / "renewed.html"
    part = make_part(found, [], [], small_layout, "..", drawn=False)
    page.write_text(render_page([part], [], title="renewed", refresh_s=3))
    return page


@needs_browser
@pytest.mark.parametrize(
    ("does", "then"),
    [
        ("$('td input:not(:checked)').click(); $('td input').focus();", "reload 2 renewed while cifar-hpc report watches"),
        ("$('.open').click();", "navigate 0 not renewed while a row's trials are open"),
        ("$('.filter').focus();", "navigate 0 not renewed while you type in the filter"),
    ],
)  # fmt: skip
def test_the_page_renews_itself_with_a_chosen_row_and_says_what_holds_it(
    renewed: Path, tmp_path: Path, does: str, then: str
) -> None:
    look = """
        const come = performance.getEntriesByType("navigation")[0].type;
        if (come === "reload") for (let timer = 1; timer < 100; timer++) clearInterval(timer);  // once is enough
        else await new Promise(done => setTimeout(done, 5000));
        const told = $("header .muted").textContent.match(/[^.;]*renewed[^.;]*/)[0].trim();
        say(come + " " + $$("td input:checked").length + " " + told);
        """
    assert browse(renewed, does + look, tmp_path) == [then]


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


@needs_browser
def test_paper_says_which_part_of_the_table_it_shows(rated: Path, big: Path, tmp_path: Path) -> None:
    say = """
        await wait(); say($(".on-paper").textContent); say("on screen " + getComputedStyle($(".on-paper")).display);
        const print = [...document.styleSheets[0].cssRules].find(rule => rule.media && rule.media.mediaText === "print");
        say("on paper " + [...print.cssRules].find(rule => rule.selectorText === ".on-paper").style.display);
        """
    where = ["on screen none", "on paper block"]
    assert browse(rated, say, tmp_path) == ["", *where]
    chosen = "The table shows 4 of 16 configurations (filter: freeze=all, lr 0.00005..0.2); sentences and figures are of all."
    assert browse(rated, say, tmp_path, "#filter=freeze%3Dall&lr=0.00005..0.2") == [*chosen.split("; "), *where]
    first = "The table shows the first 200 of 3,333 configurations; sentences and figures are of all."
    assert browse(big, say, tmp_path) == [*first.split("; "), *where]


@needs_browser
def test_a_page_of_ten_thousand_trials_shows_its_first_rows_and_filters_all(big: Path, tmp_path: Path) -> None:
    look = """
        await wait(); say(visible().length + " rows, " + $(".shown").textContent); say(chart("curves").lines.length + " lines");
        say($(".dotted").textContent.trim());
        say($(".lines").textContent.match(/120 of[^;]*/)[0]);
        $(".filter").value = "lr>0.3"; $(".filter").dispatchEvent(new Event("input")); say($(".shown").textContent);
        say($(".on-paper").textContent.split(";")[0]);
        """
    assert browse(big, look, tmp_path) == [
        "200 rows, 3,333 of 3,333 configurations",
        "130 lines",
        "Its first 16 of 3,333 rows.",
        "120 of 9,999 trials, in the order of the table",
        "333 of 3,333 configurations",
        "The table shows the first 200 of 333 configurations (filter: lr>0.3)",
    ]


@needs_browser
def test_the_pages_filter_takes_text_as_the_table_prints_it(tmp_path: Path) -> None:
    layout, (base,) = Layout(tmp_path / "results"), configs(1, seeds=1, epochs=2)
    weights = [None, (("Formica rufa", 2.0),), (("Apis, the bee", 3.5), ("Formica rufa", 2.0))]
    trials = [dataclasses.replace(base, class_weights=one, arch_args=(("a", "1"),)) for one in weights]
    trials.append(dataclasses.replace(base, arch_args=(("a", "1.0"),)))  # text: another one than "1"
    for config in trials:
        write_trial(layout, config, Images.draw(200, 100), sweep="named")
    write_plan(layout, trials, "named")
    page = write_report([find(section, layout) for section in make_sections(scan(layout, ["named"]), layout)], layout)
    terms = ["Formica rufa:2", "Apis, the bee:3.5+Formica rufa:2 val_acc>=0", "null,Formica rufa:2", "null"]
    middle = """
        const at = $$(".board th").findIndex(h => h.textContent === "class_weights");
        const found = text => {
            $(".filter").value = text; $(".filter").dispatchEvent(new Event("input"));
            return visible().map(r => r.cells[at].textContent).sort().join(" | ");
        };
        """
    asked = [*(f"class_weights={term}" for term in terms), "arch_args.a=1.0"]
    asked.append('class_weights="Apis, the bee:3.5+Formica rufa:2"')
    seen = browse(page, middle + "".join(f"say(found('{term}'));" for term in asked), tmp_path)
    assert seen == ["Formica rufa:2", "Apis, the bee:3.5+Formica rufa:2", "- | - | Formica rufa:2", "- | -", "-", seen[1]]
