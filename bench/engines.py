"""Who is measured: detmem with each of its kernels, and the peers, all behind one way to ask.

Rule 1  Every engine holds the same rows and gets the same queries; for cosine the peers are given rows of unit length,
        and all queries are of unit length.  What it takes to build or open an engine is never timed here.
Rule 2  An engine is asked through its public call, as a user would.  For detmem that includes checking and rounding
        the query and making the result; for the peers it ends with their arrays.
Rule 3  Threads are set before each turn, outside the clock: detmem's when its store is opened, FAISS's and BLAS's by
        their own switches.
Rule 4  A peer that is not installed, or that cannot hold the rows, is in ``Field.absent`` with the reason.
Rule 5  detmem is asked ``WARMING`` other questions first: what it learns about a collection, it learns from its first
        queries.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from common import ROOT, Paired, Side, Timing, contest, results_to, table, version, write
from data import Floats, MissingError, Set, cache
from numpy.typing import NDArray

sys.path.insert(0, str(ROOT))
import detmem
from detmem.machine.vectors import steps_of

__all__ = [
    "COLUMNS",
    "WARMING",
    "Engine",
    "Field",
    "agreement",
    "arguments",
    "best_peer",
    "faiss_module",
    "field_of",
    "importable",
    "opened",
    "race",
    "report",
    "scanned_bytes",
    "score",
    "standing",
    "store",
    "use_threads",
    "warm",
    "warm_up",
]

WARMING = 96
THREADS = (1, 2)
PEERS = ("faiss-cpu", "usearch", "hnswlib", "valoricore", "threadpoolctl")
Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Engine:
    """``ask(queries, k)`` is what is timed; ``ids(answer)`` reads the row numbers (q, k) out of it."""

    name: str
    threads: int
    ask: Callable[[Floats, int], Any]
    ids: Callable[[Any], Ids]
    exact: bool = True
    ours: bool = False

    @property
    def label(self) -> str:
        return f"{self.name}, {self.threads} thread" + "s" * (self.threads > 1)


@dataclass
class Field:
    """All that run on one set, and why the others do not."""

    engines: list[Engine] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def named(self, name: str, threads: int = 1) -> Engine:
        return next(engine for engine in self.engines if (engine.name, engine.threads) == (name, threads))


@contextmanager
def field_of(
    data: Set, *, kernels: Sequence[str] = ("",), peers: Sequence[str] = (), threads: Sequence[int] = THREADS
) -> Iterator[Field]:
    """detmem once for each kernel ("" is the choice that a user gets) and thread count, and the named peers."""
    found = Field()
    with ExitStack() as stack:
        path = stack.enter_context(store(data))
        known = detmem.kernels()["available"]
        for kernel in kernels:
            name = f"detmem {kernel}".strip()
            if kernel and (kernel not in known or known[kernel]):
                found.absent[name] = known.get(kernel) or "this version has no such kernel"
                continue
            for count in threads if kernel != "reference" else threads[:1]:
                collection = stack.enter_context(opened(path, kernel, count))
                found.engines.append(_detmem(name, count, collection))
        for peer in peers:
            try:
                found.engines += [_with_threads(peer, data, count, stack) for count in _peer_threads(peer, threads)]
            except (ImportError, MissingError) as reason:
                found.absent[peer] = str(reason)
        yield found
    found.engines = [replace(engine, ask=_gone, ids=_gone) for engine in found.engines]  # what they held is let go


def _gone(*_: object) -> Any:
    raise AssertionError("the engines of a field are asked before it is left")


# --- detmem -----------------------------------------------------------------------------------------------------------


@contextmanager
def store(data: Set, *, format: str = "Q16.16", metadatas: Sequence[dict[str, Any]] | None = None) -> Iterator[Path]:
    """A store that holds the rows under the ids "0", "1", ..., with a snapshot."""
    with tempfile.TemporaryDirectory(dir=cache()) as folder:
        path = Path(folder) / "store"
        with detmem.open(path, "x", durability="os") as db:
            collection = db.collection("rows", dim=data.rows.shape[1], metric=data.metric, format=format)
            for start in range(0, len(data.rows), 5000):
                part = slice(start, start + 5000)
                ids = [str(index) for index in range(start, min(start + 5000, len(data.rows)))]
                collection.add(ids, data.rows[part], metadatas=None if metadatas is None else metadatas[part])
            db.snapshot()
        yield path


@contextmanager
def opened(path: Path, kernel: str = "", threads: int = 1) -> Iterator[Any]:
    """The collection of a ``store``, opened to read under a forced kernel and a number of threads."""
    asked = {"DETMEM_KERNEL": kernel, "NUMBA_NUM_THREADS": str(threads)}
    before = {name: os.environ.get(name) for name in asked}
    os.environ.update(asked)
    try:
        db = detmem.open(path, "r")
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    with db:
        yield db["rows"]


def scanned_bytes(engine: Engine) -> float:
    """What detmem reads of each row for one query: components, and what bounds their error."""
    collection = engine.ask.__self__
    ((follower, _),) = collection._database._finder._followers.values()
    if follower._planes is None:  # so few that the exact rows are read
        return 4.0 * collection.dim
    measured = follower._planes._measured[0]
    rows = len(measured.base)
    if measured.front is not None:
        return sum(part.nbytes for part in measured.front.planes(measured.base)[0]) / rows
    by_row = sum(part.nbytes for part in (measured.base, measured.rho, measured.one)) / rows
    return 4 * steps_of(collection.dim) + 1 + by_row  # the 1 is the shift


def _detmem(name: str, threads: int, collection: Any) -> Engine:
    return Engine(name, threads, collection.search, _detmem_ids, ours=True)


def _detmem_ids(answer: Any) -> Ids:
    ids = np.array(answer.ids, dtype=np.int64)
    return ids if ids.ndim == 2 else ids[None]


# --- peers ------------------------------------------------------------------------------------------------------------


def importable(module: str) -> ModuleType:
    """``ImportError`` with one sentence for the results."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"not installed here ({error})") from error


