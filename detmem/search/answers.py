"""Answers from planes: scan bounds, open the blocks that may hold an answer, decide by exact values.

``scan`` leaves the least lower bound of every block; ``seed`` makes a threshold of upper bounds of the most promising
rows; ``collect`` opens the blocks that are not above it, and keeps the exact values that are not.  Ties at the last
place are all kept, and decided by id at the end (spec/search.md).

Work is handed out as tasks; ``run`` may run them side by side.  Which task does what is fixed, and cannot show.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from detmem.machine.vectors import BLOCK, LANE, steps_of
from detmem.search import reference
from detmem.search.planes import Moment, Segment

__all__ = ["Live", "Run", "answer"]

T = TypeVar("T")
Answer = tuple[NDArray[np.int64], NDArray[np.int64]]
Run = Callable[[Sequence[Callable[[], None]]], None]

_FEW = 4  # queries that are scanned one by one; a tile is not worth filling for so few
_GROUP = 64  # queries that share what they read ...
_BOUNDS = 1 << 22  # ... unless their bounds, one a block each, would take more than 32 MiB
_CACHED = 1 << 19  # bytes of a plane that a group reads while they are in the cache
_TASK_BYTES = 1 << 22  # of a plane: less is scanned before another thread has woken up


class Live(NamedTuple):
    """Which rows may answer: those that die behind ``seq``, and if there is a ``mask`` bool (n,), are in it."""

    died: NDArray[np.int64]
    seq: int
    mask: NDArray[np.bool_] | None


class _Views(NamedTuple):
    """Queries as a plane sees them: ``data`` (q, steps, 4, 8 or 64) and ``constants`` (q, 6)."""

    data: NDArray[Any]
    constants: NDArray[np.int64]

    def of(self, members: slice) -> _Views:
        """Those of some queries."""
        return _Views(self.data[members], self.constants[members])

    def tiles(self, tile: int) -> NDArray[Any]:
        """For ``scan_tiles``: int8 (q / tile, steps, tile, 4), or int16 (q / tile, tile, steps, 64)."""
        shaped = self.data.reshape(-1, tile, *self.data.shape[1:])
        return np.ascontiguousarray(shaped.transpose(0, 2, 1, 3)) if self.data.dtype == np.int8 else shaped


class _Asked(NamedTuple):
    """Queries, as they came and as the planes see them; in tiles they are scanned with one limb, half the work.

    ``rest``: the coordinates of the front that are looked up, int16 (q, n, 64).
    """

    exact: NDArray[np.int32]
    squares: NDArray[np.int64]
    coarse: _Views
    coarse_scanned: _Views
    front: _Views
    rest: _Views


class _Noted(NamedTuple):
    """What scans leave of a segment: ``lowest`` (q, blocks), and of a front ``above`` (q, blocks, 16)."""

    lowest: NDArray[np.int64]
    above: NDArray[np.uint8]

    @staticmethod
    def of(segment: Segment, count: int) -> _Noted:
        """Room for it."""
        blocks = segment.stop if segment.two_planes else 0
        return _Noted(np.empty((count, segment.stop), dtype=np.int64), np.empty((count, blocks, BLOCK), dtype=np.uint8))


class _Found:
    """What is known of some queries: the k best raw distances so far, and every row that may be among them."""

    def __init__(self, count: int, k: int) -> None:
        self.heaps = np.empty((count, k), dtype=np.int64)
        self.states = np.zeros((count, 2), dtype=np.int64)
        self._parts: list[NDArray[np.int64]] = []

    def add(self, part: NDArray[np.int64], first: int) -> None:
        """Rows that ``collect`` found in a segment that begins at slot ``first``."""
        part[1] += first
        self._parts.append(part)

    def best(self, ids: Sequence[str], k: int) -> list[Answer]:
        """The first k by (raw, id), for each query."""
        numbers, slots, raws = np.concatenate(self._parts, axis=1) if len(self._parts) != 1 else self._parts[0]
        if len(self.heaps) == 1:
            order, ends = raws.argsort(), [0, len(raws)]
        else:
            order = np.lexsort((raws, numbers))
            ends = np.searchsorted(numbers[order], np.arange(len(self.heaps) + 1, dtype=np.int64)).tolist()
        slots, raws = slots[order], raws[order]
        tied = raws[1:] == raws[:-1]
        answers: list[Answer] = []
        for start, stop in pairwise(ends):
            few_slots, few_raws = slots[start:stop], raws[start:stop]
            if tied[start : max(start, stop - 1)].any():
                places, few_raws = reference.select(few_raws, [ids[slot] for slot in few_slots.tolist()], k)
                few_slots = few_slots[places]
            answers.append((few_slots[:k], few_raws[:k]))
        return answers


def answer(
    kernels: Any,
    native: bool,
    moment: Moment,
    live: Live,
    ids: Sequence[str],
    queries: NDArray[np.int32],
    k: int,
    metric_is_ip: bool,
    threads: int,
    run: Run,
) -> list[Answer]:
    """For each query (slots, raw distances) of the first k live rows by (raw, id)."""
    scan = _Scan(kernels, moment, live, metric_is_ip)
    if len(queries) <= _FEW:
        asked = scan.view(queries, native, 1)
        found = [_Found(1, k) for _ in range(len(queries))]
        for number, one in enumerate(found):
            scan.one(asked, number, one, threads, run)
    else:
        tile = kernels.TILE
        asked = scan.view(queries, native, tile)
        blocks = sum(segment.stop for segment in moment.segments)
        most = max(1, min(_GROUP, _BOUNDS // blocks) // tile) * tile
        size = min(most, -(-len(queries) // (threads * tile)) * tile)
        starts = range(0, len(queries), size)
        found = [_Found(min(size, len(queries) - start), k) for start in starts]
        run([_bound(scan.group, asked, start, some) for start, some in zip(starts, found, strict=True)])
    return [best for some in found for best in some.best(ids, k)]


class _Scan:
    """The planes and rows of one call."""

    def __init__(self, kernels: Any, moment: Moment, live: Live, metric_is_ip: bool) -> None:
        self._kernels = kernels
        self._moment = moment
        self._metric_is_ip = metric_is_ip
        self._segments = moment.segments
        self._live = [_of_segment(live, segment) for segment in moment.segments]

    def view(self, queries: NDArray[np.int32], native: bool, tile: int) -> _Asked:
        """The queries as the planes see them, filled up to whole tiles."""
        padded = -(-len(queries) // tile) * tile
        squares = np.zeros(padded, dtype=np.int64)
        widths = ([8, 4] if tile > 1 else [8]) if native else [64]
        learned, steps = self._moment.front, self._moment.steps
        coarse = [_empty_views(padded, steps, width) for width in widths]
        for views in coarse:
            self._kernels.coarse_queries(queries, views.data, views.constants, squares)
        front, rest = coarse[-1], _Views(np.zeros((padded, 0, BLOCK * LANE), dtype=np.int16), coarse[-1].constants)
        if learned is not None and any(segment.two_planes for segment in self._segments):
            front = _empty_views(padded, steps_of(learned.width), widths[-1])
            rest = _Views(
                np.zeros((padded, learned.lines_of_rest, BLOCK * LANE), dtype=np.int16), np.zeros_like(front.constants)
            )
            if not self._kernels.front_queries(
                queries, learned.matrix, learned.scale, learned.width, learned.typical, *front, *rest
            ):
                self._segments = [segment.without_front() for segment in self._segments]
        return _Asked(queries, squares, coarse[0], coarse[-1], front, rest)

    def one(self, asked: _Asked, number: int, found: _Found, threads: int, run: Run) -> None:
        """Answer one query; its scan may be shared."""
        noted: list[_Noted] = []
        for segment, live in zip(self._segments, self._live, strict=True):
            views = asked.front if segment.two_planes else asked.coarse
            noted.append(_Noted.of(segment, 1))
            fixed = (segment.plane, views.data[number], views.constants[number], live[2], live[3])
            tasks = max(1, min(threads, (segment.stop - segment.start) * segment.block_bytes // _TASK_BYTES))
            bounds = [segment.start + (segment.stop - segment.start) * part // tasks for part in range(tasks + 1)]
            into = (noted[-1].lowest[0], noted[-1].above[0])
            run([_bound(self._kernels.scan, *fixed, start, stop, *into) for start, stop in pairwise(bounds)])
        self._decide(asked, slice(number, number + 1), noted, found)

    def group(self, asked: _Asked, first: int, found: _Found) -> None:
        """Answer the queries from ``first`` on, tile by tile."""
        tile, count = self._kernels.TILE, len(found.heaps)
        members = slice(first, first + -(-count // tile) * tile)
        noted: list[_Noted] = []
        for segment, live in zip(self._segments, self._live, strict=True):
            views = asked.front if segment.two_planes else asked.coarse_scanned
            some = views.of(members)
            tiles = some.tiles(tile)
            noted.append(_Noted.of(segment, len(some.data)))
            step = max(1, _CACHED // segment.block_bytes)
            for start in range(segment.start, segment.stop, step):
                stop = min(start + step, segment.stop)
                self._kernels.scan_tiles(
                    segment.plane, tiles, some.constants, live[2], live[3], start, stop, *noted[-1]
                )
        self._decide(asked, slice(first, first + count), noted, found)

    def _decide(self, asked: _Asked, members: slice, noted: list[_Noted], found: _Found) -> None:
        """From lower bounds of blocks to the rows that may answer."""
        squares, coarse, rest = asked.squares[members], asked.coarse.of(members), asked.rest.of(members)
        scanned, exact = asked.front.constants[members], asked.exact[members]
        for segment, live, (lowest, _) in zip(self._segments, self._live, noted, strict=True):
            self._kernels.seed(
                segment.coarse, *coarse, squares, self._metric_is_ip,
                live, segment.start, segment.stop, lowest, found.heaps, found.states,
            )  # fmt: skip
        found.states[:, 0] = 0  # what was kept are bounds, of rows that come again
        for segment, live, note in zip(self._segments, self._live, noted, strict=True):
            part = self._kernels.collect(
                segment.plane, scanned, segment.rest, *rest, segment.coarse, *coarse,
                segment.exact, exact, squares, self._metric_is_ip,
                live, segment.start, segment.stop, *note, found.heaps, found.states,
            )  # fmt: skip
            found.add(part, segment.first)


_NO_MASK = np.zeros(0, dtype=np.bool_)


def _of_segment(live: Live, segment: Segment) -> tuple[Any, ...]:
    """(died, seq, mask, masked, used) for the rows of a segment's chunk, the mask filled up to whole blocks."""
    rows = slice(segment.first, segment.first + segment.used)
    mask = _NO_MASK
    if live.mask is not None:
        mask = np.zeros(-(-segment.used // BLOCK) * BLOCK, dtype=np.bool_)
        mask[: segment.used] = live.mask[rows]
    return live.died[rows], live.seq, mask, live.mask is not None, segment.used


def _empty_views(count: int, steps: int, width: int) -> _Views:
    data = np.zeros((count, steps, width), dtype=np.int16 if width == BLOCK * LANE else np.int8)
    return _Views(data, np.zeros((count, 6), dtype=np.int64))


def _bound(function: Callable[..., object], *args: Any) -> Callable[[], None]:
    def task() -> None:
        function(*args)

    return task
