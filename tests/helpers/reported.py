"""A small sweep's records and its page, made once for all tests of the report, and a browser that shows a page."""

from __future__ import annotations

import dataclasses
import itertools
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.records.layout import Layout

CHROMIUM = shutil.which("chromium")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="session")
def small_layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
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


@pytest.fixture(scope="session")
def small_page(small_layout: Layout) -> Path:
    from cifar_hpc.collect.scan import scan  # what draws takes a second to import, and few tests draw
    from cifar_hpc.collect.sections import make_sections
    from cifar_hpc.report.bundle import write_report
    from cifar_hpc.report.findings import find

    sections = make_sections(scan(small_layout, ["small"]), small_layout)
    return write_report([find(section, small_layout) for section in sections], small_layout)


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