def _peer_threads(peer: str, threads: Sequence[int]) -> Sequence[int]:
    return threads[:1] if peer == "valoricore" else threads


def _with_threads(peer: str, data: Set, threads: int, stack: ExitStack) -> Engine:
    makers = {
        "FAISS Flat IP": functools.partial(_faiss, metric="ip"),
        "FAISS Flat L2": functools.partial(_faiss, metric="l2"),
        "usearch exact": _usearch,
        "NumPy BLAS": _blas,
        "valoricore": _valoricore,
        "hnswlib": _hnswlib,
    }
    return makers[peer](data, threads, stack)


@functools.cache
def faiss_module() -> ModuleType:
    """FAISS with the better choice of its BLAS.

    Its wheel brings an OpenBLAS of 2021, which takes a newer CPU for one of 2007 and leaves AVX2 unused; told "Zen" it
    answers batches 15 % sooner (118k x 384, 256 queries), and NumPy's own, loaded before, does not hear it.
    """
    cpu = Path("/proc/cpuinfo")
    if "OPENBLAS_CORETYPE" in os.environ or not (cpu.is_file() and " avx2 " in cpu.read_text(errors="replace")):
        return importable("faiss")
    os.environ["OPENBLAS_CORETYPE"] = "Zen"
    try:
        return importable("faiss")
    finally:
        del os.environ["OPENBLAS_CORETYPE"]


def _faiss(data: Set, threads: int, stack: ExitStack, *, metric: str) -> Engine:
    faiss = faiss_module()
    if data.metric == "l2" and metric == "ip":
        raise MissingError("the set is searched by distance, which inner products do not give")
    index = _kept(stack, f"faiss {metric}", lambda: _faiss_index(faiss, data, metric))

    def ask(queries: Floats, k: int) -> Any:
        return index.search(queries if queries.ndim == 2 else queries[None], k)

    return Engine(f"FAISS Flat {metric.upper()}", threads, ask, lambda answer: answer[1])


def _faiss_index(faiss: Any, data: Set, metric: str) -> Any:
    rows = data.peer_rows
    index = (faiss.IndexFlatIP if metric == "ip" else faiss.IndexFlatL2)(rows.shape[1])
    index.add(rows)
    return index


def _usearch(data: Set, threads: int, stack: ExitStack) -> Engine:
    index = importable("usearch.index")
    rows = data.peer_rows
    metric = index.MetricKind.L2sq if data.metric == "l2" else index.MetricKind.IP

    def ask(queries: Floats, k: int) -> Any:
        return index.search(rows, queries, k, metric, exact=True, threads=threads)

    return Engine("usearch exact", threads, ask, lambda answer: np.atleast_2d(answer.keys).astype(np.int64))


def _blas(data: Set, threads: int, stack: ExitStack) -> Engine:
    """A matrix product for 32 queries at a time, argpartition, a sort of the k: brute force without a library."""
    importable("threadpoolctl")  # else its threads could not be chosen
    rows = data.peer_rows
    halves = np.einsum("ij,ij->i", rows, rows) / 2 if data.metric == "l2" else None
    scores = np.empty((32, len(rows)), dtype=np.float32)  # once: fresh pages cost more than the product

    def some(queries: Floats, k: int) -> Ids:
        place = scores[: len(queries)]
        if len(queries) == 1:
            np.dot(rows, queries[0], out=place[0])
        else:
            np.matmul(queries, rows.T, out=place)
        if halves is not None:
            place -= halves  # the largest x.q - ||x||^2 / 2 is the smallest distance
        nearest = np.argpartition(place, len(rows) - k, axis=1)[:, -k:]
        order = np.argsort(-np.take_along_axis(place, nearest, axis=1), axis=1)
        return np.take_along_axis(nearest, order, axis=1)

    def ask(queries: Floats, k: int) -> Ids:
        wide = np.atleast_2d(queries)
        return np.concatenate([some(wide[start : start + 32], k) for start in range(0, len(wide), 32)])

    return Engine("NumPy BLAS", threads, ask, lambda answer: answer)


