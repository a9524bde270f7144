"""The report's pictures: what is drawn where, in which colour, and that names can be read."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.container import ErrorbarContainer
from matplotlib.text import Annotation

from benchmarks.deployments import DEPLOYMENTS
from benchmarks.report.cost import cost, part
from benchmarks.report.palette import looks
from benchmarks.report.plots import apart, draw, spread, title_of, total_by_rtt, traffic
from benchmarks.rows import Row
from tests.support.benchmark_rows import row

STEPS = (0.08, 0.5, 1.35, 2.7)


def _rows() -> list[Row]:
    """Both set-ups, two bandwidths, loopback and steps; a deployment nobody knows, and a peer."""
    found = []
    for name, slower in (("cloud-only", 1.0), ("naive split", 9.0), ("from elsewhere", 1.5)):
        for mbit in (5.0, 30.0):
            for rtt in (3.0, 20.0, 100.0):
                found.append(row(deployment=name, rtt_ms=rtt, mbit=mbit, total_s=slower * 2))
        at = {"deployment": name, "setup": "real", "mbit": None, "total_s": slower * 2}
        found.append(row(**at, rtt_ms=0.0))
        found += [row(**at, rtt_ms=8.0 * steps, rtt_steps=steps) for steps in STEPS]
    peer = row(setup="real", rtt_ms=0.0, mbit=None, deployment="llama.cpp cloud", peer=True)
    return [*found, peer]


def _line(panel: Axes, name: str) -> tuple[list[float], list[float], str]:
    """Round trips, milliseconds and colour of a deployment's line."""
    (found,) = (
        each
        for each in panel.containers
        if isinstance(each, ErrorbarContainer) and each.get_label() == name
    )
    line = found.lines[0]
    xs, ys = (numpy.asarray(each).tolist() for each in (line.get_xdata(), line.get_ydata()))
    return xs, ys, to_hex(line.get_color())


def test_every_picture_is_1200_pixels_wide_and_the_same_for_the_same_rows(tmp_path: Path) -> None:
    names = {"total_by_rtt_paced", "total_by_rtt_real", "cost_paced", "cost_real", "bytes"}
    made = []
    for folder in (tmp_path / "a", tmp_path / "b"):
        folder.mkdir()
        files = draw(_rows(), folder)
        assert set(files) == names
        made.append({name: file.read_bytes() for name, file in files.items()})
    for name, content in made[0].items():
        assert content.startswith(b"\x89PNG")
        assert int.from_bytes(content[16:20]) == 1200, name
        # Another version of the library is no other picture.
        assert b"Matplotlib" not in content
    assert made[0] == made[1]


def test_one_round_trip_makes_no_line_and_peers_no_picture(tmp_path: Path) -> None:
    assert set(draw([row(), row(deployment="x")], tmp_path)) == {"cost_paced", "bytes"}
    peer = row(setup="real", rtt_ms=0.0, mbit=None, deployment="peer", peer=True)
    assert draw([peer], tmp_path) == {}


def test_a_panel_is_a_bandwidth_and_a_line_a_deployment() -> None:
    changed = [
        row(rtt_ms=rtt, mbit=30.0, deployment="x", total_s=total, total_s_low=1.0, total_s_high=9.0)
        for rtt, total in ((100.0, 6.0), (3.0, 3.0))
    ]
    figure = total_by_rtt([*_rows(), *changed], "paced")
    shown = [panel for panel in figure.axes if panel.containers]
    assert [panel.get_title(loc="left") for panel in shown] == ["5 Mbit/s", "30 Mbit/s"]
    xs, ys, _ = _line(shown[1], "x")
    assert xs == [3.0, 100.0]
    assert ys == pytest.approx([50.0, 100.0])
    assert not [each for each in shown[0].containers if each.get_label() == "x"]
    (bars,) = (each for each in shown[1].containers if each.get_label() == "x")
    assert isinstance(bars, ErrorbarContainer)
    low, high = bars.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((1e3 / 60, 9e3 / 60))
    assert "paced: 7B unit costs" in figure.get_suptitle()
    assert "llama" not in str([panel.get_legend_handles_labels() for panel in figure.axes])


def test_a_single_panel_names_its_lines_and_says_their_last_time() -> None:
    own = [each for each in _rows() if each.setup == "paced" and each.mbit == 30.0]
    figure = total_by_rtt(own, "paced")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:3] == ["cloud-only  33.3", "from elsewhere  50.0", "naive split  300"]
    assert texts[3] == "ms a token at 100 ms"
    assert "30 Mbit/s" in figure.get_suptitle()


def test_a_picture_says_how_tokens_were_chosen() -> None:
    rows = [replace(each, temperature=0.8, top_p=0.95, seed=5) for each in _rows()]
    own = [each for each in rows if each.setup == "paced"]
    made = (total_by_rtt(rows, "paced"), traffic(rows), cost(own, [own[0].cell], title_of(own)))
    for figure in made:
        assert "temperature 0.8, top-p 0.95" in figure.get_suptitle()
    for figure in (total_by_rtt(_rows(), "paced"), traffic(_rows())):
        assert "temperature" not in figure.get_suptitle()


