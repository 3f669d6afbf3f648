"""How long the rest will take: from results that nothing compiled for, on a clock of our own."""

import pytest

from rainjax.evaluation.progress import Pace, duration, progress_bar


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def _pace(total, num_parts):
    clock = Clock()
    return Pace(total, num_parts, clock), clock


def test_what_compiles_is_no_pace():
    """A minute of compilation and results of a tenth of a second: not an hour, nine seconds."""
    pace, clock = _pace(total=100, num_parts=1)
    pace.begin_part()
    clock.now += 60
    pace.add(1)
    assert pace.seconds_left is None
    for _ in range(9):
        clock.now += 0.1
        pace.add(1)
    assert pace.seconds_left == pytest.approx(9.0)
    assert pace.share == 0.1


def test_parts_to_come_compile_too():
    pace, clock = _pace(total=40, num_parts=4)
    for wait in (10, 20):
        pace.begin_part()
        clock.now += wait
        pace.add(1)
        for _ in range(9):
            clock.now += 1
            pace.add(1)
    assert pace.seconds_left == pytest.approx(20 * 1 + 2 * 15)


def test_a_part_without_results_is_no_wait():
    pace, clock = _pace(total=10, num_parts=2)
    pace.begin_part()
    clock.now += 1000  # nobody attacks: only a score was made
    pace.begin_part()
    clock.now += 5
    pace.add(1)
    clock.now += 1
    pace.add(1)
    assert pace.seconds_left == pytest.approx(8.0)


def test_at_the_end_nothing_is_left():
    pace, clock = _pace(total=2, num_parts=1)
    pace.begin_part()
    pace.add(1)
    clock.now += 3
    pace.add(1)
    assert (pace.seconds_left, pace.share) == (0.0, 1.0)
    assert Pace(0).share == 1.0


def test_the_time_to_go_is_said_once_and_stays_in_a_log(capsys):
    with progress_bar(20, 1, unit="grad", shown=True) as bar:
        bar.begin_part("bare, PGD")
        for _ in range(20):
            bar.add(1)
            bar.after_batch()
    said = capsys.readouterr()
    assert not said.out
    assert said.err.count("About ") == 1
    assert "bare, PGD" in said.err


def test_nothing_is_said_to_who_wants_nothing(capsys):
    with progress_bar(5, 1, unit="grad", shown=False) as bar:
        bar.begin_part("bare, PGD")
        bar.add(5)
        bar.after_batch()
        bar.write("a line")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("seconds", "text"), [(9.4, "9 seconds"), (600.0, "10 minutes"), (7200.0, "2.0 hours")]
)
def test_durations_are_as_people_say_them(seconds, text):
    assert duration(seconds) == text
