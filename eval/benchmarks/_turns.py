"""How what is fast is timed."""

import time
from collections.abc import Callable
from typing import Any


def turn(call: Callable[[], Any], min_seconds: float) -> float:
    """Returns the seconds of a call, the mean over as many as fill `min_seconds`.

    One call before them is not counted: right after another turn's work, a call of one
    millisecond was seen to take three.
    """
    call()
    begun, calls = time.perf_counter(), 0
    while not calls or time.perf_counter() - begun < min_seconds:
        call()
        calls += 1
    return (time.perf_counter() - begun) / calls
