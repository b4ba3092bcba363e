"""Numbers as words: shares, durations, counts."""

from __future__ import annotations


def percent_text(share: float | None, digits: int = 2) -> str:
    """'91.30'; empty for None."""
    return "" if share is None else f"{100 * share:.{digits}f}"


def duration_text(seconds: float | None) -> str:
    """'48 s', '12.5 min', '3.2 h'; empty for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.1 else "under 0.1 s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def plural(count: int, noun: str) -> str:
    """'1 trial', '2 trials'."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def number_text(value: float, digits: int) -> str:
    """'2.3026'; '1.945e+30' where digits behind the point would stand behind dozens before it."""
    return f"{value:.{digits}f}" if abs(value) < 1e6 else f"{value:.4g}"
