"""How long do 64 and 256 queries at once take, and how much do two threads help?

FAISS answers batches by its matrix product, NumPy by one product and argpartition.  Usage: search_batch.py [--quick]
[--rounds 7] [--sets wordnet ...].
"""

from __future__ import annotations

import statistics

from common import Paired, Timing
from data import MissingError, Set, noise, real
from engines import Field, agreement, arguments, field_of, race, report, standing, warm
from search_latency import EXACT_PEERS

__all__ = ["gain_of_threads", "measure"]

SIZES = (64, 256)


def measure(field: Field, data: Set, size: int, rounds: int, k: int = 10) -> dict[str, Timing]:
    """Seconds a batch, by engine label."""
    return race(field.engines, data.queries, k, rounds=rounds, batch=size)


def gain_of_threads(field: Field, taken: dict[str, Timing], name: str = "detmem") -> float:
    """How much faster two threads are than one."""
    return Paired(taken[field.named(name, 2).label], taken[field.named(name, 1).label]).ratio


def main() -> None:
    options = arguments(__doc__, lambda parser: parser.add_argument("--sets", nargs="*", default=["wordnet", "glove"]))
    parts = [_OPENING]
    for name, make in [("noise", lambda: noise(600, 32))] if options.quick else [(n, real()[n]) for n in options.sets]:
        try:
            data = make()
        except MissingError as reason:
            parts.append(f"## {name}\n\n**Missing:** {reason}")
            continue
        # Glosses of the set's own kind, not its 40 questions: there are enough of them, and they are the harder ones.
        asked = data.queries[40:] if name == "wordnet" else data.queries
        data = data.asking(asked, data.note)
        parts.append(f"## {name}: {len(data.rows):,} x {data.rows.shape[1]}, {data.metric}, k = 10\n\n{data.note}.")
        with field_of(data, kernels=("", "portable"), peers=() if options.quick else EXACT_PEERS) as field:
            warm(field.engines, data)
            parts.append(agreement(field, data, 10, count=64))
            for size in sorted({min(size, len(asked)) for size in SIZES}):
                taken = measure(field, data, size, min(options.rounds, 7))
                own = statistics.median(taken[field.named("detmem").label].seconds) / size
                text = f"### {size} at once\n\n{standing(field, taken)}\n\n"
                text += f"detmem: {own * 1e3:.3f} ms a query with one thread; two threads are "
                parts.append(text + f"{gain_of_threads(field, taken):.2f} times as fast as one.")
    report("search_batch", "Many exact queries at once", "\n\n".join(parts))


_OPENING = """Milliseconds for the whole batch, and the time of each engine divided by detmem's with the same threads:
**above 1 is slower than detmem, below 1 faster**. detmem has answered 96 other questions, singly and at once, before
the clock runs."""


if __name__ == "__main__":
    main()
