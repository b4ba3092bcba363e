"""Numbers as words: shares, durations, counts."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from cifar_hpc.config.words import plural
from cifar_hpc.records.usage import Accounting


def fixed_text(value: float, digits: int, sign: str = "") -> str:
    """'92.50', a half away from zero: 92.5 is 93 also where a mean of three left it a hair below; '1.945e+30' where digits
    behind the point would stand behind dozens before it. sign: '+' for one always."""
    if not abs(value) < 1e6:
        return f"{value:{sign}.4g}"
    rounded = Decimal(f"{value:.12g}").quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP)
    return f"{rounded + 0:{sign}f}"  # + 0: no -0.0


def percent_text(share: float | None, digits: int = 2) -> str:
    """'91.30'; empty for None."""
    return "" if share is None else fixed_text(100 * share, digits)


def total_text(trials_n: int, to_come_n: int) -> str:
    """'9 trials'; 'up to 24 trials' where a search may still sample some."""
    return f"up to {plural(trials_n + to_come_n, 'trial')}" if to_come_n else plural(trials_n, "trial")


def digits_of(images: int | None, most: int = 2) -> int:
    """The decimals of a percentage that so many images can tell: none below 100, one below 1,000, and `most` at most."""
    return min(most, 2 if images is None or images >= 1000 else 1 if images >= 100 else 0)


def decimals_of(images: int | None, *, share: bool, most: int = 2) -> int:
    """Of an objective's value: those of a percentage or, where it is no share, two more, which stand for as much. most: of a
    percentage."""
    return digits_of(images, most) + (0 if share else 2)


def score_text(share: float | None, images: int | None, most: int = 2) -> str:
    """A share of images in percent, without the decimals that they cannot tell; empty for None."""
    return percent_text(share, digits_of(images, most))


def points_text(difference: float, images: int | None, most: int = 2) -> str:
    """The difference of two shares of the same images in percentage points: '+0.4', '-3'; '0' where they cannot tell it."""
    text = fixed_text(100 * difference, digits_of(images, most), "+")
    return text if float(text) else text[1:]


def duration_text(seconds: float | None) -> str:
    """'48 s', '12.5 min', '3.2 h'; empty for None."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s" if seconds >= 0.1 else "under 0.1 s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def about_text(seconds: float) -> str:
    """'about 48 s', of an estimate; 'under 0.1 s'."""
    text = duration_text(seconds)
    return text if text.startswith("under") else f"about {text}"


def hours_text(hours: float) -> str:
    """'under 0.01', '0.02', '1.5', '140'."""
    if 0 < hours < 0.01:
        return "under 0.01"
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


def device_hours_text(hours: float, device: str) -> str:
    """'1.5 GPU-hours'; '1.5 hours on CPU' of one or many cores, which a cluster counts each as CPU-hours."""
    return f"{hours_text(hours)} hours on CPU" if device == "cpu" else f"{hours_text(hours)} {device_text(device)}-hours"


def device_text(device: str) -> str:
    """Whose hours they are: 'GPU', 'CPU'."""
    return {"cuda": "GPU", "cpu": "CPU"}.get(device, device)


def allocated_text(found: Accounting) -> str:
    """'3.2 GPU-hours and 12 CPU-hours in 9 starts of jobs, 84 % of that time in training'; without the share where it is not
    known."""
    gpus = f"{hours_text(found.gpu_hours)} GPU-hours and " if found.gpu_hours else ""
    hours = f"{gpus}{hours_text(found.cpu_hours)} CPU-hours"
    trained, share = found.trained_hours, ""
    if trained is not None and 0 < found.hours >= trained:
        share = f", {100 * trained / found.hours:.0f} % of that time in training"
    as_of = "" if found.ended else f", as of {moment_text(found.at)}"
    return f"{hours} in {plural(found.starts, 'start')} of jobs{share}{as_of}"


def moment_text(at: str) -> str:
    """'2026-11-27 08:15:40 UTC', of a record's time."""
    return f"{at[:19].replace('T', ' ')} UTC"
