"""Sentences on a terminal: their lines end between words. Knows nothing of what they say.

A line that holds a command to copy stays whole, however long it is; a path or an address does in any line, and so does
everything in a pipe.
"""

from __future__ import annotations

import re
import shutil
import textwrap
from typing import TextIO

_COLUMN = re.compile(r" +(?:\S+ {2,})?")
_TO_COPY = re.compile(r"cifar-hpc ")


def laid_out(text: str, stream: TextIO) -> str:
    """The text as the stream's terminal shows it best."""
    if not stream.isatty():
        return text
    width = shutil.get_terminal_size().columns
    return "\n".join(line if _TO_COPY.search(line) else _folded(line, width) for line in text.split("\n"))


def _folded(line: str, width: int) -> str:
    """What stands behind a word in a column of its own, as in a dry run, stays behind it."""
    indent = " " * (column.end() if (column := _COLUMN.match(line)) else 0)
    return textwrap.fill(
        line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False, drop_whitespace=True
    )
