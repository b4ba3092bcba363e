"""Names of people in figures: which fonts draw them, and plain letters for those that none here can draw.

Owns: the font list, what replaces a sign without a glyph, how a long name is shortened.
A $ in a name is a dollar, not the beginning of a formula.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache

from matplotlib import font_manager
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedFormatter, FixedLocator, LogFormatter, LogFormatterMathtext

# What has the signs that the first has not, where it is installed: Chinese, Japanese and Korean, emoji, other scripts.
_FAMILIES = (
    "DejaVu Sans",
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Source Han Sans SC", "WenQuanYi Zen Hei"),
    *("WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans GB", "Microsoft YaHei", "SimHei", "Droid Sans Fallback"),
    *("Noto Emoji", "Noto Sans Symbols2", "Symbola", "Noto Sans Arabic", "Noto Sans Hebrew", "Noto Sans Devanagari"),
    *("Noto Sans Bengali", "Noto Sans Tamil", "Noto Sans Thai", "Arial Unicode MS"),
)
_UNSEEN = ("Cf", "Mn", "Me")  # joiners and marks: without a glyph they are left out
SHOWN = 12  # replaced signs that a caption spells out


@cache
def font_families() -> list[str]:
    """Those of _FAMILIES that are installed; DejaVu Sans comes with matplotlib."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return [family for family in _FAMILIES if family in installed]


@cache
def plain_sign(sign: str) -> str:
    """The sign itself where a font here draws it; else its name or number in plain letters."""
    if ord(sign) < 128 or any(ord(sign) in codes for codes in _glyphs()):
        return sign
    if unicodedata.category(sign) in _UNSEEN:
        return ""
    name = unicodedata.name(sign, "")
    return f"U+{ord(sign):04X}" if not name or "IDEOGRAPH" in name else f"[{name.lower()}]"


def fitting_names(names: Sequence[str], most: int) -> list[str]:
    """Different names that have room beside one another: a longer one keeps its beginning and its end; where that makes two
    equal, each has its number, from 1, before it."""
    short = [name if len(name) <= most else f"{name[: most // 2]}…{name[len(name) - (most - 1) // 2 :]}" for name in names]
    counts = Counter(short)
    return [f"{number} {one}" if counts[one] > 1 else one for number, one in enumerate(short, 1)]


def make_readable(figure: Figure) -> str:
    """Replaces in the figure's text what no font here draws; a sentence that says so, empty where nothing was.

    Ticks of logarithmic axes are written without formulas, as all text is.
    """
    replaced: dict[str, str] = {}

    def plain(text: str) -> str:
        signs = [plain_sign(sign) for sign in text]
        replaced.update((sign, drawn) for sign, drawn in zip(text, signs, strict=True) if sign != drawn and drawn)
        return "".join(signs)

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            _plain_ticks(axis)
            if isinstance(axis.get_major_locator(), FixedLocator):  # names; their texts are written again at each drawing
                labels = axis.get_major_formatter().format_ticks(list(axis.get_majorticklocs()))
                if (drawn := [plain(label) for label in labels]) != labels:
                    axis.set_major_formatter(FixedFormatter(drawn))
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text():
            text.set_text(plain(text.get_text()))
    if not replaced:
        return ""
    pairs = ", ".join(f"{drawn} for {sign}" for sign, drawn in list(replaced.items())[:SHOWN])
    return f"No font on this machine draws some signs of these names: read {pairs}{', ...' * (len(replaced) > SHOWN)}."


def _plain_ticks(axis: Axis) -> None:
    if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
        axis.set_major_formatter(LogFormatter())
    if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
        axis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


@cache
def _glyphs() -> tuple[frozenset[int], ...]:
    """The signs that each font of the list draws."""
    paths = [font_manager.findfont(font_manager.FontProperties(family=family)) for family in font_families()]
    return tuple(frozenset(font_manager.get_font(path).get_charmap()) for path in paths)
