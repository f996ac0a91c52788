"""The auditor's desk: ``detmem COMMAND``, also ``python -m detmem COMMAND``.

Rule 1  No logic of its own: each command is a call of the public API, and a way to print what came back.
Rule 2  stdout is data, stderr is everything else: progress, what recovery did, and errors, one line each.
Rule 3  With ``--json`` stdout is one JSON document (for ``log``: one a line).
Rule 4  Commands that only look open with mode "r": they take no lock and write nothing.
Rule 5  Exit codes are part of the contract: OK, DIFFERS, USAGE, UNREADABLE, INTERRUPTED.

It refuses to know how stores lie on the disk: what it prints of files are their names and sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import detmem
from detmem import demo, exchange, history, options, selfcheck
from detmem.report import report as auditors_page

__all__ = ["main"]

OK, DIFFERS, USAGE, UNREADABLE, INTERRUPTED = range(5)
assert USAGE == options.USAGE

_ROWS_AT_ONCE = 4096
_SHOWN_IDS = 3
_SHOWN_LETTERS = 100
_SHOWN_COMPONENTS = 4
_ROOT = re.compile(r"[0-9a-f]{64}")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code and raises nothing that a user can cause."""
    try:
        try:
            asked = options.parser(detmem.__version__).parse_args(argv)
            code = _RUN[asked.command](asked)
        except SystemExit as done:  # argparse has printed the help, the version or what was wrong
            code = done.code if isinstance(done.code, int) else USAGE
        if sys.stdout is not None:  # closed by whoever started us: there are only exit codes to tell
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return _complain("interrupted", INTERRUPTED)
    except BrokenPipeError:  # `detmem log ... | head`: whoever read has left
        _abandon_stdout()
        return INTERRUPTED
    except (detmem.UsageError, detmem.NotFoundError) as error:
        return _complain(error, USAGE)
    except (detmem.DetmemError, OSError) as error:
        return _complain(error, UNREADABLE)


# ------------------------------------------------------------------------------------------------------------ commands


def _demo(asked: argparse.Namespace) -> int:
    return OK if demo.run(asked.keep, as_json=asked.json) else DIFFERS


def _selfcheck(asked: argparse.Namespace) -> int:
    return OK if selfcheck.run(as_json=asked.json) else DIFFERS


def _verify(asked: argparse.Namespace) -> int:
    expect = _expected(asked.expect)
    report = detmem.verify(asked.path, level=asked.level, expect=expect, progress=_progress(asked))
    if asked.json:
        _document({**asdict(report), "level": asked.level})
    else:
        _say(_verdict(report))
    return OK if report.ok else DIFFERS


def _report(asked: argparse.Namespace) -> int:
    expect, moments = _expected(asked.expect), {"start": asked.start, "stop": asked.stop}
    page, report = auditors_page(asked.path, level=asked.level, expect=expect, **moments, progress=_progress(asked))
    Path(asked.output).write_text(page, encoding="utf-8", newline="\n")
    if asked.json:
        _document({**asdict(report), "level": asked.level, "page": asked.output})
    else:
        _say(f"{_verdict(report)}\n{asked.output} tells the rest")
    return OK if report.ok else DIFFERS


def _verdict(report: detmem.Report) -> str:
    if report.ok:
        gone = f", {report.erased} payload{'s' * (report.erased > 1)} erased" if report.erased else ""
        gone += f", {report.archived} archived" if report.archived else ""
        left = f", {report.remaining} to be erased are still there: open it for writing" if report.remaining else ""
        return f"ok {f'1..{report.seq}' if report.seq else 'empty'} state {report.state_root}{gone}{left}"
    place = "end" if report.first_bad_seq is None else f"seq {report.first_bad_seq}"
    place += "" if report.offset is None else f" offset {report.offset}"
    where = "" if report.file is None or report.cause.startswith(report.file) else f"{report.file}: "
    return f"FAIL {place}: {where}{report.cause}; {report.seq} commands before it are intact"


def _progress(asked: argparse.Namespace) -> bool:
    return bool(asked.progress or (sys.stderr is not None and sys.stderr.isatty()))


def _expected(text: str | None) -> str | None:
    """What ``--expect`` names: the hex of a state root, or the text in a file."""
    if text is None or _ROOT.fullmatch(text.lower()):
        return text
    try:
        checkpoint = Path(text).read_text(encoding="ascii").replace("\r\n", "\n")
        return checkpoint.rstrip("\n") + "\n"  # print(db.checkpoint()) has left an empty line behind it
    except (OSError, UnicodeDecodeError) as error:
        raise detmem.UsageError(
            f"--expect: expected 64 hex digits of a state root, or a file with a checkpoint: {error}"
        ) from None