def test_a_deployment_has_one_colour_everywhere() -> None:
    seen = {name: to_hex(look.colour) for name, look in looks(["naive split", "x"]).items()}
    rows = [*_rows(), row(deployment="x", rtt_ms=3.0), row(deployment="x", rtt_ms=20.0)]
    rows = [each for each in rows if each.deployment != "from elsewhere"]
    lines = total_by_rtt(rows, "paced").axes
    assert _line(lines[0], "naive split")[2] == seen["naive split"]
    assert _line(lines[1], "naive split")[2] == seen["naive split"]
    assert _line(lines[1], "x")[2] == seen["x"]
    panels = traffic(rows).axes
    assert len(panels) == 4
    for up, down in (panels[:2], panels[2:]):
        # Names stand at the left panel only.
        place = [label.get_text() for label in up.get_yticklabels()].index("naive split")
        for panel in (up, down):
            assert to_hex(panel.containers[0][place].get_facecolor()) == seen["naive split"]


def test_every_deployment_is_told_apart_by_colour_and_by_marker() -> None:
    names = [*DEPLOYMENTS, *(f"unknown {number}" for number in range(7))]
    found = looks(names)
    assert list(found) == list(DEPLOYMENTS) + names[len(DEPLOYMENTS) :]
    assert len({look.colour for look in found.values()}) == len(names)
    assert len({look.marker for look in found.values()}) == len(names)
    # More than there are colours still get one.
    assert looks([f"unknown {number}" for number in range(40)])["unknown 39"].colour
    assert looks(names)["naive split"] == looks(["naive split"])["naive split"]


def test_labels_are_pushed_apart_and_keep_their_order() -> None:
    heights = {"a": 0.50, "b": 0.51, "c": 0.515, "d": 0.9}
    placed = spread(heights, 0.05)
    ordered = [placed[name] for name in "abcd"]
    gaps = [upper - lower for lower, upper in pairwise(ordered)]
    assert min(gaps) > 0.05 - 1e-9
    assert placed["d"] == pytest.approx(0.9)
    # Neither all above nor all below where the lines end.
    assert max(abs(placed[name] - heights[name]) for name in heights) < 0.05
    assert spread({}, 0.05) == {}


def test_labels_stay_below_what_says_what_they_are() -> None:
    heights = {str(number): 0.9 + 0.005 * number for number in range(17)}
    placed = spread(heights, 0.05, 0.97)
    ordered = [placed[name] for name in heights]
    assert max(ordered) <= 0.97 + 1e-9
    assert min(upper - lower for lower, upper in pairwise(ordered)) > 0.05 - 1e-9
    assert min(ordered) >= 0
    many = [row(deployment=f"n{n}", rtt_ms=rtt, total_s=9.0) for n in range(30) for rtt in (3, 50)]
    texts = total_by_rtt([row(), row(rtt_ms=50.0), *many], "paced").axes[0].texts
    places = [text.xyann[1] for text in texts if isinstance(text, Annotation)][:31]
    assert 0 <= min(places) < max(places) <= 0.97 + 1e-9


def test_ticks_that_would_overlap_are_left_out() -> None:
    assert apart([0.0, 0.68, 4.25, 11.5, 22.9]) == [0.68, 4.25, 11.5, 22.9]
    assert apart([3.0, 10.0, 100.0]) == [3.0, 10.0, 100.0]


def test_parts_make_up_the_total_and_overlap_is_not_drawn_as_rest() -> None:
    told = row(total_s=3.0, edge_s=0.6, cloud_s=1.2, network_s=0.3)
    names = ("edge_s", "cloud_s", "network_s", "rest_s")
    assert [part(told, name) for name in names] == pytest.approx([10, 20, 5, 15])
    overlapping = row(total_s=2.0, edge_s=1.5, cloud_s=1.5, network_s=0.5)
    assert part(overlapping, "rest_s") == 0


def test_bars_stack_and_one_that_is_far_too_long_is_cut_with_an_arrow() -> None:
    rows = [
        row(total_s=2.0),
        row(deployment="naive split", total_s=60.0, network_s=57.0),
        row(deployment="x", total_s=3.0, edge_s=0.6, cloud_s=1.2, network_s=0.3),
    ]
    figure = cost(rows, [rows[0].cell], "paced: 7B unit costs")
    (panel,) = figure.axes
    names = [label.get_text() for label in panel.get_yticklabels()]
    assert names == ["x", "naive split", "cloud-only"]
    ends = [container[0].get_x() + container[0].get_width() for container in panel.containers]
    assert ends == pytest.approx([10, 30, 35, 50])
    assert [text.get_text() for text in panel.texts] == ["50.0", "1000 →", "33.3"]
    assert 50 < panel.get_xlim()[1] < 100
    assert "paced: 7B unit costs" in figure.get_suptitle()


def test_bytes_are_bodies_inside_of_what_crossed_the_wire() -> None:
    told = row(bytes_up=6000, wire_up=12_000, bytes_down=600, wire_down=1200)
    up, down = traffic([told]).axes
    for panel, body in ((up, 100), (down, 10)):
        bodies, wire = panel.containers
        assert bodies[0].get_width() == pytest.approx(body)
        assert wire[0].get_width() == pytest.approx(2 * body)
        assert panel.get_xscale() == "log"
        assert panel.texts[0].get_text() == f"{body}  ({2 * body})"
    assert "3 ms, 30 Mbit/s" in up.get_title(loc="left")
