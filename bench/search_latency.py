"""How long does one exact query take, against N, d, k, kernels and threads, and how long do the peers take?

Real vectors first (WordNet glosses, GloVe words, digits), then Gaussian noise and clusters for the sizes that no real
set has.  Queries are asked one by one; each turn asks a few, and all engines ask the same ones.  detmem has answered 96
other questions before the clock runs, so what it learns about a collection is learned by then.

Usage: search_latency.py [--quick] [--rounds 15] [--sets wordnet ...] [--huge]; --huge adds 1,000,000 rows.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

from common import Paired, Timing, picture, table
from data import MissingError, Set, clustered, noise, real
from engines import Field, agreement, arguments, best_peer, field_of, importable, race, report, standing, warm

__all__ = ["EXACT_PEERS", "measure", "per_turn", "ratio_to_best", "summary"]

EXACT_PEERS = ("FAISS Flat IP", "FAISS Flat L2", "usearch exact", "NumPy BLAS")
KERNELS = ("", "native", "portable", "reference")
GRID = (
    [(kind, count, 384) for kind in (noise, clustered) for count in (10_000, 100_000, 340_000)]
    + [(noise, 100_000, dim) for dim in (100, 768)]
    + [(noise, 10_000, 128), (noise, 5_000, 384)]  # as valoricore was measured by others
)


def per_turn(data: Set) -> int:
    """Queries asked in one turn: small sets get more, so that a turn is longer than the clock and its interruptions."""
    return 20 if data.rows.size <= 1 << 22 else 4


def measure(field: Field, data: Set, k: int, rounds: int) -> tuple[str, dict[str, Timing]]:
    """The sentence of agreement, and seconds for one query by engine label."""
    warm(field.engines, data, k)
    said = agreement(field, data, k)
    return said, race(field.engines, data.queries, k, rounds=rounds, per_turn=per_turn(data))


def main() -> None:
    options = arguments(__doc__, _add)
    parts, bars, curves = [], [], []
    quick = [("noise", lambda: noise(600, 32))]
    for name, make in quick if options.quick else [(name, real()[name]) for name in options.sets]:
        try:
            data = make()
        except MissingError as reason:
            parts.append(f"## {name}\n\n**Missing:** {reason}")
            continue
        if name == "wordnet":
            data = data.asking(data.queries[:40], data.note)
        parts.append(f"## {name}: {len(data.rows):,} x {data.rows.shape[1]}, {data.metric}\n\n{data.note}.")
        peers = (*EXACT_PEERS, "hnswlib")
        with field_of(data, kernels=KERNELS, peers=() if options.quick else peers) as field:
            for k in (10, 100):
                said, taken = measure(field, data, k, options.rounds)
                parts.append(f"k = {k}. {said}\n\n{standing(field, taken)}")
                if k == 10:
                    bars.append((name, field, taken))
        gc.collect()
    if not options.quick:
        grid = GRID + ([(kind, 1_000_000, 384) for kind in (noise, clustered)] if options.huge else [])
        for kind, count, dim in grid if options.grid else []:
            parts.append(_point(kind, count, dim, options.rounds, curves))
            gc.collect()
        if not options.huge:
            parts.append("1,000,000 rows: not run this time (`--huge`; it needs some 14 GB of free memory).")
    pictures = _pictures(bars, curves, "search_latency" if options.grid else "search_latency_part")
    body = f"{_OPENING}\n\n{pictures}\n\n## In short: k = 10\n\n{summary(bars)}\n\n" + "\n\n".join(parts)
    report("search_latency", "One exact query", body)


_OPENING = """Milliseconds for one query through the public call, and the time of each engine divided by detmem's with
the same threads (median, worst and best of the rounds): **a figure above 1 is slower than detmem, below 1 faster**.
`detmem` is what a user gets; the rows below it force one kernel. All but hnswlib are exact."""


def _add(parser: object) -> None:
    parser.add_argument("--sets", nargs="*", default=list(real()), choices=list(real()))
    parser.add_argument("--no-grid", dest="grid", action="store_false", help="only the real sets")
    parser.add_argument("--huge", action="store_true", help="1,000,000 x 384 as well")


def summary(bars: Sequence[tuple[str, Field, dict[str, Timing]]]) -> str:
    """One row an engine, one column a real set: the table that the front page shows."""
    names = dict.fromkeys(engine.name for _, field, _ in bars for engine in field.engines)
    rows = []
    for name in names:
        row = [name if name != "hnswlib" else "hnswlib (approximate)"]
        for _, field, taken in bars:
            cells = []
            for engine in field.engines:
                if engine.name == name:
                    pair = Paired(taken[field.named("detmem", engine.threads).label], taken[engine.label])
                    own = f"{pair.peer.median_seconds * 1e3:.2f} ms"
                    cells.append(own if name == "detmem" else f"{pair.ratio:.2f}")
            row.append(" / ".join(cells) or "**absent**")
        rows.append(row)
    return table(("one thread / two threads", *(name for name, _, _ in bars)), rows)


def _point(kind: Callable[[int, int], Set], count: int, dim: int, rounds: int, curves: list) -> str:
    free = _available_bytes()
    title = f"## {kind.__name__} {count:,} x {dim}, cosine"
    if free < 30 * count * dim:
        return f"{title}\n\n**Not run:** it needs {30 * count * dim / 1e9:.0f} GB, {free / 1e9:.0f} GB are free."
    data = kind(count, dim)
    peers = (*EXACT_PEERS, "valoricore") if count <= 10_000 else EXACT_PEERS
    kernels = ("", "portable") if count < 1_000_000 else ("",)  # a handle holds its own rows
    with field_of(data, kernels=kernels, peers=peers) as field:
        said, taken = measure(field, data, 10, rounds)
        curves.append((kind.__name__, count, dim, field, taken))
        return f"{title}\n\nk = 10. {said}\n\n{standing(field, taken)}"


def _available_bytes() -> int:
    """What may be taken without swapping, pages of cached files included; no limit where a system does not say."""
    told = Path("/proc/meminfo")
    if told.is_file():
        for line in told.read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 1 << 60


def _pictures(bars: Sequence, curves: Sequence, name: str) -> str:
    """Bars for the real sets, curves against N for 384 dimensions."""
    try:
        pyplot = importable("matplotlib.pyplot")
    except ImportError as reason:
        return f"No pictures: matplotlib is {reason}."
    pyplot.switch_backend("Agg")
    pyplot.rcParams["svg.hashsalt"] = "detmem"
    shown = []
    if bars:
        figure, axes = pyplot.subplots(
            1, len(bars), figsize=(4.2 * len(bars), 3.4), squeeze=False, layout="constrained"
        )
        for (title, field, taken), place in zip(bars, axes[0], strict=True):
            _bars(place, title, field, taken)
        figure.suptitle("One exact query, k = 10: milliseconds, less is better")
        shown.append(picture(name, figure))
    points = [(kind, count, field, taken) for kind, count, dim, field, taken in curves if dim == 384 and count > 5_000]
    if points:
        kinds = sorted({kind for kind, *_ in points})
        figure, axes = pyplot.subplots(
            1, len(kinds), figsize=(4.6 * len(kinds), 3.4), squeeze=False, layout="constrained"
        )
        for kind, place in zip(kinds, axes[0], strict=True):
            _curves(place, kind, [(count, field, taken) for which, count, field, taken in points if which == kind])
        axes[0][0].legend(fontsize=7)
        figure.suptitle("One exact query against N, 384 dimensions, one thread, k = 10")
        shown.append(picture(f"{name}_scaling", figure))
    return "\n\n".join(shown)


def _bars(place: object, title: str, field: Field, taken: dict[str, Timing]) -> None:
    names = [name for name in ("detmem", *EXACT_PEERS) if any(engine.name == name for engine in field.engines)]
    for offset, threads, shade in ((-0.2, 1, "#1f5f8b"), (0.2, 2, "#8fc1e3")):
        heights = [taken[field.named(name, threads).label].median_seconds * 1e3 for name in names]
        drawn = place.barh([index + offset for index in range(len(names))], heights, 0.38, color=shade)
        place.bar_label(drawn, fmt="%.2f", fontsize=7, padding=2)
        drawn.set_label(f"{threads} thread" + "s" * (threads > 1))
    place.set_yticks(range(len(names)), names, fontsize=8)
    place.invert_yaxis()
    place.margins(x=0.18)
    place.set_title(title, fontsize=10)
    place.spines[["top", "right"]].set_visible(False)
    place.legend(fontsize=7, loc="lower right")


def _curves(place: object, kind: str, points: Sequence) -> None:
    counts = [count for count, *_ in points]
    for name in ("detmem", "detmem portable", *EXACT_PEERS):
        there = [any(engine.name == name for engine in field.engines) for _, field, _ in points]
        if all(there):
            times = [taken[field.named(name, 1).label].median_seconds * 1e3 for _, field, taken in points]
            place.loglog(counts, times, marker="o", markersize=3, linewidth=2 if name == "detmem" else 1, label=name)
    place.set_xlabel("rows")
    place.set_ylabel("ms")
    place.set_title(kind, fontsize=10)
    place.grid(alpha=0.3, which="both")


def ratio_to_best(field: Field, taken: dict[str, Timing], threads: int = 1) -> Paired | None:
    """Against the better of FAISS and BLAS."""
    return best_peer(field, taken, ("FAISS Flat IP", "FAISS Flat L2", "NumPy BLAS"), threads)


if __name__ == "__main__":
    main()
