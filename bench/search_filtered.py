"""What does a `where` cost that 1 %, 10 % or 50 % of the records match?

detmem evaluates the filter over the metadata in every call. FAISS and NumPy know no metadata: they are handed the
answer of the filter, made outside the clock (a bitmap; the matching rows copied together), the least that an
application around them would have to do. So their columns are a floor, not a like-for-like.

Usage: search_filtered.py [--quick] [--rounds 15].
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from common import Paired, Side, contest, table
from data import Floats, MissingError, Set, noise, real
from engines import WARMING, arguments, faiss_module, opened, report, store, use_threads

COLUMNS = ("matching", "engine", "ms", "time / detmem's", "rounds")
SHARES = (1, 10, 50)


def main() -> None:
    options = arguments(__doc__)
    try:
        data = noise(2000, 32) if options.quick else real()["wordnet"]()
    except MissingError as reason:
        report("search_filtered", "Filtered search", f"**Missing:** {reason}")
        return
    buckets = np.random.default_rng(3).integers(0, 100, len(data.rows))
    rows: list[list[object]] = []
    with ExitStack() as stack:
        path = stack.enter_context(store(data, metadatas=[{"bucket": int(bucket)} for bucket in buckets]))
        collection = stack.enter_context(opened(path))
        for query in data.rows[:WARMING]:
            collection.search(query, 10)
        asks: dict[str, Callable[[Floats], Any]] = {"detmem, no filter": lambda query: collection.search(query, 10)}
        absent: dict[str, str] = {}
        for share in SHARES:
            chosen = np.flatnonzero(buckets < share)
            where = {"bucket": {"$lt": share}}
            asks[f"{share} % detmem"] = lambda query, where=where: collection.search(query, 10, where=where)
            asks[f"{share} % NumPy, rows ready"] = _numpy(data, chosen)
            if not options.quick:
                try:
                    asks[f"{share} % FAISS, bitmap ready"] = _faiss(stack, data, chosen)
                except ImportError as reason:
                    absent["FAISS"] = str(reason)
            _check(data, collection, where, chosen)
        sides = [
            Side(name, lambda index, ask=ask: ask(data.queries[index % 40]), lambda: use_threads(1))
            for name, ask in asks.items()
        ]
        taken = contest(sides, rounds=options.rounds, warmup=2)
    whole = taken.pop("detmem, no filter")
    rows.append(["all", "detmem", f"{whole.median_seconds * 1e3:.3f}", "", ""])
    for name, timing in taken.items():
        share, _, engine = name.partition(" % ")
        pair = Paired(taken[f"{share} % detmem"], timing)
        low, high = min(pair.ratios), max(pair.ratios)
        own = engine == "detmem"
        rows.append([f"{share} %", engine, f"{timing.median_seconds * 1e3:.3f}", "1" if own else f"{pair.ratio:.2f}"])
        rows[-1].append("" if own else f"{low:.2f}..{high:.2f}")
    rows += [["", name, "**absent**", reason, ""] for name, reason in absent.items()]
    size = f"{len(data.rows):,} x {data.rows.shape[1]}, one query, k = 10, one thread; {data.note}."
    said = __doc__.split("\n\n")[1]
    report("search_filtered", "Filtered search", f"{size}\n\n{said}\n\n{table(COLUMNS, rows)}")


def _numpy(data: Set, chosen: np.ndarray) -> Callable[[Floats], Any]:
    rows = data.peer_rows[chosen]

    def ask(query: Floats) -> Any:
        scores = -(rows @ query)
        nearest = np.argpartition(scores, 9)[:10]
        return chosen[nearest[np.argsort(scores[nearest])]]

    return ask


def _faiss(stack: ExitStack, data: Set, chosen: np.ndarray) -> Callable[[Floats], Any]:
    faiss = faiss_module()
    made: dict[str, Any] = stack.__dict__.setdefault("made", {})
    if "faiss" not in made:
        made["faiss"] = faiss.IndexFlatIP(data.rows.shape[1])
        made["faiss"].add(data.peer_rows)
    bits = np.zeros(len(data.rows), dtype=bool)
    bits[chosen] = True
    packed = np.packbits(bits, bitorder="little")
    selector = faiss.IDSelectorBitmap(len(data.rows), faiss.swig_ptr(packed))
    parameters = faiss.SearchParameters(sel=selector)
    made[f"selector {len(chosen)}"] = (packed, selector)  # FAISS does not keep them alive
    return lambda query: made["faiss"].search(query[None], 10, params=parameters)[1][0]


def _check(data: Set, collection: Any, where: dict[str, Any], chosen: np.ndarray) -> None:
    """The filtered answer is the best of the matching rows, up to the rounding of the stored vectors."""
    ask = _numpy(data, chosen)
    for query in data.queries[:5]:
        found = [int(id) for id in collection.search(query, 10, where=where).ids]
        assert set(found) <= set(chosen.tolist()), "a record that does not match is in the answer"
        ours, theirs = (np.sort(data.peer_rows[ids] @ query) for ids in (found, ask(query)))
        assert np.abs(ours - theirs).max() < 2e-4, "the filtered answer is not the nearest of the matching rows"


if __name__ == "__main__":
    main()