def _replay(asked: argparse.Namespace) -> int:
    with _open(asked.path) as source:
        try:
            reached = detmem.replay(source, asked.dest, until=asked.until)
        except detmem.CorruptionError as error:
            return _complain(f"{error}; {asked.dest} holds the commands before it", DIFFERS)
        whole = reached.seq == source.seq
    if asked.json:
        _document({"identical": True, "replayed": reached.seq, **asdict(reached)})
    else:
        same = "identical to source" if whole else f"identical to source at seq {reached.seq}"
        _say(f"replayed {reached.seq} commands, state {reached.state_root}, {same}")
    return OK


def _log(asked: argparse.Namespace) -> int:
    with _open(asked.path) as db:
        for entry in db.log(asked.start, asked.stop, collection=asked.collection, id=asked.id):
            if asked.json:
                _document(asdict(entry))
            else:
                _say(_entry_line(entry))
    return OK


def _inspect(asked: argparse.Namespace) -> int:
    path, at = _moment_of(asked.path)
    with _open(path) as db, db if at is None else db.at(at) as seen:
        return _inspect_store(seen, asked) if asked.id is None else _inspect_record(seen, asked)


def _moment_of(path: str) -> tuple[str, int | None]:
    """PATH, or PATH@SEQ when no store of that whole name stands there."""
    found = re.fullmatch(r"(.+)@([0-9]{1,18})", path, re.DOTALL)
    return (path, None) if found is None or Path(path).exists() else (found[1], int(found[2]))


def _inspect_store(db: detmem.Database, asked: argparse.Namespace) -> int:
    collections = [_described(db[name]) for name in _names(db, asked.collection)]
    checkpoint = db.checkpoint()
    if asked.json:
        _document({"checkpoint": asdict(checkpoint), "head": db.head, "collections": collections})
        return OK
    for label, value in (*asdict(checkpoint).items(), ("head", db.head)):
        _say(f"{label:<10}  {value}")
    _say("")
    rows = [[c["name"], c["count"], c["dim"], c["metric"], c["format"]] for c in collections]
    _table(["collection", "records", "dim", "metric", "format"], rows, "<>><<")
    return OK


def _inspect_record(db: detmem.Database, asked: argparse.Namespace) -> int:
    """The live records of that id, and every seq that touched it; its collection may be gone."""
    entries = list(db.log(id=asked.id, collection=asked.collection))
    names = [name for name in db.collections() if asked.collection in (None, name)]
    records = []
    for collection in (db[name] for name in names):
        found = collection.get(asked.id, include=("metadatas", "documents", "raw"), missing="ignore")
        if len(found):
            assert found.metadatas is not None
            assert found.documents is not None
            assert found.raw is not None
            content = {"metadata": found.metadatas[0], "document": found.documents[0]}
            records.append({**_described(collection), **content, "raw": found.raw[0].tolist()})
    if not records and not entries:
        where = "this store" if asked.collection is None else f"collection {asked.collection!r}"
        raise detmem.NotFoundError(f"no record {asked.id!r} in {where}, at seq {db.seq} or before")
    if asked.json:
        for record in records:
            record["collection"] = record.pop("name")
            del record["count"]
        _document({"id": asked.id, "seq": db.seq, "records": records, "history": [asdict(e) for e in entries]})
        return OK
    for record in records:
        raw = record["raw"]
        shown = ", ".join(str(component) for component in raw[:_SHOWN_COMPONENTS])
        _say(f"{asked.id} in {record['name']}, live at seq {db.seq}")
        _say(f"  metadata  {json.dumps(record['metadata'], ensure_ascii=False)}")
        _say(f"  document  {'none' if record['document'] is None else record['document']}")
        _say(f"  raw       [{shown}{', ..' if len(raw) > _SHOWN_COMPONENTS else ''}] {len(raw)} x {record['format']}")
    if not records:
        _say(f"{asked.id} is not live at seq {db.seq}: it was deleted, or its collection was dropped")
    _say("touched by")
    for entry in entries:
        _say("  " + _entry_line(entry))
    return OK