def _valoricore(data: Set, threads: int, stack: ExitStack) -> Engine:
    local = importable("valoricore.local")
    if len(data.rows) > 10_000:
        raise MissingError("run up to 10,000 rows only: every commit copies its state")
    rows = data.peer_rows
    folder = stack.enter_context(tempfile.TemporaryDirectory(dir=cache()))
    client = local.LocalClient(str(Path(folder) / "peer"), dim=rows.shape[1], max_records=len(rows) + 1)
    client.kernel.insert_batch(rows.tolist())

    def ask(queries: Floats, k: int) -> list[list[dict[str, int]]]:
        return [client.search(query.tolist(), k) for query in np.atleast_2d(queries)]

    def ids(answer: list[list[dict[str, int]]]) -> Ids:
        return np.array([[hit["id"] for hit in hits] for hits in answer])

    return Engine("valoricore", threads, ask, ids)


def _hnswlib(data: Set, threads: int, stack: ExitStack) -> Engine:
    """Approximate, for orientation: M = 16, ef_construction = 100, ef = 64.  Its index is kept in the cache."""
    hnswlib = importable("hnswlib")
    rows = data.peer_rows
    index = hnswlib.Index("l2" if data.metric == "l2" else "ip", rows.shape[1])
    path = cache() / f"hnsw {data.name} {len(rows)}.bin"
    if path.is_file():
        index.load_index(str(path), max_elements=len(rows))
    else:
        index.init_index(len(rows), M=16, ef_construction=100, random_seed=1)
        index.add_items(rows, num_threads=os.cpu_count())
        index.save_index(str(path))
    index.set_ef(64)

    def ask(queries: Floats, k: int) -> Any:
        if k > 64:
            index.set_ef(2 * k)
        return index.knn_query(queries, k, num_threads=threads)

    return Engine("hnswlib", threads, ask, lambda answer: answer[0].astype(np.int64), exact=False)


def _kept(stack: ExitStack, key: str, make: Callable[[], Any]) -> Any:
    """One index for all thread counts of a field."""
    made: dict[str, Any] = stack.__dict__.setdefault("made", {})
    if key not in made:
        made[key] = make()
    return made[key]


@functools.cache
def _pools() -> Any:
    return importable("threadpoolctl").ThreadpoolController()


def use_threads(count: int) -> None:
    """For the peers whose threads are a setting of the process; detmem's were chosen when it was opened."""
    if "faiss" in sys.modules:
        sys.modules["faiss"].omp_set_num_threads(count)
    if "threadpoolctl" in sys.modules:
        _pools().limit(limits=count)


# --- racing and comparing ---------------------------------------------------------------------------------------------


def race(
    engines: Sequence[Engine], queries: Floats, k: int, *, rounds: int, batch: int = 0, per_turn: int = 1
) -> dict[str, Timing]:
    """Seconds per call, by label.  A turn asks ``per_turn`` queries one by one, or with ``batch`` that many at once."""

    def work(engine: Engine) -> Callable[[int], object]:
        def single(index: int) -> None:
            for step in range(per_turn):
                engine.ask(queries[(index * per_turn + step) % len(queries)], k)

        def whole(index: int) -> None:
            engine.ask(queries[:batch], k)

        return whole if batch else single

    sides = [
        Side(engine.label, work(engine), functools.partial(use_threads, engine.threads))  # one thread count a turn
        for engine in engines
    ]
    taken = contest(sides, rounds=rounds, warmup=1)
    scale = 1 if batch else per_turn
    return {name: Timing(name, tuple(second / scale for second in each.seconds)) for name, each in taken.items()}


def warm(engines: Sequence[Engine], data: Set, k: int = 10) -> None:
    for engine in engines:
        if engine.ours:
            warm_up(engine.ask, data, k)


def warm_up(ask: Callable[[Floats, int], Any], data: Set, k: int = 10) -> None:
    """Ask detmem ``WARMING`` rows as queries, one by one and at once, so that nothing is compiled or learned later."""
    chosen = data.rows[np.random.default_rng(2).integers(0, len(data.rows), WARMING)]
    for query in chosen:
        ask(query, k)
    ask(chosen, k)


