"""What the benchmarks make of what they have measured; how fast anything is, no test says."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.benchmarks.backlog import rate_of
from tests.benchmarks.frame import Figures, Report, Row, table
from tests.benchmarks.memory import MEDIAN_SECONDS, pictured, row_of

START = datetime(2026, 1, 1, tzinfo=UTC)


def row(ours: float, ceiling: float, *, at_least: float | None = None, at_most: float | None = None) -> Row:
    return Row(
        "A row", Figures("ours", "events/s", [ours]), Figures("a ceiling", "events/s", [ceiling]), at_least, at_most
    )


@pytest.mark.parametrize(
    ("one", "is_reached"),
    [
        (row(60, 100, at_least=0.6), True),
        (row(59, 100, at_least=0.6), False),
        (row(300, 100, at_most=3), True),
        (row(301, 100, at_most=3), False),
    ],
)
def test_a_ratio_is_reached_up_to_its_bound(one: Row, *, is_reached: bool) -> None:
    assert one.is_reached is is_reached
    assert ("NOT reached" in table([Report([one])])) is not is_reached


def test_a_row_without_a_bound_is_neither_reached_nor_not() -> None:
    assert "reached" not in table([Report([row(1, 2)])])


def test_the_median_of_the_rounds_stands_for_all() -> None:
    slow_once = Row("A row", Figures("ours", "s", [1, 9, 2]), Figures("a ceiling", "s", [4, 4, 0.1]))
    assert slow_once.ratio == 0.5


def test_what_stands_beside_two_rows_is_listed_once() -> None:
    ours, ceiling = Figures("ours", "events/s", [1234.4]), Figures("a ceiling", "events/s", [2000, 2001, 2002])
    _, rounds = table([Report([Row("One", ours, ceiling), Row("Another", ours, ceiling)])]).split("rounds")
    assert rounds.split() == ["median", "ours", "events/s", "1,234", "1,234", "a", "ceiling", "events/s", "2,001",
                              "2,000", "2,001", "2,002"]  # fmt: skip


def batches(*begun: tuple[float, int]) -> list[tuple[datetime, int]]:
    return [(START + timedelta(seconds=seconds), orders) for seconds, orders in begun]


def test_a_rate_leaves_out_the_warming_up_and_the_last_batch() -> None:
    slow_start_and_end = batches((0, 500), (5, 500), (6, 500), (7, 500), (8, 500))
    assert rate_of(slow_start_and_end, count=2_500) == 500


def test_too_few_batches_tell_no_rate() -> None:
    with pytest.raises(RuntimeError, match="too few"):
        rate_of(batches((0, 500)), count=500)


def test_memory_after_the_warming_up_stands_beside_that_of_the_end() -> None:
    samples = [50.0] * 60 + [100.0] * MEDIAN_SECONDS + [150.0] * 100 + [120.0] * MEDIAN_SECONDS
    grown = row_of("api", samples, 60)
    assert (grown.ceiling.median, grown.ours.median, grown.is_reached) == (100, 120, False)


def test_a_picture_of_what_hardly_changes_is_flat() -> None:
    assert set(pictured("api", [100.0, 100.5] * 60)[2]) == {"▁"}
    assert pictured("api", [100.0] * 30 + [200.0] * 30)[2] == "▁" * 30 + "█" * 30
