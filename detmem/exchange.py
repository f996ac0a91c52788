"""A store's contents as files that other programs read, and back: what goes out and comes in has the same roots.

Two things can leave.  The *contents*: for each collection a file of vectors and a file of records, described by
``export.json``; importing them makes a store with the same state root and a history of its own.  The *log*: one file
with every commit, which is equal wherever the history is; importing it makes a store with the same log root too
(spec/exchange.md).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detmem.collection import Collection
from detmem.database import Database
from detmem.errors import (
    Archived,
    CorruptionError,
    Divergence,
    FormatError,
    StorageError,
    StoreExistsError,
    UsageError,
    shown,
)
from detmem.journal.archive import has_archived
from detmem.journal.disk import AnyPath, OsDisk, check_apart, path_text
from detmem.journal.erasure import Explained
from detmem.journal.files import damaged, frames
from detmem.journal.frame import BadFrame, Seal, SegmentHeader, SegmentReader, commit_blocks, encode_seal
from detmem.machine import fixed
from detmem.machine.commitment import LINK_ZERO, LogTree
from detmem.opening import open
from detmem.proof.checkpoint import Checkpoint

__all__ = ["FORMATS", "Exported", "export", "export_log", "has_pyarrow", "load"]

FORMATS = ("npy", "npz", "parquet", "fvecs")
MANIFEST = "export.json"

_KIND, _VERSION = "detmem-export", 1
_ROWS_AT_ONCE = 4096
_NOBODY = bytes(16)  # the store id of an exported log: a log that is no store's
_DEFINED = ("name", "dim", "metric", "format", "erasable", "count")
_LINKS = "links.jsonl"

Row = tuple[str, dict[str, Any], str | None]


@dataclass(frozen=True, slots=True)
class Exported:
    """Which moment was written, and to which files, in order."""

    checkpoint: Checkpoint
    files: tuple[str, ...]


# ------------------------------------------------------------------------------------------------------------- contents


def export(db: Database, dest: AnyPath, format: str = "npy", *, collection: str | None = None) -> Exported:
    """Write what is live to a new folder: every collection, or one.

    ``format``: ``npy`` (int32, as stored) and ``npz`` with a JSON line for each record; ``parquet`` (needs pyarrow);
    ``fvecs`` (float32, for programs that read nothing else: what float32 cannot hold is rounded, and the manifest says
    so).  ``StoreExistsError`` when ``dest`` exists, ``UsageError`` when it lies in the store.
    """
    if format not in FORMATS:
        raise UsageError(f"format: expected one of {', '.join(FORMATS)}, found {shown(format)}")
    if format == "parquet":
        _pyarrow()
    names = db.collections() if collection is None else [db[collection].name]
    folder = Path(path_text(dest))
    if folder.exists():
        raise StoreExistsError(f"{str(folder)!r} exists already, and an export needs a new folder")
    check_apart(db._disk, OsDisk(str(folder)))
    folder.mkdir(parents=True)
    checkpoint = db.checkpoint()
    described: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        one = db[name]
        values = (name, one.dim, one.metric, one.format, one.erasable, len(one))
        described.append(dict(zip(_DEFINED, values, strict=True)) | _WRITE[format](one, folder, f"{number:04d}"))
    _write_links([db[name] for name in names], folder / _LINKS)
    if db.checkpoint() != checkpoint:
        raise UsageError("the store was written while it was exported: export a reader, or a backup")
    comparable = collection is None and not any(one["erasable"] for one in described)
    manifest = {
        "kind": _KIND,
        "version": _VERSION,
        "vectors": format,
        "seq": checkpoint.seq,
        "log_root": checkpoint.log_root,
        "state_root": checkpoint.state_root if comparable else None,
        "collections": described,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="ascii", newline="\n")
    return Exported(checkpoint, tuple(sorted(path.name for path in folder.iterdir())))


def _rows(collection: Collection) -> Iterator[tuple[NDArray[np.int32], list[Row]]]:
    """All records in id order, some at a time: their raw vectors (n, dim), and (id, metadata, document) of each."""
    ids = list(collection)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        part = ids[start : start + _ROWS_AT_ONCE]
        found = collection.get(part, include=("raw", "metadatas", "documents"))
        assert found.raw is not None
        assert found.metadatas is not None
        assert found.documents is not None
        yield found.raw, list(zip(part, found.metadatas, found.documents, strict=True))


def _write_npy(collection: Collection, folder: Path, stem: str) -> dict[str, Any]:
    shape = (len(collection), collection.dim)
    with (folder / f"{stem}.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<i4", "fortran_order": False, "shape": shape})
        _write_records(collection, folder, stem, lambda raw: file.write(raw.astype("<i4").tobytes()))
    return {"vectors": f"{stem}.npy", "records": f"{stem}.jsonl"}


def _write_npz(collection: Collection, folder: Path, stem: str) -> dict[str, Any]:
    parts: list[NDArray[np.int32]] = [np.empty((0, collection.dim), np.int32)]
    _write_records(collection, folder, stem, parts.append)
    np.savez(folder / f"{stem}.npz", raw=np.concatenate(parts).astype("<i4"))
    return {"vectors": f"{stem}.npz", "records": f"{stem}.jsonl"}


def _write_fvecs(collection: Collection, folder: Path, stem: str) -> dict[str, Any]:
    exact = True
    with (folder / f"{stem}.fvecs").open("wb") as file:

        def write(raw: NDArray[np.int32]) -> None:
            nonlocal exact
            values = fixed.dequantize(raw, collection.format)
            rounded = values.astype("<f4")
            exact = exact and bool((rounded == values).all())
            heads = np.full((len(raw), 1), collection.dim, "<i4")
            file.write(np.hstack([heads.view("<f4"), rounded]).tobytes())

        _write_records(collection, folder, stem, write)
    return {"vectors": f"{stem}.fvecs", "records": f"{stem}.jsonl", "exact": exact}


def _write_records(collection: Collection, folder: Path, stem: str, write: Callable[[NDArray[np.int32]], Any]) -> None:
    with (folder / f"{stem}.jsonl").open("w", encoding="ascii", newline="\n") as lines:
        for raw, rows in _rows(collection):
            write(raw)
            for id, metadata, document in rows:
                lines.write(json.dumps({"id": id, "metadata": metadata, "document": document}) + "\n")


def _write_links(collections: list[Collection], path: Path) -> None:
    """The links between records of these collections, one a line."""
    names = {one.name for one in collections}
    with path.open("w", encoding="ascii", newline="\n") as lines:
        for one in collections:
            for id in one:
                for link in one.neighbors(id):
                    target = [one.name, link.dst] if isinstance(link.dst, str) else list(link.dst)
                    if target[0] in names:
                        lines.write(json.dumps([one.name, id, link.relation, *target]) + "\n")


def _write_parquet(collection: Collection, folder: Path, stem: str) -> dict[str, Any]:
    arrow, parquet = _pyarrow()
    vector = arrow.list_(arrow.int32(), collection.dim)
    fields = [("id", arrow.string()), ("metadata", arrow.string()), ("document", arrow.string()), ("raw", vector)]
    schema = arrow.schema(fields)
    with parquet.ParquetWriter(folder / f"{stem}.parquet", schema) as writer:
        for raw, rows in _rows(collection):
            ids, metadatas, documents = zip(*rows, strict=True)
            columns = [
                arrow.array(ids, arrow.string()),
                arrow.array([json.dumps(metadata) for metadata in metadatas], arrow.string()),
                arrow.array(documents, arrow.string()),
                arrow.FixedSizeListArray.from_arrays(arrow.array(raw.reshape(-1)), collection.dim),
            ]
            writer.write_table(arrow.table(columns, schema=schema))
    return {"records": f"{stem}.parquet"}


def has_pyarrow() -> bool:
    """Whether ``parquet`` can be written and read here."""
    return find_spec("pyarrow") is not None


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise UsageError("format 'parquet' needs pyarrow, which is not installed (pip install pyarrow)") from None
    return pyarrow, pyarrow.parquet


_WRITE: dict[str, Callable[[Collection, Path, str], dict[str, Any]]] = {
    "npy": _write_npy,
    "npz": _write_npz,
    "parquet": _write_parquet,
    "fvecs": _write_fvecs,
}


# ------------------------------------------------------------------------------------------------------------------ log


def export_log(db: Database, dest: AnyPath) -> Exported:
    """Write the whole log to one new file, which is equal wherever the history is and the same has been erased.

    ``StoreExistsError``: it exists.  ``UsageError``: it would lie in the store.  ``Erased``: it would end before the
    erasure of something that is gone.  What a failure leaves behind has no seal, and ``load`` refuses it.
    """
    path = Path(path_text(dest))
    check_apart(db._disk, OsDisk(str(path)))
    checkpoint = db.checkpoint()
    db._check_payloads(checkpoint.seq)
    header = SegmentHeader(_NOBODY, 1, 0, LINK_ZERO, LogTree().root)
    try:
        file = path.open("xb")
    except FileExistsError:
        raise StoreExistsError(f"{str(path)!r} exists already, and an exported log needs a new file") from None
    except OSError as error:
        raise StorageError(error.errno, f"open failed: {error.strerror}", str(path)) from error
    with file:
        file.write(header.encode())
        link, seen = LINK_ZERO, Explained()
        for segment, frame in frames(db._disk, 1, checkpoint.seq + 1):
            if has_archived(frame):
                raise Archived(f"{segment.name}, seq {frame.seq}: its payloads have been moved to an archive meanwhile")
            seen.take(frame)
            for block in commit_blocks(frame, 0, header.seed):
                file.write(block)
            link = frame.link
        db._check_gone(checkpoint.seq, seen.missing)
        seal = _seal_of(checkpoint, link)
        if seal is not None:
            file.write(encode_seal(seal, 1, header.seed))
    return Exported(checkpoint, (path.name,))


def _seal_of(checkpoint: Checkpoint, link: bytes) -> Seal | None:
    """What closes the exported log of a history that ends there; nothing closes an empty one."""
    root = bytes.fromhex(checkpoint.log_root)
    return Seal(checkpoint.seq, checkpoint.log_size, link, root) if checkpoint.seq else None


# --------------------------------------------------------------------------------------------------------------- import


def load(source: AnyPath, dest: AnyPath) -> Checkpoint:
    """Make a new store at ``dest`` of what ``export`` or ``export_log`` has written; returns its checkpoint.

    ``Divergence`` when it does not arrive at the root that the export names, ``LogDamaged`` or ``CorruptionError`` when
    a file is not what was written, and what ``add`` or ``link`` raise where it holds what no store can: ``dest`` then
    holds what came before.  ``FormatError`` for anything else.
    """
    path = Path(path_text(source))
    if (path / MANIFEST).is_file():
        return _load_contents(path, dest)
    if path.is_file():
        return _load_log(path.resolve(), dest)  # what the caller names may be a link
    raise FormatError(f"{str(path)!r} is neither an exported folder (with {MANIFEST}) nor an exported log")


def _load_log(path: Path, dest: AnyPath) -> Checkpoint:
    file = OsDisk(str(path.parent)).open(path.name)
    try:
        try:
            header = SegmentHeader.decode(file.pread(SegmentHeader.size_bytes, 0))
        except CorruptionError as error:
            raise FormatError(f"{path.name} is no exported log: {error}") from None
        if header != SegmentHeader(_NOBODY, 1, 0, LINK_ZERO, LogTree().root):
            raise FormatError(f"{path.name} is the segment of a store, not an exported log")
        with open(dest, "x", durability="os") as new:
            reader = SegmentReader(file, header)
            try:
                for frame in reader:
                    if frame.durable_seq:
                        raise BadFrame(frame.offset, f"expected durable seq 0, found {frame.durable_seq}")
                    new._apply(frame.operations, frame.link, frame.state_root, f"{path.name}, seq {frame.seq}")
            except BadFrame as bad:
                raise damaged(path.name, bad.offset, bad.reason, new.seq, new.seq + 1) from None
            if reader.seal != _seal_of(new.checkpoint(), reader.link) or file.size() != reader.offset:
                raise damaged(
                    path.name, reader.offset, "the seal is missing, wrong, or not the end", new.seq, new.seq + 1
                )
            new._finish_erasures()
            return new.checkpoint()
    finally:
        file.close()


def _load_contents(folder: Path, dest: AnyPath) -> Checkpoint:
    manifest = _manifest(folder)
    for described in manifest["collections"]:
        if described.get("exact") is False:
            raise UsageError(f"{described['name']!r} was rounded to float32 when exported: export it as npy")
    read = _READ[manifest["vectors"]]
    with open(dest, "x", durability="os") as new:
        for described in manifest["collections"]:
            name, dim, metric, number_format, erasable, count = (described[field] for field in _DEFINED)
            collection = new.collection(name, dim=dim, metric=metric, format=number_format, erasable=erasable)
            for raw, rows in read(folder, described):
                if rows:
                    ids, metadatas, documents = (list(column) for column in zip(*rows, strict=True))
                    collection.add(ids, raw=raw, metadatas=metadatas, documents=documents)
            if len(collection) != count:
                raise CorruptionError(f"{MANIFEST} says {count} records for {name!r}, its files hold {len(collection)}")
        _load_links(new, folder)
        if manifest["state_root"] not in (None, new.state_root):
            raise Divergence(
                f"{MANIFEST} names state root {manifest['state_root']}, what its files hold gives {new.state_root}"
            )
        return new.checkpoint()


def _load_links(new: Database, folder: Path) -> None:
    with new.batch():
        for line in _lines(folder, _LINKS):
            if not isinstance(line, list) or len(line) != 5 or not all(isinstance(part, str) for part in line):
                raise CorruptionError(f"{_LINKS}: expected five texts, found {line!r:.80}")
            collection, source, relation, *target = line
            new[collection].link(source, relation, tuple(target))


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="ascii"))
        kind, version = manifest["kind"], manifest["version"]
        known = kind == _KIND and version == _VERSION and manifest["vectors"] in FORMATS
        for described in manifest["collections"]:
            sizes = described["dim"], described["count"]
            known = known and all(type(value) is int for value in sizes) and set(_DEFINED) <= set(described)
        manifest["state_root"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FormatError(f"{MANIFEST} is not what an export writes: {type(error).__name__} {error}") from None
    if not known:
        raise FormatError(f"{MANIFEST} is no {_KIND} of version {_VERSION}: kind {kind!r}, version {version!r}")
    return dict(manifest)


def _read_lines(folder: Path, described: dict[str, Any]) -> Iterator[list[Row]]:
    """The records of a collection, some at a time."""
    rows: list[Row] = []
    for record in _lines(folder, described.get("records")):
        if not isinstance(record, dict) or sorted(record) != ["document", "id", "metadata"]:
            raise CorruptionError(f"{described['records']}: expected a record, found {record!r:.80}")
        rows.append((record["id"], record["metadata"], record["document"]))
        if len(rows) == _ROWS_AT_ONCE:
            yield rows
            rows = []
    yield rows


def _lines(folder: Path, name: object) -> Iterator[Any]:
    """The values of a file that has one JSON value a line."""
    path = _inside(folder, name)
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError) as error:
                raise CorruptionError(f"{path.name}, line {number}: {type(error).__name__} {error}") from None


def _beside(
    matrix: NDArray[np.int32], folder: Path, described: dict[str, Any]
) -> Iterator[tuple[NDArray[np.int32], list[Row]]]:
    """The records of a collection with their rows of ``matrix``."""
    expected = (described["count"], described["dim"])
    if matrix.shape != expected or matrix.dtype != np.dtype("<i4"):
        raise CorruptionError(
            f"{described['vectors']}: expected int32 {expected}, found {matrix.dtype} {tuple(matrix.shape)}"
        )
    start = 0
    for rows in _read_lines(folder, described):
        yield matrix[start : start + len(rows)], rows
        start += len(rows)


def _read_npy(folder: Path, described: dict[str, Any]) -> Iterator[tuple[NDArray[np.int32], list[Row]]]:
    return _beside(_array(folder, described.get("vectors"), "raw"), folder, described)


def _array(folder: Path, name: object, field: str) -> NDArray[Any]:
    path = _inside(folder, name)
    try:
        if path.suffix == ".npy":
            return np.lib.format.open_memmap(path, mode="r")
        with path.open("rb") as file, np.load(file, allow_pickle=False) as loaded:
            array: NDArray[Any] = loaded[field]
            return array
    except Exception as error:  # noqa: BLE001 - NumPy, zipfile, tokenize and zlib each have their own for a bad file
        raise CorruptionError(f"{name}: expected a NumPy array: {type(error).__name__} {error}") from None


def _read_fvecs(folder: Path, described: dict[str, Any]) -> Iterator[tuple[NDArray[np.int32], list[Row]]]:
    data, dim = _inside(folder, described.get("vectors")).read_bytes(), described["dim"]
    if len(data) % (4 * (dim + 1)):
        raise CorruptionError(f"{described['vectors']}: {len(data)} bytes are no rows of {dim} float32")
    table = np.frombuffer(data, "<i4").reshape(-1, dim + 1)
    if not (table[:, 0] == dim).all():
        raise CorruptionError(f"{described['vectors']}: a row that has not {dim} dimensions")
    values = np.ascontiguousarray(table[:, 1:]).view("<f4")
    raw = fixed.quantize(values, described["format"]) if len(values) else values.astype(np.int32)
    return _beside(raw.astype("<i4"), folder, described)


def _read_parquet(folder: Path, described: dict[str, Any]) -> Iterator[tuple[NDArray[np.int32], list[Row]]]:
    arrow, parquet = _pyarrow()
    path = _inside(folder, described.get("records"))
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=["id", "metadata", "document", "raw"]):
                ids, metadatas, documents, vectors = batch.columns
                raw = vectors.flatten().to_numpy(zero_copy_only=False).astype("<i4")
                metas = [json.loads(text) for text in metadatas.to_pylist()]
                rows = list(zip(ids.to_pylist(), metas, documents.to_pylist(), strict=True))
                yield raw.reshape(-1, described["dim"]), rows
    except (arrow.ArrowException, OSError, ValueError, TypeError, RecursionError) as error:
        raise CorruptionError(f"{path.name}: {type(error).__name__} {error}") from None


_READ = {"npy": _read_npy, "npz": _read_npy, "parquet": _read_parquet, "fvecs": _read_fvecs}


def _inside(folder: Path, name: object) -> Path:
    """A file of an export, which lies in its folder whatever the manifest says."""
    if not isinstance(name, str) or Path(name).name != name or not (folder / name).is_file():
        raise CorruptionError(f"{MANIFEST} names the file {name!r}, which is not in its folder")
    return folder / name
