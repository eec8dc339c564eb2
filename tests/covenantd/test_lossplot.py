"""The plot as an XML parser sees it."""

import math
import re
from xml.etree import ElementTree

import hypothesis.strategies as st
from hypothesis import example, given

from covenantd.lossplot import Line, plot

SVG = "{http://www.w3.org/2000/svg}"
ANY = st.floats() | st.integers(-5, 5).map(float)
LINES = st.lists(
    st.builds(Line, st.text(max_size=30), st.lists(st.tuples(ANY, ANY), max_size=6), st.booleans()), max_size=4
)


def drawn(lines: list[Line]) -> ElementTree.Element:
    return ElementTree.fromstring(plot(lines, title="Loss & <time>", x="round", y="loss"))


def curves(svg: ElementTree.Element) -> list[list[tuple[float, float]]]:
    points = [element.attrib["points"] for element in svg.iter(f"{SVG}polyline")]
    return [[(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())] for line in points]


def frame(svg: ElementTree.Element) -> tuple[float, float, float, float]:
    """left, right, top, bottom; the top is where the first legend stands."""
    axis = next(element for element in svg.iter(f"{SVG}line") if element.get("class") == "axis")
    return float(axis.attrib["x1"]), float(axis.attrib["x2"]), 44, float(axis.attrib["y1"])


@given(LINES)
@example([])
@example([Line("flat", [(0, 1), (1, 1)])])
@example([Line("one", [(3, 2.5)])])
@example([Line("broken", [(0, math.nan), (1, math.inf), (2, -math.inf)])])
@example([Line("huge", [(0, 1e20), (1, 1e20)])])
@example([Line("far", [(1e20, 1), (1e20, 2)])])
@example([Line("close", [(0, 1.0), (1, 1.0 + 2**-52)])])
@example([Line("tiny", [(0, 5e-324), (1, 0.0)])])
@example([Line("wide", [(-1e99, -1e99), (1e99, 1e99)])])
@example([Line("\x00\x1b]<&\"'", [(0, 1)])])
def test_any_lines_make_a_plot_with_everything_inside_its_frame(lines: list[Line]) -> None:
    svg = drawn(lines)
    left, right, top, bottom = frame(svg)
    for curve in curves(svg):
        assert all(left <= x <= right and top <= y <= bottom for x, y in curve)
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    for element in svg.iter(f"{SVG}text"):
        assert 0 <= float(element.attrib["x"]) <= width and 0 <= float(element.attrib["y"]) <= height
    assert len(curves(svg)) == sum(any(finite(point) for point in line.points) for line in lines)


def finite(point: tuple[float, float]) -> bool:
    return all(math.isfinite(value) and abs(value) < 1e100 for value in point)


def test_a_falling_loss_falls_on_paper() -> None:
    ((first, second, third),) = curves(drawn([Line("loss", [(0, 7.0), (1, 5.0), (2, 4.0)])]))
    assert first[0] < second[0] < third[0] and first[1] < second[1] < third[1]


def test_points_that_are_no_numbers_are_skipped_and_the_others_stay() -> None:
    broken = [(0, 1.0), (1, math.nan), (2, 2.0), (3, math.inf)]
    assert curves(drawn([Line("x", broken)])) == curves(drawn([Line("x", [(0, 1.0), (2, 2.0)])]))


def test_many_lines_are_all_drawn_and_the_legend_says_how_many_it_leaves_out() -> None:
    svg = drawn([Line(f"miner-{number}", [(0, number), (1, number + 1)]) for number in range(100)])
    texts = [element.text or "" for element in svg.iter(f"{SVG}text")]
    named = sum(text.startswith("miner-") for text in texts)
    assert len(curves(svg)) == 100 and f"and {100 - named} more" in texts and named > 10


def test_a_long_name_is_cut_where_the_picture_ends() -> None:
    svg = drawn([Line("x" * 500, [(0, 1)])])
    assert max(len(element.text or "") for element in svg.iter(f"{SVG}text")) < 40


def test_ticks_are_round_numbers() -> None:
    svg = drawn([Line("loss", [(0, 6.93), (8, 4.31)])])
    texts = [element.text or "" for element in svg.iter(f"{SVG}text")]
    numbers = [text for text in texts if re.fullmatch(r"[\d.]+", text)]
    assert numbers == ["4.5", "5", "5.5", "6", "6.5", "7", *map(str, range(9))]


def test_nothing_outside_the_file_is_needed() -> None:
    text = plot([Line("a", [(0, 1)])], title="t", x="x", y="y")
    assert "href" not in text and "url(" not in text and "script" not in text
