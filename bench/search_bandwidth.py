"""What share of the memory's speed does one exact query reach?

The limit: the bytes that must be read, one for each component of the coarse plane, at the read bandwidth measured here
in the same rounds (the largest integer of 512 MB, in NumPy, with one or two threads).  On noise no front plane helps,
so the share is that of the scan itself; on real vectors it may pass 1, because a front reads less than one byte a
component.

Usage: search_bandwidth.py [--quick] [--rounds 15].
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from common import Paired, Side, Timing, contest, table, write
from data import MissingError, Set, noise, real
from engines import THREADS, Field, arguments, field_of, use_threads, warm

__all__ = ["measure"]

BUFFER = 512 << 20
COLUMNS = ("set", "engine", "threads", "ms", "read bandwidth, GB/s", "GB/s of components", "share of the limit")


def measure(field: Field, data: Set, rounds: int, buffer: int = BUFFER) -> dict[str, tuple[Timing, float, float]]:
    """By label of each detmem engine: its timing, the bandwidth in bytes a second, and the share of the limit."""
    words = np.ones(buffer // 4, dtype=np.int32)
    warm(field.engines, data)
    with ThreadPoolExecutor(max(THREADS)) as pool:
        sides = [
            Side(f"reading, {count}", functools.partial(_read, pool, np.array_split(words, count))) for count in THREADS
        ]
        for engine in field.engines:
            work = functools.partial(_ask, engine.ask, data)
            sides.append(Side(engine.label, work, functools.partial(use_threads, engine.threads)))
        taken = contest(sides, rounds=rounds, warmup=2)
    found = {}
    for engine in field.engines:
        reading = taken[f"reading, {engine.threads}"]
        # The limit in the same round is reading's seconds, scaled from the buffer to the plane.
        share = Paired(taken[engine.label], reading).ratio * data.rows.size / buffer
        found[engine.label] = taken[engine.label], buffer / reading.median_seconds, share
    return found


def _read(pool: ThreadPoolExecutor, parts: list[Any], index: int) -> None:
    list(pool.map(np.max, parts))


def _ask(ask: Any, data: Set, index: int) -> None:
    ask(data.queries[index % len(data.queries)], 10)


def main() -> None:
    options = arguments(__doc__)
    sets = [lambda: noise(600, 32)] if options.quick else [lambda: noise(300_000, 384), real()["wordnet"]]
    rows: list[list[object]] = []
    for make in sets:
        try:
            data = make()
        except MissingError as reason:
            rows.append(["wordnet", "**missing**", "", "", "", "", reason])
            continue
        kernels = ("",) if options.quick else ("", "portable")
        with field_of(data, kernels=kernels) as field:
            found = measure(field, data, options.rounds, 1 << 20 if options.quick else BUFFER)
            for engine in field.engines:
                timing, bandwidth, share = found[engine.label]
                rate = data.rows.size / timing.median_seconds
                rows.append([data.name, engine.name, engine.threads, f"{timing.median_seconds * 1e3:.3f}"])
                rows[-1] += [f"{bandwidth / 1e9:.1f}", f"{rate / 1e9:.1f}", f"{share:.2f}"]
    write("search_bandwidth", "One query against the memory's speed", f"{_said()}\n\n{table(COLUMNS, rows)}")


def _said() -> str:
    return __doc__.split("\n\n")[1]


if __name__ == "__main__":
    main()
