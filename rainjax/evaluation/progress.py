"""How far work is, and how long the rest will take, for somebody who waits for it."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


class Pace:
    """Estimates how long the rest of some work takes, in parts that each compile first.

    What passes from the beginning of a part to its first result is mostly compilation, which says
    nothing of the results after it: the two are measured apart, and added up for what is left.
    """

    def __init__(
        self, total: int, num_parts: int = 0, clock: Callable[[], float] = time.perf_counter
    ):
        self._total, self._num_parts, self._clock = total, num_parts, clock
        self._made = 0  # all results
        self._timed, self._seconds = 0, 0.0  # those that nothing compiled for, and their time
        self._started = 0
        self._waits: list[float] = []  # from the beginning of a part to its first result
        self._began, self._last = clock(), None

    def begin_part(self) -> None:
        """Says that what comes next compiles first."""
        self._started += 1
        self._began, self._last = self._clock(), None

    def add(self, count: int) -> None:
        """Says that so many results have come."""
        now = self._clock()
        if self._last is None:
            self._waits.append(now - self._began)
        else:
            self._timed += count
            self._seconds += now - self._last
        self._last = now
        self._made += count

    @property
    def share(self) -> float:
        """How much of the work is done, in [0, 1]."""
        return self._made / self._total if self._total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take; None before anything was timed."""
        if not self._timed:
            return None
        waits = sum(self._waits) / len(self._waits) * max(self._num_parts - self._started, 0)
        return (self._total - self._made) * self._seconds / self._timed + waits


class Progress:
    """A bar on stderr whose time to go is that of a `Pace`.

    After a hundredth of the work it says once, in a line that stays in a log, how long the rest
    will take.
    """

    def __init__(self, total: int, num_parts: int = 0, *, unit: str, shown: bool = True):
        self._pace, self._shown, self._told = Pace(total, num_parts), shown, False
        self._bar = tqdm(
            total=total, unit=unit, unit_scale=True, mininterval=1, bar_format=_FORMAT,
            disable=not shown or not total,
        )  # fmt: skip

    def begin_part(self, name: str) -> None:
        """Says which part comes next."""
        self._pace.begin_part()
        self._bar.set_description_str(name, refresh=False)
        self._show()

    def add(self, count: int) -> None:
        """Counts results."""
        self._pace.add(count)
        self._show(refresh=False)
        self._bar.update(count)

    def after_batch(self) -> None:
        """Says once how long the rest will take, if enough has been seen to know."""
        left = self._pace.seconds_left
        if self._told or left is None or self._pace.share < 0.01 or self._bar.disable:
            return
        self._told = True
        self.write(f"About {duration(left)} to go.")

    def write(self, text: str) -> None:
        """Writes a line above the bar."""
        if self._shown:
            self._bar.write(text, file=sys.stderr)

    def _show(self, refresh: bool = True) -> None:
        left = self._pace.seconds_left
        text = "compiling" if left is None else f"{duration(left)} to go"
        self._bar.set_postfix_str(text, refresh=refresh)

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.set_postfix_str("", refresh=False)
        self._bar.close()


@contextlib.contextmanager
def progress_bar(total: int, num_parts: int = 0, *, unit: str, shown: bool) -> Iterator[Progress]:
    """Shows a bar for `total` results of so many parts, which each compile first."""
    made = Progress(total, num_parts, unit=unit, shown=shown)
    try:
        yield made
    finally:
        made.close()


def duration(seconds: float) -> str:
    """Returns a time as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"
