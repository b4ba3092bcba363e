"""Text of strangers (a record, a file's name, a log) made harmless before a terminal or a spreadsheet acts on it.

Owns: what passes to the terminal, in one place for what is printed and one for what rich draws, and what begins a cell of CSV
that people open. Knows nothing of what the text means.
"""

from __future__ import annotations

import contextlib
import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, TextIO, cast

from rich.console import Console
from rich.segment import Segment

_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")  # of a library's message: dropped, the words stay
# What moves the cursor, clears the screen, ends or turns a line round; not the tab and not the newline.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
_FORMULA = re.compile(r"'*[-=+@\t]")  # what is marked already is marked once more, so that a reader takes one mark off
_NUMBER = re.compile(r"[-+0-9.,eE %±()]*")


def harmless(text: str) -> str:
    """The text with what a terminal would act on spelled out, such as \\x1b; its lines and tabs stay."""
    if text.isprintable():
        return text
    return _CONTROLS.sub(_spell, _COLOURS.sub("", text).replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """As `harmless`, on one line: what stands in a cell or inside a sentence begins no line of its own."""
    return text if text.isprintable() else harmless(text).replace("\n", "\\n").replace("\t", " ")


def to_csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """CSV for people, each row a line. A text that a spreadsheet would take for a formula gets a quotation mark before it."""
    return to_data_csv([_cell(value) for value in row] for row in rows)


def to_data_csv(rows: Iterable[Sequence[Any]]) -> str:
    """CSV for programs, each row a line: every text as it is, so that names match."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def make_console(*, stderr: bool = False, **settings: Any) -> Console:
    """A rich console that draws no stranger's control characters, and no picture for a :word: of theirs."""
    return _HarmlessConsole(stderr=stderr, emoji=False, **settings)


@contextlib.contextmanager
def harmless_streams() -> Iterator[None]:
    """While inside, all that is printed to stdout and stderr is harmless. Rich, which has its own way, draws as ever."""
    out, error = (cast(TextIO, _HarmlessStream(stream)) for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        yield


class _HarmlessStream:
    def __init__(self, raw: TextIO) -> None:
        self._raw = raw
        self.rich_proxied_file = getattr(raw, "rich_proxied_file", raw)  # where rich writes instead

    def write(self, text: str) -> int:
        self._raw.write(harmless(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class _HarmlessConsole(Console):
    _file: IO[str] | None  # rich's own

    @property
    def file(self) -> IO[str]:
        """The terminal itself. A live picture puts a proxy of its own before what `harmless_streams` put there; rich looks
        behind one of the two, and the moves of its cursor would be spelled out by the other."""
        file = super().file
        while (behind := getattr(file, "rich_proxied_file", file)) is not file:
            file = behind
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file

    def _render_buffer(self, buffer: Iterable[Segment]) -> str:
        return super()._render_buffer(
            Segment(harmless(text), style, control) if not control else Segment(text, style, control)
            for text, style, control in buffer
        )


def _spell(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = harmless(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text
