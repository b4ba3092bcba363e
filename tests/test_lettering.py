"""Names in figures: a $ is a dollar, signs without a glyph get plain letters and a sentence, huge numbers stay short."""

from __future__ import annotations

import warnings

import pytest
from matplotlib.lines import Line2D

from cifar_hpc.report import lettering
from cifar_hpc.report.figures import (
    Drawing,
    house_style,
    legend_above,
    new_figure,
    page_svg,
    readable,
    save_drawings,
    value_labels,
)
from cifar_hpc.status.words import fixed_text, percent_text, points_text, score_text


def _drawing(*names):
    with house_style():
        figure = new_figure(3, 2)
        axes = figure.subplots()
        axes.plot(range(1, 1001), range(1, 1001), label=names[0])
        axes.set_xscale("log")
        axes.set_yticks(range(len(names)), names)
        axes.set_title(names[-1])
        axes.legend()
    return Drawing("x", "x", "Caption.", figure)


def test_dollars_in_names_are_drawn_as_they_are(tmp_path):
    drawing = readable(_drawing("US$ _x_ $y", "price $", r"$\frac$"))
    save_drawings([drawing], tmp_path)
    svg = page_svg(drawing)
    assert "US$ _x_ $y" in svg and r"$\frac$" in svg
    assert drawing.caption == "Caption."
    assert "mathdefault" not in svg and "10" in svg  # the ticks of a logarithmic axis are plain too


def test_a_sign_that_no_font_draws_gets_plain_letters_and_the_caption_says_which(tmp_path, monkeypatch):
    lettering.plain_sign.cache_clear()
    monkeypatch.setattr(lettering, "_glyphs", lambda: (frozenset(range(0x2000)),))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawing = readable(_drawing("猫", "Ärger", "emoji😀\ufe0f"))
            save_drawings([drawing], tmp_path)
        svg = page_svg(drawing)
    finally:
        lettering.plain_sign.cache_clear()
    assert "U+732B" in svg and "Ärger" in svg and "emoji[grinning face]" in svg
    assert "read U+732B for 猫, [grinning face] for 😀" in drawing.caption


def test_long_names_keep_their_ends_and_stay_apart():
    names = ["ant", "a_very_long_name_of_beetle_001", "a_very_long_name_of_beetle_002", "a_very_short_name_of_beetle_002"]
    assert lettering.fitting_names(names, 12) == ["ant", "a_very…e_001", "3 a_very…e_002", "4 a_very…e_002"]
    assert lettering.fitting_names(names, 40) == names


@pytest.mark.parametrize("length", [5, 40, 200])
def test_no_name_of_a_legend_is_cut_off_at_the_figures_edge(length):
    with house_style():
        figure = new_figure(6, 3)
        figure.subplots()
        legend_above(figure, [Line2D([], [], label=letter * length) for letter in "abcde"], "weights:")
        figure.canvas.draw()
    legend = figure.legends[0].get_window_extent()
    assert len(figure.legends) == 1 and legend.x0 > -1 and legend.x1 < figure.bbox.width + 1  # pixels


def test_a_legend_of_many_lines_leaves_the_panels_their_room():
    with house_style():
        figure = new_figure(6, 3)
        axes = figure.subplots()
        legend_above(figure, [Line2D([], [], label=f"{n} {'long' * 9}") for n in range(14)], "arch_args.name:")
        figure.draw_without_rendering()
    assert axes.get_window_extent().height / figure.dpi > 1.5  # inches


def test_a_value_of_ninety_letters_is_shortened_where_a_figure_names_it():
    one, other = value_labels(["a" * 90, "a" * 89 + "b"], "arch_args.name", 24)
    assert len(one) <= 26 and one != other and "…" in one


def test_installed_fonts_are_used_for_what_they_draw():
    assert lettering.font_families()[0] == "DejaVu Sans"
    assert lettering.plain_sign("a") == "a" and lettering.plain_sign("é") == "é"


@pytest.mark.parametrize(
    ("value", "text"), [(2.30259, "2.3026"), (1.9445e30, "1.944e+30"), (-3e7, "-3e+07"), (999999.4, "999999.4000")]
)
def test_huge_numbers_are_printed_shortly(value, text):
    assert fixed_text(value, 4) == text


@pytest.mark.parametrize("mean", [0.925, sum([0.925] * 3) / 3, 0.9249999999999999])
def test_a_half_is_rounded_one_way_wherever_it_is_shown(mean):
    """Of three seeds right on 37 of 40 images `sweep` said 92 % and `report` 93 %."""
    assert (percent_text(mean, 0), score_text(mean, 40), points_text(mean, 40)) == ("93", "93", "+93")
    assert fixed_text(100 * -mean, 0, "+") == "-93" and fixed_text(-0.001, 1) == "0.0"
