"""Bins, percentiles and exact sums, held against numpy on the values themselves."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from fractions import Fraction
from typing import Any

import intervals
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blkiomon.interval.distribution import (
    MAX_RELATIVE_ERROR,
    N_BINS,
    PERCENTILES,
    Distribution,
    bin_bounds,
    bin_of,
)

U64 = st.integers(0, 2**64 - 1) | st.integers(0, 63).map(lambda bits: 1 << bits)
VALUES = st.lists(st.integers(0, 2**44) | st.integers(0, 300), max_size=60)
EDGES = sorted({max(0, (1 << bits) + by) for bits in range(64) for by in (-1, 0, 1)} | {2**64 - 1})


def nearest_rank(values: list[int], percent: float) -> int:
    """The exact percentile of sorted values; the percentage as written in decimal."""
    return values[math.ceil(Fraction(str(percent)) / 100 * len(values)) - 1]


@given(st.lists(U64))
def test_bin_of_any_value_equals_the_engines(values: list[int]) -> None:
    assert bin_of(np.array(values, "u8")).tolist() == [intervals.bin_of(v) for v in values]


def test_bins_at_every_power_of_two_equal_the_engines() -> None:
    assert bin_of(EDGES).tolist() == [intervals.bin_of(value) for value in EDGES]


def test_bins_cover_all_64_bits_without_gaps() -> None:
    low, high = bin_bounds(np.arange(N_BINS))
    assert (low[0], high[-1]) == (0, 2**64 - 1)
    assert (low[1:] == high[:-1] + np.uint64(1)).all()
    assert bin_of(low).tolist() == bin_of(high).tolist() == list(range(N_BINS))


def test_middle_of_a_bin_is_within_the_error_bound() -> None:
    low, high = (bound.astype(object) for bound in bin_bounds(np.arange(1, N_BINS)))
    middle = low + (high - low) // 2
    for value in (low, high):
        assert (128 * abs(middle - value) < value).all()
    assert MAX_RELATIVE_ERROR == 1 / 128


def test_bin_number_out_of_range_is_refused() -> None:
    with pytest.raises(IndexError):
        bin_bounds([N_BINS])


@pytest.mark.parametrize("number", [1, 2, 3, 10, 99, 1000, 100_003])
@pytest.mark.parametrize("kind", ["lognormal", "uniform", "two humps", "few values"])
def test_percentiles_are_within_one_percent_of_numpys(number: int, kind: str) -> None:
    rng = np.random.default_rng(number)
    drawn: dict[str, Any] = {
        "lognormal": rng.lognormal(11, 2, number),
        "uniform": rng.uniform(0, 1e6, number),
        "two humps": np.where(rng.random(number) < 0.98, 80_000, 9e6) * rng.uniform(0.9, 1, number),
        "few values": rng.choice([0, 1, 127, 128, 129, 12345], number),
    }
    values = drawn[kind].astype("u8")
    distribution = Distribution.of(values.tolist())
    values.sort()
    in_order = values.tolist()
    for percent in (*PERCENTILES, 1, 5, 25, 75, 100):
        if Fraction(str(percent)) * number % 100 == 0 and percent != int(percent):
            continue  # 99.9 as a double is more than 999/1000, and numpy rounds the rank up
        exact = int(np.percentile(values, percent, method="inverted_cdf"))
        assert exact == nearest_rank(in_order, percent)
        found = distribution.percentile(percent)
        assert found is not None
        assert abs(found - exact) <= MAX_RELATIVE_ERROR * exact


@given(VALUES.filter(bool), st.sampled_from(PERCENTILES) | st.floats(1, 100))
def test_any_percentile_is_within_the_error_bound(values: list[int], percent: float) -> None:
    exact = nearest_rank(sorted(values), percent)
    found = Distribution.of(values).percentile(percent)
    assert found is not None
    assert min(values) <= found <= max(values)
    assert abs(found - exact) <= MAX_RELATIVE_ERROR * exact
    if exact < 128:
        assert found == exact


def test_percentage_is_used_as_the_decimal_that_was_written() -> None:
    assert Distribution.of([0] * 999 + [50]).percentile(99.9) == 0
    assert Distribution.of([0] * 998 + [50] * 2).percentile(99.9) == 50


def test_percentiles_of_few_values_include_the_exact_extremes() -> None:
    distribution = Distribution.of([1_000_003, 77_777_777])
    assert distribution.percentile(50) == 1_000_003
    assert distribution.percentile(99) == 77_777_777
    assert Distribution.of([2**64 - 1]).percentile(50) == 2**64 - 1


@pytest.mark.parametrize("percent", [0, -1, 100.1, math.nan])
def test_percentile_out_of_range_is_refused(percent: float) -> None:
    with pytest.raises(ValueError, match="from 1 to 100, not"):
        Distribution.of([1]).percentile(percent)


@given(VALUES)
def test_count_sum_and_extremes_are_exact(values: list[int]) -> None:
    d = Distribution.of(values)
    assert (d.count, d.sum, d.sum_squares) == (len(values), sum(values), sum(v * v for v in values))
    assert (d.min, d.max) == (min(values, default=None), max(values, default=None))
    assert d.mean == (sum(values) / len(values) if values else None)
    assert d.counts.sum() == len(values)


def test_stddev_keeps_small_differences_between_large_values() -> None:
    assert Distribution.of([2**50, 2**50 + 2]).stddev == 1.0
    assert Distribution.of([4096] * 1000).stddev == 0.0
    values = [3, 14, 15, 92, 65]
    assert Distribution.of(values).stddev == pytest.approx(np.std(values), rel=1e-15)


def test_fraction_as_a_percentage_is_refused_with_what_is_meant() -> None:
    values = Distribution.of(range(1000))
    for fraction, meant in ((0.99, "99"), (0.5, "50"), (0.999, "99.9")):
        with pytest.raises(ValueError, match=rf"use {meant}, not {fraction}$"):
            values.percentile(fraction)
    assert values.percentile(1) == 9


def test_distribution_is_shown_in_a_line_and_in_a_notebook() -> None:
    values = Distribution.of([*range(1, 100), 5000])
    assert repr(values) == "Distribution(count=100, min=1, p50=50, p99=99, max=5000)"
    assert repr(Distribution()) == "Distribution(count=0)"
    svg = ET.fromstring(values._repr_html_())
    assert svg.find("title").text == "100 values from 1 to 5,000"  # type: ignore[union-attr]
    bars = [int(bar.get("height", 0)) for bar in svg.findall("rect")]
    assert max(bars) == 60 and len(bars) > 10
    assert Distribution()._repr_html_() == "<p>0 values</p>"


def test_empty_distribution_has_no_figures() -> None:
    d = Distribution()
    assert (d.count, d.sum) == (0, 0)
    assert (d.min, d.max, d.mean, d.stddev, d.percentile(50)) == (None,) * 5


@given(VALUES, VALUES, VALUES)
def test_merged_distribution_equals_that_of_all_values(
    one: list[int], two: list[int], three: list[int]
) -> None:
    a, b, c = map(Distribution.of, (one, two, three))
    whole = Distribution.of(one + two + three)
    assert a.merge(b, c) == (a + b) + c == a + (b + c) == c + b + a == whole
    assert (a + b + c).percentile(90) == whole.percentile(90)


def test_distributions_that_differ_are_not_equal() -> None:
    assert Distribution.of([1, 4]) != Distribution.of([2, 3])
    assert Distribution.of([1]) != 1


def test_distribution_cannot_be_changed() -> None:
    d = Distribution.of([1, 2])
    for one in (d, d + d):
        for array in (one.bins, one.counts):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 5


def test_bounds_enclose_the_counted_values() -> None:
    d = Distribution.of([5, 5, 1000])
    assert list(zip(d.low.tolist(), d.high.tolist(), d.counts.tolist(), strict=True)) == [
        (5, 5, 2),
        (1000, 1007, 1),
    ]
