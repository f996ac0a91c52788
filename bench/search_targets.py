"""The targets of the design, each with what is measured here and now, and whether it is met.

One run measures them all, on the same machine; ratios are medians of rounds taken in turns.  The other scripts have the
wider tables behind each line.  A target whose data or peer is missing is said to be so, and is not met.

The limit of one query is memory: ``bound`` is what the ratio would be if detmem and the peer did nothing but read what
they scan, at the same speed.  That of opening is what the standard library takes to read the snapshot and to hash each
row's vector, content, key and leaf, which is how the state root is checked.  ``search_profile.md`` says where the time
of a query goes.

Usage: search_targets.py [--quick] [--rounds 15] [--count 1000000].
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import search_bandwidth
import search_batch
import search_cold
import search_memory
from common import Paired, table
from data import MissingError, Set, noise, real
from engines import Field, agreement, arguments, best_peer, field_of, report, scanned_bytes, warm
from search_latency import measure, ratio_to_best

PEERS = ("FAISS Flat IP", "FAISS Flat L2", "NumPy BLAS")


@dataclass(frozen=True)
class Line:
    """``met`` is None where nothing could be measured."""

    target: str
    wanted: str
    found: str
    met: bool | None
    bound: str = ""


def at_least(target: str, wanted: float, pair: Paired | None, bound: str = "") -> Line:
    """A ratio to the better peer."""
    if pair is None:
        return Line(target, f">= {wanted:g}x", "no peer is installed here", None)
    ours, peer = pair.ours.median_seconds * 1e3, pair.peer.median_seconds * 1e3
    found = f"{pair.ratio:.2f}x ({ours:.3f} ms, {pair.peer.name} {peer:.3f} ms)"
    return Line(target, f">= {wanted:g}x", found, pair.ratio >= wanted, bound)


def _bound(field: Field, data: Set) -> str:
    """The ratio at which both only read, for one query."""
    scanned = scanned_bytes(field.named("detmem"))
    floats = 4 * data.rows.shape[1]
    return f"{floats / scanned:.2f}x ({floats} bytes a row, {scanned:.0f} here)"


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count > 1)


def single(name: str, data: Set, wanted: dict[int, float], rounds: int, *, portable: bool = False) -> Iterator[Line]:
    with field_of(data, kernels=("", "portable"), peers=PEERS) as field:
        for k, ratio in wanted.items():
            taken = measure(field, data, k, rounds)[1]
            bound = _bound(field, data)
            for threads in (1, 2):
                what = f"one query, {name}, k = {k}, {_threads(threads)}, vs the better of FAISS Flat and BLAS"
                yield at_least(what, ratio, ratio_to_best(field, taken, threads), bound)
            if portable and k == 10:
                flat = best_peer(field, taken, PEERS[:2], 1, "detmem portable")
                yield at_least(f"portable path, {name}, k = 10, 1 thread, vs FAISS Flat", 1.5, flat)
                gain = Paired(taken[field.named("detmem", 2).label], taken[field.named("detmem", 1).label])
                found = f"two threads are {gain.ratio:.2f} times as fast as one"
                yield Line(f"one query, {name}: two threads not slower than one", ">= 1x", found, gain.ratio >= 0.98)


def batches(name: str, data: Set, rounds: int) -> Iterator[Line]:
    with field_of(data, peers=PEERS) as field:
        warm(field.engines, data)
        agreement(field, data, 10)
        for size in sorted({min(size, len(data.queries)) for size in search_batch.SIZES}):
            taken = search_batch.measure(field, data, size, rounds)
            for threads in (1, 2):
                what = f"{size} queries at once, {name}, {_threads(threads)}, vs the better of FAISS Flat and BLAS"
                yield at_least(what, 5, best_peer(field, taken, PEERS, threads))
            gain = search_batch.gain_of_threads(field, taken)
            yield Line(f"{size} at once, {name}: two threads against one", ">= 1.6x", f"{gain:.2f}x", gain >= 1.6)


def bandwidth(data: Set, rounds: int, buffer: int) -> Iterator[Line]:
    with field_of(data, threads=(1,)) as field:
        timing, speed, share = search_bandwidth.measure(field, data, rounds, buffer)[field.named("detmem").label]
        found = f"{share:.2f} ({timing.median_seconds * 1e3:.2f} ms; reading {speed / 1e9:.1f} GB/s)"
        what, scanned = (
            f"share of the bandwidth limit, one query, {data.name}, 1 thread",
            scanned_bytes(field.engines[0]),
        )
        bound = f"{data.rows.shape[1] / scanned:.2f} ({scanned:.0f} bytes a row with what bounds the error)"
        yield Line(what, ">= 0.8", found, share >= 0.8, bound)


def memory(name: str, data: Set) -> Iterator[Line]:
    component = search_memory.bytes_per_component(data, "detmem")[0]
    what = f"memory for vectors, per component, all planes ({name}, {len(data.rows):,} x {data.rows.shape[1]})"
    yield Line(what, "<= 4 bytes", f"{component:.2f} bytes", component <= 4)


def valoricore(data: Set, rounds: int) -> Iterator[Line]:
    with field_of(data, peers=("valoricore",), threads=(1,)) as field:
        taken = measure(field, data, 10, rounds)[1]
        pair = best_peer(field, taken, ("valoricore",), 1)
        yield at_least(f"vs valoricore, {data.name}, one query, k = 10", 2, pair)


def cold(rows: int, dim: int, rounds: int) -> Iterator[Line]:
    taken = search_cold.first_answers(noise(rows, dim), rounds, peers=False)[0]
    seconds = taken["detmem"].median_seconds
    what = f"import, open {rows:,} rows, first answer, cold process (the interpreter's start included)"
    yield Line(what, "<= 0.3 s", f"{seconds:.2f} s", seconds <= 0.3)


def opening(count: int, dim: int, rounds: int) -> Iterator[Line]:
    pair, hashing, size = search_cold.opening(noise(count, dim), rounds)
    ours, reading = pair.ours.median_seconds, pair.peer.median_seconds
    what = (
        f"open {count:,} x {dim} from a snapshot, to the first answer, against reading the file ({size / 1e6:.0f} MB)"
    )
    found = f"{1 / pair.ratio:.1f}x ({ours:.2f} s, {reading:.2f} s)"
    hashed = hashing.peer.median_seconds
    yield Line(
        what, "<= 2x", found, 1 / pair.ratio <= 2, f"{hashed / reading:.1f}x (reading and hashing: {hashed:.2f} s)"
    )


def _plan(options: argparse.Namespace) -> list[Callable[[], Iterator[Line]]]:
    """What is measured, in the order of the design's table."""
    rounds = options.rounds
    if options.quick:
        tiny = noise(600, 32)
        return [
            lambda: single("noise", tiny, {10: 10}, rounds, portable=True),
            lambda: batches("noise", tiny, rounds),
            lambda: bandwidth(tiny, rounds, 1 << 20),
            lambda: cold(500, 32, 1),
        ]

    questions, others = slice(40), slice(40, None)
    sentences = "384-d sentence vectors"

    def wordnet(part: slice) -> Set:
        data = real()["wordnet"]()
        return data.asking(data.queries[part], data.note)

    return [
        lambda: single(f"{sentences}, questions", wordnet(questions), {10: 10, 100: 6}, rounds, portable=True),
        lambda: single(f"{sentences}, other glosses", wordnet(others), {10: 10}, rounds),
        lambda: single("100-d GloVe", real()["glove"](), {10: 4}, rounds, portable=True),
        lambda: single("384-d Gaussian noise, 300,000 rows", noise(300_000, 384), {10: 4}, rounds, portable=True),
        lambda: batches(sentences, wordnet(others), min(rounds, 7)),
        lambda: bandwidth(noise(300_000, 384), rounds, search_bandwidth.BUFFER),
        lambda: memory("noise", noise(100_000, 384)),
        lambda: memory(sentences, real()["wordnet"]().first(100_000)),
        lambda: valoricore(noise(10_000, 128), rounds),
        lambda: valoricore(noise(5_000, 384), rounds),
        lambda: cold(1000, 384, 7),
        lambda: opening(options.count, 384, 3),
    ]


def main() -> None:
    options = arguments(__doc__, lambda parser: parser.add_argument("--count", type=int, default=1_000_000))
    lines: list[Line] = []
    for step in _plan(options):
        try:
            for line in step():
                lines.append(line)
                print(f"  {line.target}: {line.found}", file=sys.stderr, flush=True)
        except (MissingError, RuntimeError) as reason:
            lines.append(Line(str(reason), "", "not measured", None))
        gc.collect()
    words = {True: "met", False: "**not met**", None: "**not measured**"}
    rows = [[line.target, line.wanted, line.found, words[line.met], line.bound] for line in lines]
    said = "\n\n".join(__doc__.split("\n\n")[1:3])
    met = sum(line.met is True for line in lines)
    body = f"{said}\n\n{met} of {len(lines)} lines met.\n\n" + table(
        ("target", "at least", "measured", "", "bound"), rows
    )
    report("search_targets", "The targets of search", body)


if __name__ == "__main__":
    main()