def _stats(asked: argparse.Namespace) -> int:
    with _open(asked.path) as db:
        collections = [{**_described(db[name]), **_ranges(db[name])} for name in db.collections()]
        seq, operations = db.seq, db.checkpoint().log_size - db.seq  # each commit has one leaf of its own
    sizes = _sizes(Path(asked.path))
    files = [{"name": name, "bytes": sizes[name]} for name in sorted(sizes)]
    total = sum(sizes.values())
    if asked.json:
        counts = {"commits": seq, "operations": operations, "bytes": total}
        _document({**counts, "files": files, "collections": collections})
        return OK
    _say(f"{seq} commits, {operations} operations, {total} bytes in {len(files)} files")
    _say("")
    _table(["file", "bytes"], [[file["name"], file["bytes"]] for file in files], "<>")
    if collections:
        _say("")
        columns = ["name", "count", "dim", "metric", "format", "raw_min", "raw_max", "norm_min", "norm_max"]
        rows = [["-" if c[column] is None else c[column] for column in columns] for c in collections]
        rows = [[f"{cell:.6f}" if isinstance(cell, float) else cell for cell in row] for row in rows]
        _table(["collection", "records", *columns[2:]], rows, "<>><<>>>>")
    return OK


def _sizes(root: Path) -> dict[str, int]:
    """Bytes of each file, by name; a writer beside removes files between the listing and the look at them."""
    sizes: dict[str, int] = {}
    for file in root.rglob("*"):
        try:
            found = file.stat()
        except FileNotFoundError:
            continue
        if stat.S_ISREG(found.st_mode):
            sizes[file.relative_to(root).as_posix()] = found.st_size
    return sizes


def _diff(asked: argparse.Namespace) -> int:
    with _open(asked.a) as a, _open(asked.b) as b:
        found, ends = detmem.diff(a, b), (a.seq, b.seq)
    if asked.json:
        _document({"same": found.same, **asdict(found)})
        return OK if found.same else DIFFERS
    if found.common_seq == min(ends):
        part = "the same history" if ends[0] == ends[1] else f"{'AB'[ends[0] > ends[1]]} is the beginning of the other"
    else:
        part = f"they part at seq {found.common_seq + 1}"
    _say(f"A ends at seq {ends[0]}, B at {ends[1]}: {part}")
    for sign, pairs in (("+", found.added), ("-", found.removed), ("~", found.changed)):
        for collection, id in pairs:
            _say(f"{sign} {collection} {id}")
    for sign, links in (("+", found.linked), ("-", found.unlinked)):
        for link in links:
            _say(f"{sign} link {_link_words(link)}")
    for name in found.collections:
        _say(f"! collection {name} stands on one side only, or is defined differently")
    counts = f"+{len(found.added)} -{len(found.removed)} ~{len(found.changed)}"
    _say("same contents" if found.same else f"contents differ: {counts}")
    return OK if found.same else DIFFERS


def _search(asked: argparse.Namespace) -> int:
    where = None if asked.where is None else _where(asked.where)
    vector = None if asked.vector is None else _vector(asked.vector)
    with _open(asked.path) as db, db if asked.at is None else db.at(asked.at) as seen:
        collection = seen[_names(seen, asked.collection)[0]]
        raw = None if asked.id is None else collection.get(asked.id, include=("raw",)).raw
        result = collection.search(vector, asked.k, raw=None if raw is None else raw[0], where=where)
        root = seen.state_root
        if asked.receipt is not None:
            receipt = result.receipt(asked.level)
            receipt.save(asked.receipt)
            _complain(f"{asked.receipt}: receipt {asked.level}, sha256 {receipt.sha256}", OK)
    several = result.raw.ndim == 2
    if asked.json:
        hits = [[asdict(hit) for hit in one] for one in result] if several else [asdict(hit) for hit in result]
        _document({"seq": result.seq, "state_root": root, "hits": hits})
        return OK
    for number, one in enumerate(result if several else [result]):
        if several:
            _say(f"{'' if number == 0 else chr(10)}query {number}")
        rows = [[rank, f"{hit.distance:.6f}", hit.id, _short(hit.document or "")] for rank, hit in enumerate(one, 1)]
        _table(["rank", "distance", "id", "document"], rows, ">><<")
    return OK


def _check_receipt(asked: argparse.Namespace) -> int:
    with _open(asked.path) as db:
        verdict = detmem.check_receipt(detmem.Receipt.load(asked.receipt), db)
    if asked.json:
        _document(asdict(verdict))
    else:
        _say(f"{'IDENTICAL' if verdict.ok else 'DIFFERS'} {verdict.reason}")
    return OK if verdict.ok else DIFFERS