def agreement(field: Field, data: Set, k: int, count: int = 12) -> str:
    """Our kernels agree bit for bit, and exact peers up to float rounding; returns one sentence, or asserts."""
    queries = data.queries[:count]
    ours = [engine for engine in field.engines if engine.ours]
    answer = ours[0].ask(queries, k)
    for other in ours[1:]:
        found = other.ask(queries, k)
        assert np.array_equal(found.raw, answer.raw), f"{other.label} and {ours[0].label} give other distances"
        assert found.ids == answer.ids, f"{other.label} and {ours[0].label} give other ids"
    ids = ours[0].ids(answer)
    own = score(data, queries, ids)
    tolerance = 2e-4 if data.metric == "cosine" else 1e-4 * max(1.0, float(np.abs(own).max()))
    same: dict[str, float] = {}
    for peer in field.engines:
        if peer.ours:
            continue
        use_threads(peer.threads)
        places = peer.ids(peer.ask(queries, k))
        inside = np.mean([len(set(a) & set(b)) / k for a, b in zip(ids.tolist(), places.tolist(), strict=True)])
        if peer.exact and peer.name != "valoricore":  # which rounds rows and queries by different rules
            theirs = score(data, queries, places)
            assert np.abs(np.sort(own) - np.sort(theirs)).max() <= tolerance, f"{peer.label} found other neighbours"
        same[peer.name] = min(inside, same.get(peer.name, 1.0))
    text = f"Answers before times: {len(ours)} detmem handles agree bit for bit"
    shares = [f"{name} {100 * share:.1f} %" for name, share in same.items()]
    return text + ("; ids in common with " + ", ".join(shares) if shares else "") + "."


def score(data: Set, queries: Floats, ids: Ids) -> NDArray[np.float64]:
    """The float64 distances of the named rows, (q, k)."""
    wide, rows = queries.astype(np.float64), data.rows[ids].astype(np.float64)
    if data.metric == "l2":
        return ((rows - wide[:, None]) ** 2).sum(-1)
    dots = np.einsum("qkd,qd->qk", rows, wide)
    if data.metric == "cosine":
        dots /= np.linalg.norm(rows, axis=-1) * np.linalg.norm(wide, axis=-1)[:, None]
    return 1 - dots


COLUMNS = ("engine", "threads", "ms", "time / detmem's, same threads", "rounds")


def standing(field: Field, taken: dict[str, Timing], ours: str = "detmem") -> str:
    """The table of a race, absent peers included; a figure above 1 is a peer that takes longer."""
    rows: list[Sequence[object]] = []
    for engine in field.engines:
        pair = Paired(taken[field.named(ours, engine.threads).label], taken[engine.label])
        low, high = min(pair.ratios), max(pair.ratios)
        name = engine.name if engine.exact else f"{engine.name} (approximate)"
        figure = "1" if engine.name == ours else f"{pair.ratio:.2f}"
        rows.append([name, engine.threads, f"{pair.peer.median_seconds * 1e3:.3f}", figure, f"{low:.2f}..{high:.2f}"])
    rows += [[name, "", "**absent**", reason, ""] for name, reason in field.absent.items()]
    return table(COLUMNS, rows)


def best_peer(field: Field, taken: dict[str, Timing], names: Sequence[str], threads: int, ours: str = "detmem") -> Any:
    """``Paired`` of ours and the quickest of the named peers at these threads, or None when none is here."""
    there = [engine for engine in field.engines if engine.name in names and engine.threads == threads]
    if not there:
        return None
    best = min(there, key=lambda engine: taken[engine.label].median_seconds)
    return Paired(taken[field.named(ours, threads).label], taken[best.label])


def report(name: str, title: str, body: str) -> None:
    """Write a result that names the peers' versions, absent ones too, and the kernels their BLAS runs on."""
    peers = ", ".join(f"{package} {version(package)}" for package in PEERS)
    try:
        pools = [pool for pool in _pools().info() if pool["user_api"] == "blas"]
        blas = "; ".join(f"{pool['internal_api']} {pool['version']}, {pool['architecture']}" for pool in pools)
    except ImportError:
        blas = "unknown, threadpoolctl is absent"
    write(name, title, f"Peers: {peers}. BLAS: {blas}.\n\n{body}")


# --- what every script is told ----------------------------------------------------------------------------------------


def arguments(description: str, add: Callable[[argparse.ArgumentParser], object] = lambda parser: None) -> Any:
    """``--quick``: a tiny made set, no peers, results in a folder that is thrown away by whoever gave it."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a smoke run on 600 made rows; its numbers mean nothing")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--results", type=Path, default=None, help="write elsewhere than to bench/results/")
    add(parser)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 2
    if options.results or options.quick:
        results_to(options.results or Path(tempfile.mkdtemp()))
    return options
