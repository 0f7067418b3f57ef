"""When the rate is back after a fault: a single event is no rate, and a queue that nobody takes from is not back."""

from math import inf

import pytest

from tests.faults.rate import WINDOW_SECONDS, Sample, seconds_until_back, usual_rate

USUAL = 100.0


def samples(*per_window: float, unconsumed: tuple[int, ...] = ()) -> list[Sample]:
    """Samples from 0 s on, with so many events a second between each two; none consumes at the end of some windows."""
    taken = [Sample(0.0, 0.0, is_consumed=True)]
    for number, rate in enumerate(per_window):
        at, assessed = taken[-1].at + WINDOW_SECONDS, taken[-1].assessed + rate * WINDOW_SECONDS
        taken.append(Sample(at, assessed, is_consumed=number not in unconsumed))
    return taken


def test_the_usual_rate_is_that_of_most_windows() -> None:
    assert usual_rate(samples(USUAL, 0, USUAL, 3 * USUAL, USUAL)) == USUAL


@pytest.mark.parametrize(
    ("per_window", "unconsumed", "since", "seconds"),
    [
        ([USUAL] * 4, (), 0.0, 0.5),
        ([0, 0, USUAL / 2], (), 0.0, 1.5),
        ([2, 2, 2, 2], (), 0.0, inf),  # an event now and then
        ([USUAL, USUAL, USUAL], (), 0.2, 0.8),  # the window of the fault says nothing
        ([USUAL, 0, 0, USUAL], (), 0.4, 1.6),
        ([USUAL, USUAL, USUAL], (0, 1), 0.0, 1.5),
        ([USUAL, USUAL], (), 1.0, inf),
    ],
)
def test_the_rate_is_back_at_the_end_of_the_first_whole_window_that_has_it(
    per_window: list[float], unconsumed: tuple[int, ...], since: float, seconds: float
) -> None:
    assert seconds_until_back(samples(*per_window, unconsumed=unconsumed), since, USUAL) == pytest.approx(seconds)
