"""Where does the time of one exact query go, and how near is its scan to the memory's speed?

One thread.  Between two queries a buffer of 256 MB is read, as an application does other work: it empties the caches,
and its time is the memory's speed of that moment.  *Scan* reads the planes in order and leaves a bound of each block
and row; *seed* makes a threshold of the most promising blocks; *collect* looks up the rows that are left, and decides
them by their exact values; the *rest* is Python (the query's rounding, locks, arrays, the result), and takes a seventh
of it when the same is asked again at once.  Medians over the queries, part by part.

Usage: search_profile.py [--quick] [--rounds 15].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from common import table, write
from data import MissingError, Set, noise, real
from engines import arguments, field_of, scanned_bytes, warm

from detmem.search import kernels

BUFFER = 256 << 20
PARTS = ("scan", "seed", "collect")
COLUMNS = (
    "set", "k", "ms", "scan", "seed", "collect", "rest", "bytes a row", "scan reads, GB/s", "memory, GB/s",
)  # fmt: skip


@contextmanager
def clocked() -> Iterator[dict[str, float]]:
    """Seconds that each of the kernels' parts has taken, added up while it lasts."""
    spent = dict.fromkeys(PARTS, 0.0)
    honest = {name: getattr(kernels, name) for name in PARTS}

    def clock(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any) -> Any:
            began = time.perf_counter()
            found = call(*given)
            spent[name] += time.perf_counter() - began
            return found

        return timed

    for name, call in honest.items():
        setattr(kernels, name, clock(name, call))
    try:
        yield spent
    finally:
        for name, call in honest.items():
            setattr(kernels, name, call)


def profile(data: Set, k: int, rounds: int, buffer: int) -> list[object]:
    """A row of the table."""
    words = np.ones(buffer // 4, dtype=np.int32)
    with field_of(data, threads=(1,)) as field:
        (engine,) = field.engines
        warm(field.engines, data, k)
        taken: list[list[float]] = []
        with clocked() as spent:
            for number in range(4 * rounds):
                began = time.perf_counter()
                words.max()
                asked = time.perf_counter()
                spent.update(dict.fromkeys(PARTS, 0.0))
                engine.ask(data.queries[number % len(data.queries)], k)
                whole = time.perf_counter() - asked
                parts = [spent[name] for name in PARTS]
                taken.append([whole, *parts, whole - sum(parts), asked - began])
        whole, *parts, reading = np.median(np.array(taken), axis=0).tolist()
        scanned = scanned_bytes(engine)
        speed = len(data.rows) * scanned / parts[0] / 1e9 if parts[0] else 0.0
        shares = [f"{part * 1e3:.3f}" for part in parts]
        return [
            data.name,
            k,
            f"{whole * 1e3:.3f}",
            *shares,
            f"{scanned:.0f}",
            f"{speed:.1f}",
            f"{buffer / reading / 1e9:.1f}",
        ]


def main() -> None:
    options = arguments(__doc__)
    if options.quick:
        asked: list[tuple[Callable[[], Set], int]] = [(lambda: noise(600, 32), 10)]
    else:
        asked = [(real()[name], k) for name in ("wordnet", "glove", "mnist") for k in (10, 100)]
        asked += [(lambda: noise(300_000, 384), 10), (lambda: noise(5_000, 384), 10)]
    rows: list[list[object]] = []
    for make, k in asked:
        try:
            rows.append(profile(make(), k, options.rounds, 1 << 20 if options.quick else BUFFER))
        except MissingError as reason:
            rows.append([str(reason), k, "**missing**"])
    said = __doc__.split("\n\n")[1]
    write("search_profile", "Where one query's time goes", f"{said}\n\nMilliseconds.\n\n{table(COLUMNS, rows)}")


if __name__ == "__main__":
    main()
