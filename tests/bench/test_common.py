"""The measuring method, on a clock that stands still unless told: alternation, the median of ratios, and refusals."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

_PLACE = Path(__file__).resolve().parent.parent.parent / "bench" / "common.py"
_SPECIFICATION = importlib.util.spec_from_file_location("bench_common", _PLACE)
common = importlib.util.module_from_spec(_SPECIFICATION)
sys.modules["bench_common"] = common  # dataclasses look their module up by name
_SPECIFICATION.loader.exec_module(common)


class Clock:
    """Nanoseconds that pass only while somebody works."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


def test_sides_take_turns_and_the_order_turns_round():
    clock, turns = Clock(), []
    common.paired(lambda: turns.append("o"), lambda: turns.append("p"), peer_name="p", rounds=3, warmup=1, clock=clock)
    assert "".join(turns) == "op" + "op" + "po" + "op"


def test_ratio_is_the_median_of_the_rounds_so_one_disturbed_round_does_not_count():
    clock = Clock()
    own, peer = iter([100, 100, 900]), iter([200, 300, 900])

    def ours():
        clock.now += next(own)

    def theirs():
        clock.now += next(peer)

    result = common.paired(ours, theirs, peer_name="peer", rounds=3, warmup=0, clock=clock)
    assert result.ratios == pytest.approx((2.0, 3.0, 1.0))
    assert result.ratio == pytest.approx(2.0)
    assert result.row() == ["peer", "0.000", "0.000", "2.00", "1.00..3.00"]


def test_rate_is_things_per_second():
    clock = Clock()

    def work():
        clock.now += 2_000_000_000

    assert common.rate(10, common.timed("add", work, rounds=1, warmup=0, clock=clock)) == pytest.approx(5.0)


def test_table_with_a_missing_cell_is_refused():
    with pytest.raises(ValueError, match="row 1 has 1 cells, the table has 2 columns"):
        common.table(("a", "b"), [("1", "2"), ("3",)])


def test_zero_rounds_are_refused():
    with pytest.raises(ValueError, match="expected at least 1 round, found 0"):
        common.timed("nothing", lambda: None, rounds=0)


def test_header_names_date_commit_and_versions():
    line = common.header()
    assert "commit " in line
    assert "numpy " in line
    assert "Python " in line


def test_first_place_of_a_contest_moves_on_and_the_direction_turns():
    turns = []
    sides = [common.Side(name, lambda index, name=name: turns.append(name)) for name in "abc"]
    common.contest(sides, rounds=3, warmup=0, clock=Clock())
    assert "".join(turns) == "abc" + "acb" + "cab"


def test_a_side_is_made_ready_outside_the_clock_and_told_its_round():
    clock, told = Clock(), []

    def ready():
        clock.now += 1_000

    def work(index):
        told.append(index)
        clock.now += 100

    taken = common.contest([common.Side("only", work, ready)], rounds=2, warmup=1, clock=clock)
    assert taken["only"].seconds == pytest.approx((100e-9, 100e-9))
    assert told == [-1, 0, 1]


def test_two_sides_of_one_name_are_refused():
    side = common.Side("twice", lambda index: None)
    with pytest.raises(ValueError, match="different names"):
        common.contest([side, side], rounds=1)
