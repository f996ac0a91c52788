"""How much faster is the jitted kernel than the definition, and what share of the memory's speed does it reach?

20,000 x 384 rows (made from a seed), one query, one thread, k = 10.  The two kernels answer in turns and their
answers are compared first; the limit is one pass over the rows' bytes (an integer maximum in NumPy).
"""

from __future__ import annotations

import statistics
import sys

import numpy as np
from common import PAIRED_COLUMNS, ROOT, paired, table, timed, write

sys.path.insert(0, str(ROOT))
from detmem import search

COUNT, DIM, K = 20_000, 384, 10


def main() -> None:
    rng = np.random.default_rng(20260303)
    rows = rng.integers(-20_000, 20_000, (COUNT, DIM)).astype(np.int32)
    queries = rng.integers(-20_000, 20_000, (1, DIM)).astype(np.int32)
    ids = [f"{number:05d}" for number in range(COUNT)]
    lines, shares = [], []
    reading = timed("reading", lambda: rows.max(), rounds=30)
    for metric in ("l2", "ip"):

        def answer(kernel: str, metric: str = metric) -> tuple[np.ndarray, np.ndarray]:
            return search.nearest(rows, ids, queries, K, metric, kernel=kernel)[0]

        for ours, theirs in zip(answer("portable"), answer("reference"), strict=True):
            assert np.array_equal(ours, theirs), "the kernels must agree before they are timed"
        result = paired(
            lambda answer=answer: answer("portable"),
            lambda answer=answer: answer("reference"),
            peer_name=f"reference, {metric}",
            rounds=30,
        )
        lines.append(result.row())
        share = statistics.median(reading.seconds) / result.ours.median_seconds
        shares.append(f"{metric}: {100 * share:.0f} %")
    body = f"{COUNT:,} x {DIM}, one query, one thread, k = {K}; ours is `portable`.\n\n"
    body += table(PAIRED_COLUMNS, lines)
    body += f"\n\nReading the {rows.nbytes / 1e6:.1f} MB of rows once takes {reading.median_seconds * 1e3:.2f} ms: "
    body += f"`portable`, selection included, reaches {', '.join(shares)} of that limit."
    write("search_kernels", "The jitted kernel against the definition", body)


if __name__ == "__main__":
    main()