def _sign(asked: argparse.Namespace) -> int:
    key, notes = detmem.SignerKey.parse(_text(Path(asked.key)).strip()), Path(asked.note)
    with _open(asked.path) as db:
        note = db.sign(key, _text(notes) if notes.exists() else None)
    fresh = notes.with_name(f"{notes.name}.tmp")
    fresh.write_bytes(note.encode())
    fresh.replace(notes)
    if asked.json:
        _document({"note": note, "verifier_key": str(key.verifier)})
    else:
        _say(note.rstrip("\n"))
    return OK


def _text(path: Path) -> str:
    """A file's text; what is no UTF-8 stays in it as what no key and no note may hold."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _where(text: str) -> Any:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if len(set(keys)) < len(keys):  # json would keep the last and ignore the others
            raise ValueError(f"a key stands twice in {text}")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:  # also an integer of too many digits
        raise detmem.UsageError(f'--where: expected JSON such as {{"kind": "fact"}}: {error}') from None


def _vector(path: str) -> NDArray[Any]:
    try:
        with open(path, "rb") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
    except Exception as error:  # noqa: BLE001 - NumPy and tokenize have many for a bad file
        raise detmem.UsageError(f"--vector: expected a .npy file: {error}") from None
    return array


def _snapshot(asked: argparse.Namespace) -> int:
    with _open(asked.path, "r+") as db:
        taken = db.snapshot()
    if asked.json:
        _document(asdict(taken))
    else:
        _say(f"snapshot of seq {taken.seq}, state {taken.state_root}, in {taken.path}")
    return OK


def _backup(asked: argparse.Namespace) -> int:
    with _open(asked.path) as db:
        copied = db.backup(asked.dest)
    if asked.json:
        _document(asdict(copied))
    else:
        _say(f"copied {copied.seq} commands, state {copied.state_root}, verified")
    return OK


def _archive(asked: argparse.Namespace) -> int:
    with _open(asked.path, "r+") as db:
        moved = db.archive(asked.dest)
    if asked.json:
        _document(asdict(moved))
    else:
        _say(f"moved the payloads of {len(moved.segments)} segments, up to seq {moved.seq}, to {moved.path}")
    return OK


def _export(asked: argparse.Namespace) -> int:
    if asked.format == "log" and asked.collection is not None:
        raise detmem.UsageError("--collection: a log is of the whole store")
    with _open(asked.path) as db:
        if asked.format == "log":
            done = exchange.export_log(db, asked.dest)
        else:
            done = exchange.export(db, asked.dest, asked.format, collection=asked.collection)
    if asked.json:
        _document(asdict(done))
    else:
        _say(f"exported seq {done.checkpoint.seq}, state {done.checkpoint.state_root}")
        for name in done.files:
            _say(f"  {name}")
    return OK


def _import(asked: argparse.Namespace) -> int:
    made = exchange.load(asked.source, asked.path)
    if asked.json:
        _document(asdict(made))
    else:
        _say(f"imported {made.seq} commands, state {made.state_root}")
    return OK


def _salvage(asked: argparse.Namespace) -> int:
    found = history.salvage(asked.path, asked.dest)
    seq = found.checkpoint.seq
    if asked.json:
        _document(asdict(found))
    else:
        _say(f"saved 1..{seq} state {found.checkpoint.state_root}" if seq else "saved nothing")
        if found.reason is None:
            _say("nothing was lost")
        elif found.last_known_seq > seq:
            _say(f"LOST seq {seq + 1} and later: {found.reason}")
        else:  # a commit that was never acknowledged, or HEAD, who could have said so, is gone
            _say(f"nothing is known to be lost; behind seq {seq}: {found.reason}")
    return OK if found.reason is None else DIFFERS


def _repair(asked: argparse.Namespace) -> int:
    done = history.repair(asked.path, asked.copy)
    report = detmem.verify(asked.path)
    if asked.json:
        _document({**asdict(done), "verified": asdict(report)})
    else:
        for name in done.segments:
            _say(f"written anew: {name}")
        for name in done.quarantined:
            _say(f"in quarantine: {name}")
        _say(f"ok 1..{report.seq} state {report.state_root}" if report.ok else f"FAIL still: {report.reason}")
    return OK if report.ok else DIFFERS


# ------------------------------------------------------------------------------------------------- looking and printing


def _open(path: str, mode: str = "r") -> detmem.Database:
    """Open a store, and say on stderr what that took."""
    db = detmem.open(path, mode)
    for action in () if db.recovery is None else db.recovery.actions:
        _complain(f"{path}: {action}", OK)
    return db


def _names(db: detmem.Database, asked: str | None) -> list[str]:
    """The collection asked for, or all of them."""
    if asked is not None and asked not in db:
        raise detmem.NotFoundError(f"no collection {asked!r}; there are: {', '.join(db.collections()) or 'none'}")
    return db.collections() if asked is None else [asked]


def _described(collection: detmem.Collection) -> dict[str, Any]:
    named = {"name": collection.name, "dim": collection.dim, "metric": collection.metric, "format": collection.format}
    return {**named, "count": len(collection)}


def _ranges(collection: detmem.Collection) -> dict[str, Any]:
    """Smallest and largest raw component and norm; None without records.  Squares are summed exactly: admission."""
    smallest: list[int] = []
    largest: list[int] = []
    squares: list[int] = []
    ids = list(collection)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        raw = collection.get(ids[start : start + _ROWS_AT_ONCE], include=("raw",)).raw
        assert raw is not None
        smallest.append(int(raw.min()))
        largest.append(int(raw.max()))
        sums = np.square(raw.astype(np.int64)).sum(axis=1)
        squares += [int(sums.min()), int(sums.max())]
    if not ids:
        return dict.fromkeys(("raw_min", "raw_max", "norm_min", "norm_max"))
    step = float(detmem.dequantize(np.array([1], np.int32), collection.format)[0])
    norms = {"norm_min": math.sqrt(min(squares)) * step, "norm_max": math.sqrt(max(squares)) * step}
    return {"raw_min": min(smallest), "raw_max": max(largest), **norms}


def _entry_line(entry: detmem.Entry) -> str:
    shown = " ".join(entry.ids[:_SHOWN_IDS])
    if entry.links:
        shown = " ".join(_link_words(link) for link in entry.links[:_SHOWN_IDS])
    elif entry.recorded:
        shown = " ".join(f"sha256 {digest}{'' if note is None else f' {note!r}'}" for digest, note in entry.recorded)
    more = f" and {len(entry.ids) - _SHOWN_IDS} more" if len(entry.ids) > _SHOWN_IDS else ""
    return f"{entry.seq:>8}  {entry.link[:12]}..  {entry.op:<17}  {entry.collection}  {shown}{more}".rstrip()


def _link_words(link: detmem.Link) -> str:
    src, dst = ("/".join(end) if isinstance(end, tuple) else end for end in (link.src, link.dst))
    return f"{src} -{link.relation}-> {dst}"


def _table(head: list[str], rows: list[list[Any]], sides: str) -> None:
    """Columns, aligned; ``sides`` is < or > for each."""
    lines = [head, *([_plain(str(cell)) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        _say("  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(line, sides, widths, strict=True)).rstrip())


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_LETTERS else text[: _SHOWN_LETTERS - 2] + ".."


def _plain(text: str) -> str:
    """One line, whatever a document holds: control characters (a terminal would obey them) are written out."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _say(line: str) -> None:
    print("\n".join(_plain(part) for part in line.split("\n")))


def _document(value: dict[str, Any]) -> None:
    print(json.dumps(value))


def _complain(what: object, code: int) -> int:
    if sys.stderr is not None:  # else print would take stdout
        print(f"detmem: {' '.join(str(what).split())}", file=sys.stderr)
    return code


def _abandon_stdout() -> None:
    """Close stdout now, or the interpreter would complain about the broken pipe when it ends."""
    try:
        sys.stdout.close()
    except BrokenPipeError:
        pass


_RUN: dict[str, Callable[[argparse.Namespace], int]] = {
    "demo": _demo,
    "selfcheck": _selfcheck,
    "verify": _verify,
    "replay": _replay,
    "log": _log,
    "inspect": _inspect,
    "stats": _stats,
    "diff": _diff,
    "search": _search,
    "check-receipt": _check_receipt,
    "sign": _sign,
    "snapshot": _snapshot,
    "backup": _backup,
    "archive": _archive,
    "export": _export,
    "import": _import,
    "report": _report,
    "salvage": _salvage,
    "repair": _repair,
}
assert list(_RUN) == list(options.COMMANDS)
