"""A stranger's text neither moves a cursor nor begins a line nor becomes a formula."""

from __future__ import annotations

import csv
import errno
import html
import io
import json
import re
import sys

import pytest
from markdown_it import MarkdownIt
from rich.live import Live
from rich.table import Table
from typer.testing import CliRunner

from benchmarks.pool import Images, configs, write_plan, write_trial
from cifar_hpc.cli import app, of_the_place
from cifar_hpc.config.image_table import unmarked
from cifar_hpc.records.layout import Layout, results_root
from cifar_hpc.terminal.harmless import harmless, harmless_streams, make_console, one_line
from cifar_hpc.terminal.tables import Format, TextColumn, heading, to_csv, to_latex, to_markdown

EVIL = "a\x1b[2J\x1b]0;owned\x07\rb\nc\x9b31m\u202ed"


def test_a_word_between_colons_stays_that_word(capsys):
    table = Table()
    table.add_row("a:star:b")
    console = make_console(width=80)
    for what in (table, "in d.py:ghost: choose"):
        console.print(what, markup=False)
    said = capsys.readouterr().out
    assert "a:star:b" in said and "in d.py:ghost: choose" in said


def test_what_a_terminal_acts_on_is_spelled_out_and_colours_are_dropped():
    assert harmless(EVIL) == "a\\x1b[2J\\x1b]0;owned\\x07\\rb\nc\\x9b31m\\u202ed"
    assert harmless("\x1b[31mred\x1b[0m\r\n\tx") == "red\n\tx"
    assert one_line("a\nb\tc") == "a\\nb c"
    assert harmless("Zürich 中文 🦎 é") == "Zürich 中文 🦎 é"


def test_what_is_printed_is_harmless_and_rich_still_draws():
    out = io.StringIO()
    error = io.StringIO()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, error
    try:
        with harmless_streams():
            print(EVIL)
            console = make_console(stderr=True, force_terminal=True)
            console.print(f"[bold]{EVIL}")
            with Live(EVIL, console=console):
                pass
    finally:
        sys.stdout, sys.stderr = before
    assert out.getvalue() == harmless(EVIL) + "\n"
    assert "\x1b[1m" in error.getvalue() and "\x1b[?25l" in error.getvalue()  # bold, and the cursor that Live hides
    for sign in ("\x1b[2J", "\x1b]0", "\x07", "\u202e"):
        assert sign not in error.getvalue()


def test_a_cell_begins_no_line_in_any_form():
    columns = [TextColumn("x", (EVIL, "ok"))]
    assert len(to_markdown(columns).splitlines()) == 4
    assert "\x1b" not in to_latex(columns)


SIGNS = [
    "a|b",
    "c_d%$&#~^",
    "_x_ and $y$",
    "`x` *b*",
    "<b>&amp;",
    "{x}\\y",
    "a\\|b\\",
    "[1](2)",
    "~~no~~ --",
    "* a",
    "[2pt]",
    "val_acc",
]


def test_markdown_shows_every_sign_of_a_cell_and_of_a_title():
    columns = [TextColumn(text, (text,)) for text in SIGNS]
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(to_markdown(columns))
    cells = re.findall(r"<t[hd]>(.*?)</t[hd]>", shown)
    assert [html.unescape(cell) for cell in cells] == SIGNS * 2
    assert html.unescape(MarkdownIt("commonmark").render(heading("a_ <b> *c* `d`", Format.MD))) == "<h2>a_ <b> *c* `d`</h2>\n"


def test_latex_reads_every_sign_of_a_cell_as_text():
    row = to_latex([TextColumn(str(n), (text,)) for n, text in enumerate(SIGNS)]).splitlines()[4].removesuffix(r" \\")
    for sign, name in {
        "\\": "backslash",
        "~": "asciitilde",
        "^": "asciicircum",
        "<": "less",
        ">": "greater",
        "|": "bar",
    }.items():
        assert sign == "\\" or sign not in row
        row = row.replace(rf"\text{name}{{}}", f"\0{ord(sign)}\0")
    row = row.replace(r"\`{}", "`").replace("{*}", "*").replace("{[}", "[").replace("-{}-", "--")
    assert not re.search(r"(?<!\\)[$#%_{}]", row)
    row = re.sub(r"\0(\d+)\0", lambda found: chr(int(found[1])), re.sub(r"\\([$&#%_{}])", "\\1", row.replace(" & ", "\n")))
    assert row.split("\n") == SIGNS


@pytest.mark.parametrize("text", ["=1+1", "+cmd|' /C calc'!A0", "-2+3+cmd", "@SUM(A1)", '=HYPERLINK("x")', "'-x.png", "''=q"])
def test_a_text_that_a_spreadsheet_takes_for_a_formula_gets_a_quotation_mark(text):
    written = list(csv.reader(io.StringIO(to_csv([{"file": text}]))))[1][0]
    assert written.startswith("'")
    assert unmarked(written) == text  # as `dataset.labels` reads it


def test_numbers_stay_numbers_in_csv():
    assert to_csv([{"a": -1.5, "b": "-0.30 %", "c": "+2 ± 1", "d": "1e-3"}]).splitlines()[1] == "-1.5,-0.30 %,+2 ± 1,1e-3"


def test_no_command_passes_a_records_escape_sequences_on():
    layout = Layout(results_root())
    trials = list(configs(2, 1, 2))
    for config in trials:
        write_trial(layout, config, Images.draw(20, 20))
    write_plan(layout, trials)
    files = layout.trial(trials[0].trial_id)
    result = json.loads(files.result.read_text())
    del result["digest"]
    result["outcome"], result["reason"], result["best_epoch"], result["val"] = "diverged", EVIL, None, None
    files.result.write_text(json.dumps(result))
    plan = layout.sweep("pool").plan
    planned = json.loads(plan.read_text()) | {"spec_path": EVIL}
    del planned["digest"]
    plan.write_text(json.dumps(planned))
    for command in (["status", "pool"], ["report", "pool"], ["status"], ["report", "pool", "--format", "csv"]):
        done = CliRunner().invoke(app, command)
        assert done.exit_code in (0, 1), done.output
        for sign in ("\x1b[2J", "\x1b]0", "\x07", "\r", "\x9b", "\u202e"):
            assert sign not in done.output


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EMFILE, errno.ESTALE, errno.EROFS, errno.EDQUOT])
def test_what_the_system_refuses_is_a_sentence_in_every_command(monkeypatch, number):
    def refuse(*args, **kwargs):
        raise RuntimeError("a library's own words") from OSError(number, "the system's words", "/some/place")

    monkeypatch.setattr("cifar_hpc.records.layout.Layout.sweeps", refuse)
    done = CliRunner().invoke(app, ["status"])
    assert done.exit_code == 2
    assert "error: /some/place: the system's words" in done.output and "Traceback" not in done.output


def test_a_fault_of_this_program_is_not_taken_for_the_systems():
    assert of_the_place(FileNotFoundError(errno.ENOENT, "x")) is None
    assert of_the_place(ValueError()) is None
