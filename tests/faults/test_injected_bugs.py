"""Campaign 12: the journal is broken on purpose, one line at a time, and the campaigns must notice.

A bug is a change of one function's text; it is compiled in that function's module and put in its place for the time of
a hunt.  Every sync of a file, of a folder and of HEAD in the rooms that write is left out in turn, found by reading the
source, so that a new one is in the list by itself.  The checks are dropped by name below.

``REDUNDANT`` lists what may be left out without breaking a promise in the fault model, each with the reason.
"""

from __future__ import annotations

import inspect
import random
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any
from unittest import mock

import pytest

from detmem.errors import CorruptionError, DetmemError, StorageError, StorePoisoned
from detmem.journal import archive, copies, erasure, files, frame, head, log, recovery
from detmem.machine import commands
from detmem.machine.commands import Definition
from detmem.machine.commitment import LINK_ZERO, commit_leaf, link
from detmem.machine.stage import COMMIT_KIND, VERSION
from detmem.machine.state import State
from detmem.opening import open_disk
from tests.faults import copies as faulty
from tests.faults import test_errors
from tests.faults.simdisk import Fault, SimDisk
from tests.faults.test_crash import crash_everywhere, walk
from tests.faults.test_errors import fail_once
from tests.faults.workloads import Broken, Examiner, Runner, Workload, fixed_identity, model

SEED = 20_260_301


@dataclass(frozen=True, slots=True)
class Bug:
    """In ``function``, line ``line`` (from 0; of those that hold ``old``) has ``new`` for ``old``."""

    name: str
    function: FunctionType
    old: str
    new: str
    line: int = 0


@contextmanager
def planted(bug: Bug) -> Iterator[None]:
    """The journal with this bug in it."""
    function = inspect.unwrap(bug.function)
    source = textwrap.dedent(inspect.getsource(function))
    lines = source.splitlines()
    places = [number for number, text in enumerate(lines) if bug.old in text]
    assert len(places) > bug.line, f"{bug.name}: no line with {bug.old!r} any more; mend the list of bugs"
    lines[places[bug.line]] = lines[places[bug.line]].replace(bug.old, bug.new)
    defined: dict[str, object] = {}
    while lines[0].startswith("@"):
        del lines[0]
    exec(
        compile("from __future__ import annotations\n" + "\n".join(lines), bug.name, "exec"),
        function.__globals__,
        defined,
    )
    broken = defined[function.__name__]
    assert isinstance(broken, FunctionType)
    sound, function.__code__ = function.__code__, broken.__code__
    try:
        yield
    finally:
        function.__code__ = sound


# ---------------------------------------------------------------------------------------------------------------- bugs


def _functions(module: ModuleType) -> Iterator[tuple[str, FunctionType]]:
    for name, value in vars(module).items():
        if inspect.isfunction(value) and _written_in(value, module):
            yield name, value
        elif inspect.isclass(value) and value.__module__ == module.__name__:
            for inner, method in vars(value).items():
                method = method.__func__ if isinstance(method, classmethod) else method
                if inspect.isfunction(method) and _written_in(method, module):
                    yield f"{name}.{inner}", method


def _written_in(function: FunctionType, module: ModuleType) -> bool:
    return inspect.unwrap(function).__code__.co_filename == module.__file__  # not generated, not imported


def _left_out() -> Iterator[Bug]:
    """Every sync left out, one at a time."""
    wholes = (r"[\w.()]*\.sync\(\)", r"[\w.()]*sync_folder\([\w\"]*\)")
    for module in (log, head, recovery, files, copies, erasure, archive):
        for name, function in _functions(module):
            source = inspect.getsource(inspect.unwrap(function))
            counts: dict[str, int] = {}
            for text in source.splitlines():
                found = [match[0] for whole in wholes for match in re.finditer(whole, text)]
                found += ["sync=True"] if "sync=True" in text else []
                for old in found:
                    number = counts[old] = counts.get(old, -1) + 1
                    new = "sync=False" if old == "sync=True" else "None"
                    yield Bug(f"{name} leaves out {old} #{number}", function, old, new, number)


def _bug(name: str, function: Callable[..., object], old: str, new: str, line: int = 0) -> Bug:
    function = function.__func__ if inspect.ismethod(function) else function
    assert inspect.isfunction(function)
    return Bug(name, function, old, new, line)


SYNCS = list(_left_out())
# ruff: noqa: E501 - a bug a line: the table reads better than its wrapped form
CHECKS = [
    _bug("acknowledge before the sync", log.Journal.append, "if self._policy.before_publishing", "if False"),
    _bug("HEAD before the log's sync", log.Journal._sync, "self._open_file().sync()", "self._head.write(sync=True, durable_seq=place.seq, link=place.link, segment=place.segment, durable_offset=place.offset); self._open_file().sync()"),
    _bug("a group acknowledges without waiting", log.Journal.wait, 'if self._policy.kind != "group"', "if True"),
    _bug("a sync behind one that failed is believed", log.Journal._sync, "with self._syncing, self._guarded()", "with self._syncing"),
    _bug("a repair that is not HEAD's history", copies._passes, "found == [head.link]", "True"),
    _bug("a backup's HEAD comes first", copies.backup, "for folder in (LOG, SNAPSHOTS, QUARANTINE, KEYS)", "HeadFile.create(dest, Head(store_id, clean=True)).close()\n    for folder in (LOG, SNAPSHOTS, QUARANTINE, KEYS)"),
    _bug("what repair replaces is not kept", copies.repair, "if first in there:  # a copy", "if False:  # a copy"),
    _bug("repair stops where HEAD does", copies.repair, "max(head.durable_seq, _acknowledged(disk, border))", "head.durable_seq"),
    _bug("go on after a failure", log._Guard.__exit__, "self._journal._failure = error", "pass"),
    _bug("HEAD stays clean while writing", log.Journal._begin, "clean=False", "clean=True"),
    _bug("HEAD's slots are not alternated", head.HeadFile.write, "self._slot = 1 - self._slot", "pass"),
    _bug("the other slot before the first is synced", head.HeadFile.write, "if self._synced", "if True"),
    _bug("no rewrite of the slot that was read", head.HeadFile.__init__, "self._file.pwrite(", "(lambda *_: None)("),
    _bug("the older slot is believed", recovery._step_head, "max(good", "min(good"),
    _bug("no CRC of HEAD", head.Head.decode, "or crc != crc32(data[: _SLOT.size - 4])", ""),
    _bug("no rewrite after an unclean close", recovery._decide_end, "file.pwrite(rest, start)", "pass"),
    _bug("the torn tail is left", recovery._decide_end, "file.truncate(reader.offset)", "pass", 1),
    _bug("no copy in quarantine", recovery._decide_end, "quarantined.append(copy_out(disk, file, segment.first_seq, reader.offset, stop))", "pass"),
    _bug("a cut is not made again", recovery._decide_end, "if reader.seal is None:", "if False:", 1),
    _bug("zeros are the end whatever follows them", frame.SegmentReader._ends_in_zeros, "and end_of_bytes(self._file, self.offset) == self.offset", ""),
    _bug("zeros over the commit", log.Journal._fill_ahead, "start = self._filled", "start = self._filled - 1"),
    _bug("zeros stay before a seal", log.Journal._rotate, "self._cut_zeros()", "pass"),
    _bug("zeros stay when the store is closed", log.Journal.close, "if self._cut_zeros()", "if False"),
    _bug("more is cut off than zeros", log.Journal._cut_zeros, "end = self._written.offset", "end = self._written.offset - 1"),
    _bug("zeros that fail are passed over whatever the error", log.Journal._fill_ahead, "if error.errno not in _NO_SPACE", "if False"),
    _bug("stop at the first bad frame", recovery._decide_end, "if durable > reader.seq", "if False"),
    _bug("HEAD's watermark is ignored", recovery._step_tail, "durable = head.durable_seq", "durable = 0"),
    _bug("later headers' watermark is ignored", recovery._step_tail, "durable = max(durable, reader.durable_behind)", "pass"),
    _bug("frames' watermark is ignored", recovery._step_tail, "durable = max(durable, frame.durable_seq)", "pass"),
    _bug("the link in HEAD is not compared", recovery._check_head_link, "link != head.link", "False"),
    _bug("replayed roots are not compared", recovery.advance, "change.state_root != frame.state_root", "False"),
    _bug("no CRC of a frame's header", frame._read_header, "or crc != computed", ""),
    _bug("no CRC of a later header", frame.last_durable, "if crc == crc32(header[:-_CRC_BYTES], seed)", "if True"),
    _bug("the CRC is not seeded", frame.SegmentHeader.seed.func, "crc32(self.store_id + self.first_seq.to_bytes(8, \"little\"))", "0"),
    _bug("no link check", frame.SegmentReader._check_link, "or computed != stored", ""),
    _bug("no seq check", frame.SegmentReader._next, "if seq != self.seq + 1 or durable_seq >= seq", "if False"),
    _bug("no digest of a seal", frame._read_seal, "if bytes(data[_SEAL_BODY.size :]) != _seal_digest(first_seq, body)", "if False"),
    _bug("bytes behind a seal are ignored", frame.SegmentReader._end, "if offset + size != self._size", "if False"),
    _bug("no CRC of a segment header", frame.SegmentHeader.decode, "or crc != crc32(data[: _SEGMENT.size - _CRC_BYTES])", ""),
    _bug("segments are not compared with the seal before", recovery.read_segments, "if header != expected", "if False"),
    _bug("a missing segment is not missed", recovery.read_segments, "if head.segment and named is None", "if False"),
    _bug("temporaries stay", files.remove_temporaries, "disk.remove(", "str("),
    _bug("a new segment without .tmp", log.Journal._start_segment, 'temporary = f"{name}.tmp"', "temporary = name"),
    _bug("paranoid leaves HEAD to the kernel", log.Journal._sync, 'sync=self._policy.kind == "paranoid"', "sync=False"),
    _bug("no seal", log.Journal._rotate, "file.pwrite(", "(lambda *_: None)("),
    _bug("HEAD without .tmp", head.HeadFile.create, 'temporary = f"{HEAD}.tmp"', "temporary = HEAD"),
    _bug("HEAD is created with one slot", head.HeadFile.create, "for slot in range(_SLOTS)", "for slot in range(1)"),
    _bug("files change before the Erase is durable", log.Journal.erase, "self._rotate()", "pass"),
    _bug("an erasure does not look at the log", log.Journal.erase, "erasure.sweep(self._disk, state.erased, archive.reached(self._disk))", "pass"),
    _bug("an erasure leaves the snapshots", log.Journal.erase, "self._remove_snapshots(state.seq)", "pass"),
    _bug("an erasure ends before its snapshot", log.Journal.erase, "self.snapshot(state)", "pass"),
    _bug("the snapshot comes before the files", log.Journal.erase, "erasure.sweep(self._disk, state.erased, archive.reached(self._disk))", "self.snapshot(state); erasure.sweep(self._disk, state.erased, archive.reached(self._disk))"),
    _bug("an unfinished erasure stays so", log.Journal._begin, "if unfinished", "if False"),
    _bug("old snapshots stay where the erasure is finished", log.Journal._begin, "self._remove_snapshots(max(opened.state.erased.values()))", "pass"),
    _bug("quarantine is left", erasure.sweep, 'disk.remove(f"{QUARANTINE}/{name}")', "pass"),
    _bug("temporaries are left", erasure.sweep, "remove_temporaries(one)", "pass"),
    _bug("the last sealed segment is left", erasure.sweep, "[:-1]", "[:-2]"),
    _bug("a segment is written in its place", erasure.rewrite, 'temporary = f"{name}.tmp"', "temporary = name"),
    _bug("a run is not looked at", erasure._without_payloads, "if goes((part.collection, id), place)", "if False"),
    _bug("later versions go as well", erasure._without_payloads, "seq > frame.seq", "seq > 0"),
    _bug("the wrong row of a run goes", erasure._cut, "run.operation(row)", "run.operation(row - 1)"),
    _bug("a payload may be gone without an Erase", erasure.check_explained, "if not missing", "if True"),
    _bug("an offset is believed in a segment written anew", frame.SegmentReader._settle, "or self._leads_on()", "or True"),
    _bug("a repair brings back what was erased", copies._rewrite, "frame = stripped(found, erased)", "frame = found"),
    _bug("a repair takes over what another log erased", copies._rewrite, "check_explained(", "(lambda _: None)("),
    _bug("payloads are let go of before they are elsewhere", archive.move, "_copy_segment(disk, archive, first)", "pass"),
    _bug("nobody is told where payloads went", archive.move, "_name_place(disk, place)", "pass"),
    _bug("what went to an archive is not read again", archive._copy_segment, "SegmentReader(new, header)", "SegmentReader(old, header)"),
    _bug("an erasure leaves the archive", archive.reached, "for place in places(disk)", "for place in []"),
    _bug("archived payloads need no snapshot", recovery.check_not_archived, "if has_archived(frame)", "if False"),
    _bug("snapshots are believed wherever they stand", recovery._step_snapshot, "if border is None or found != (", "if False and found != ("),
]  # fmt: skip
BUGS = [*SYNCS, *CHECKS]
REDUNDANT = {
    "Journal._begin leaves out sync=True #0": "HEAD is synced again, by _arrived_at, before the first append",
    "Journal._begin leaves out self._file.sync() #0": "recovery has written and synced the file, unless HEAD was clean",
    "Journal.snapshot leaves out sync=True #0": "recovery finds snapshots by name; HEAD's digest is for verify alone",
    'HeadFile.create leaves out disk.sync_folder("") #0': "Journal._begin syncs the root before the first segment",
    "_step_segments leaves out disk.sync_folder(QUARANTINE) #0": "a rename is one transaction: the sync of log/ settles it",
    "_step_segments leaves out disk.sync_folder(LOG) #0": "a rename is one transaction: the sync of quarantine/ settles it",
    "HEAD is created with one slot": "a crash in creation is then reported as a bad slot, and nothing else is different",
}


# --------------------------------------------------------------------------------------------------------------- hunts


def hunt_crashes() -> None:
    """Campaign 1 over the workloads that meet most lines."""
    rng = random.Random(SEED)
    examiner = Examiner()
    for workload in (
        Workload("always", 1 << 26, ("add", "batch")),
        Workload("always", 1 << 26, ("add", "add", "delete", "snapshot", "add", "delete", "kill")),
        Workload("group:1", 1 << 26, ("add", "delete", "reopen")),
        Workload("always", 1, ("add", "kill", "add")),
        Workload("always", 700, ("add", "snapshot", "add")),
        Workload("group:1", 700, ("add", "reopen", "add")),
        Workload("paranoid", 1, ("snapshot", "add", "kill")),
        Workload("os", 1 << 26, ("add", "kill", "add")),
        Workload("os", 700, ("add", "snapshot", "kill")),
        Workload("os", 700, ("add", "snapshot", "add", "erase")),
    ):
        crash_everywhere(workload, examiner, 10, rng)


def hunt_walks() -> None:
    """Campaign 2; last, because a bug that only a random walk meets deserves a story of its own."""
    examiner = Examiner()
    for seed in range(400):
        walk(seed, examiner)


def hunt_errors() -> None:
    """Campaigns 6 and 7, syncs and writes."""
    examiner = Examiner()
    for workload in (
        Workload("always", 700, ("add", "add")),
        Workload("always", 1 << 26, ("add",)),
        Workload("os", 1 << 26, ("add", "snapshot")),
    ):
        at = 0
        while fail_once(workload, Fault(at), examiner, most=3):
            at += 1
    test_errors.test_zeros_whose_cut_was_never_synced_do_not_come_back_behind_a_seal()


def hunt_stories() -> None:
    """Small stories of damage; ``test_damage.py`` has the large ones."""
    for story in (
        _behind_a_failed_sync,
        _unsynced_head,
        _foreign_bytes,
        _zeros,
        _mixed_histories,
        _behind_a_seal,
        _forged_root,
        _bytes_that_came_back,
        _run_erased,
        _written_again,
        _gone_unexplained,
        _written_anew_under_a_reader,
        _repaired_erasure,
        _archived,
    ):
        story()


def _store(segment_bytes: int, kinds: tuple[str, ...], close: bool = True, policy: str = "always") -> SimDisk:
    """A disk with a store on it; without ``close``, as a power cut leaves it that keeps all but unsynced HEAD writes."""
    runner = Runner(SimDisk(), policy, segment_bytes)
    with fixed_identity():
        runner.open()
        for kind in kinds:
            runner.do(kind) if kind == "snapshot" else runner.commit(kind)
        if close:
            runner.close()
    return runner.disk.crash((0,) * len(runner.disk.units))


def _refused(files_: dict[str, bytes], what: str, write: bool = True) -> None:
    try:
        open_disk(SimDisk(files_), write=write)
    except CorruptionError:
        return
    raise Broken(f"{what}: not refused")


def _flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def hunt_flips() -> None:
    """In a store that was closed, a flipped bit is refused, or the state is the old one; and it never passes unseen."""
    sound = _store(300, ("create", "delete", "batch", "snapshot", "delete")).files
    with_state = model(("create", "batch", "delete"))
    for name, data in sound.items():
        if not name.startswith(("log/", "HEAD")):
            continue
        for at in range(len(data)):
            if name == "HEAD" and at % 4096 >= 140:
                continue
            disk = SimDisk({**sound, name: _flipped(data, at, at % 8)})
            try:
                db = open_disk(disk, write=name == "HEAD")  # a reader would stop where the older slot says
            except CorruptionError:
                continue
            if (db.state_root, db.log_root, db.head) != with_state:
                raise Broken(f"{name}, byte {at}: a silent difference")
            if name == "HEAD" and db.recovery is None:
                raise Broken(f"{name}, byte {at}: not reported")
            if name != "HEAD" and db.verify("chain").ok:
                raise Broken(f"{name}, byte {at}: verify saw nothing")


def _behind_a_failed_sync() -> None:
    """Who waited for another's sync, which failed, does not sync again."""
    disk = SimDisk()
    db = open_disk(disk, durability="group:1")
    journal = db._journal
    assert journal is not None
    syncing = journal._syncing

    class Contended:
        def __enter__(self) -> None:
            syncing.acquire()
            journal._failure = StorageError(5, "sync failed in another thread", "log")

        def __exit__(self, *_: object) -> None:
            syncing.release()

    journal._syncing = Contended()  # type: ignore[assignment]
    try:
        db.collection("notes", dim=2)
    except StorePoisoned:
        return
    raise Broken("a group was acknowledged behind a sync that had failed")


def _unsynced_head() -> None:
    """Acknowledged under ``always``, and HEAD does not know of it: the frames behind the damage do."""
    crashed = _store(1 << 26, ("create", "batch", "batch", "batch"), close=False).files
    name = "log/00000000000000000001.seg"
    reader = open_disk(SimDisk(crashed), write=False)
    if reader.seq < 3:
        raise Broken(f"a reader sees {reader.seq} of 3 commits that a frame says are durable")
    _refused({**crashed, name: _flipped(crashed[name], 200, 0)}, "damage in front of an acknowledged commit")
    rotated = _store(1, ("create", "batch"), close=False).files
    last = max(one for one in rotated if one.startswith("log/"))
    _refused({one: data for one, data in rotated.items() if one != last}, "the segment that HEAD names is gone")
    closed = _store(1 << 26, ("create", "batch", "batch")).files
    _refused({**closed, name: _flipped(closed[name], len(closed[name]) - 40, 0)}, "damage in the last commit")
    _refused({**closed, name: closed[name][:200]}, "a log cut inside an acknowledged commit")
    paranoid = _store(1 << 26, ("create", "batch", "batch"), close=False, policy="paranoid").files
    _refused({**paranoid, name: paranoid[name].rstrip(b"\0")[:-10]}, "under paranoid, a log without its last bytes")


def _foreign_bytes() -> None:
    """Behind the end: headers that are nobody's, another store's, another segment's.  None says anything about us."""
    crashed = _store(1 << 26, ("create", "batch"), close=False).files
    name = "log/00000000000000000001.seg"
    another = frame.SegmentHeader(b"x" * 16, 1, 0, b"", b"").seed
    later = frame.SegmentHeader(bytes(range(16)), 9, 0, b"", b"").seed
    for seed in (5, another, later):
        header = frame._encode_header(1, 1000, 1000, 999, seed)
        try:
            db = open_disk(SimDisk({**crashed, name: crashed[name] + header + b"tail"}))
        except CorruptionError as error:
            raise Broken(f"foreign bytes behind the end: {error}") from None
        if db.seq != 2 or db.recovery is None or not db.recovery.quarantined:
            raise Broken(f"foreign bytes behind the end: seq {db.seq}, {db.recovery}")


def _zeros() -> None:
    """In the place of a frame's header, with an acknowledged commit behind it that HEAD does not know of."""
    crashed = _store(1 << 26, ("create", "batch", "batch", "batch"), close=False).files
    name = "log/00000000000000000001.seg"
    header = frame.SegmentHeader.decode(crashed[name])
    file = SimDisk(crashed).open(name)
    for one in list(frame.SegmentReader(file, header))[:2]:
        end = one.offset + frame._HEADER.size
        hole = crashed[name][: one.offset] + bytes(frame._HEADER.size) + crashed[name][end:]
        for write in (True, False):
            _refused({**crashed, name: hole}, f"zeros in the place of the header of seq {one.seq}", write)


def _mixed_histories() -> None:
    """A segment, a log, a snapshot of another history under the same identity."""
    ours = _store(1, ("create", "batch", "delete", "snapshot")).files
    theirs = _store(1, ("create", "add", "delete", "snapshot")).files
    segments = sorted(name for name in ours if name.startswith("log/"))
    snapshot_name = "snap/00000000000000000003.snap"
    if snapshot_name not in ours:
        raise Broken("snapshot() had returned, and a power cut took the file")
    for name in segments[2:]:
        _refused({**ours, name: theirs[name]}, f"{name} of another history")
    _refused({**ours, **{name: data for name, data in theirs.items() if name != "HEAD"}}, "another history under HEAD")
    _refused({**ours, snapshot_name: theirs[snapshot_name]}, "a snapshot of another history")
    older = _store(1, ("create", "batch", "snapshot")).files  # ends in an empty segment
    _refused({**older, snapshot_name: ours[snapshot_name]}, "a snapshot from behind the end of the log")
    long = _store(1 << 26, ("create", "batch", "delete")).files
    _refused(
        {
            **long,
            "log/00000000000000000001.seg": _store(1 << 26, ("create", "add", "delete")).files[
                "log/00000000000000000001.seg"
            ],
        },
        "another log under HEAD",
    )
    last = segments[-1]
    other = Runner(SimDisk(), "always", 1)
    other.run(("add",))  # with an identity of its own
    _refused({**ours, last: other.disk.files["log/00000000000000000002.seg"]}, "another store's segment")


def _behind_a_seal() -> None:
    """Bytes behind a seal at the end of the log: in quarantine after opening, and no trouble later."""
    whole = _store(1, ("create", "batch", "batch")).files
    last = max(name for name in whole if name.startswith("log/"))
    before = _store(1, ("create", "batch"), close=False).files
    cut = {name: data for name, data in whole.items() if name != last}
    disk = SimDisk(
        {
            **cut,
            "HEAD": before["HEAD"],
            max(n for n in cut if n.startswith("log/")): cut[max(n for n in cut if n.startswith("log/"))] + b"behind",
        }
    )
    try:
        for first in (True, False):
            db = open_disk(disk, segment_bytes=1)
            if first and (db.recovery is None or not db.recovery.quarantined):
                raise Broken(f"bytes behind a seal: not in quarantine, {db.recovery}")
            db["notes"].upsert("later", raw=[1, 1])
            db.close()
    except DetmemError as error:
        raise Broken(f"bytes behind a seal: {error}") from None


def _forged_root() -> None:
    """A frame whose chain is right and whose state root is not what applying gives."""
    state = State()
    change = state.apply([commands.create("notes", Definition(2, "l2", "Q16.16"))])
    root = bytes(32)
    leaves = change.operations.leaves
    chained = link(LINK_ZERO, COMMIT_KIND, 0, VERSION, 1, leaves, commit_leaf(1, 1, root))
    forged = change._replace(state_root=root, link=chained)
    sound = _store(1 << 26, ()).files
    name = "log/00000000000000000001.seg"
    header = frame.SegmentHeader.decode(sound[name])
    _refused({**sound, name: sound[name] + frame.encode_commit(forged, 0, header.seed)}, "a forged state root")
    chained = link(LINK_ZERO, COMMIT_KIND, 0, VERSION, 2, leaves, commit_leaf(2, 1, change.state_root))
    forged = change._replace(seq=2, link=chained)
    db = open_disk(SimDisk({**sound, name: sound[name] + frame.encode_commit(forged, 0, header.seed)}))
    if db.seq != 0 or db.recovery is None:
        raise Broken(f"a forged seq: opened at {db.seq}")


_MARK = b"e" * 900  # the document of "a4"


def _marked() -> tuple[SimDisk, dict[str, bytes]]:
    """A store in several segments with a snapshot, whose "a4" shall go, and its files before."""
    disk = _store(1, ("create", "batch", "add", "add", "add", "snapshot", "add"))
    return disk, disk.files


def _none_left(disk: SimDisk, what: str) -> None:
    left = [name for name, data in disk.files.items() if _MARK in data]
    if left:
        raise Broken(f"{what}: {left} hold what was erased")


def _bytes_that_came_back() -> None:
    """Quarantine, temporaries, and an older snapshot that a power cut gave back."""
    disk, before = _marked()
    disk = SimDisk({**before, "quarantine/1.0": _MARK, "log/1.tmp": _MARK})
    with fixed_identity():
        db = open_disk(disk, segment_bytes=1)
        file = disk.open("snap/1.tmp", create=True)
        file.pwrite(_MARK, 0)
        file.close()
        db.erase("notes", "a4")
        _none_left(disk, "erased")
        _none_left(SimDisk(disk.survivors((0,) * len(disk.units))), "erased, and the power gone")
        db.close()
        snapshots = {name: data for name, data in before.items() if name.startswith("snap/")}
        disk = SimDisk({**disk.files, **snapshots})
        open_disk(disk, segment_bytes=1).close()
    _none_left(disk, "opened again")


def _run_erased() -> None:
    """One of many that were written at once, and no other."""
    disk = SimDisk()
    with fixed_identity(), open_disk(disk) as db:
        notes = db.collection("notes", dim=1, metric="l2")
        notes.add(
            [f"r{n}" for n in range(20)], raw=[[n] for n in range(20)], documents=[f"doc {n}." for n in range(20)]
        )
        db.erase("notes", "r7")
        for n in range(20):
            if (n == 7) is any(f"doc {n}.".encode() in data for data in disk.files.values()):
                raise Broken(f"r7 was erased, and r{n} is {'there' if n == 7 else 'gone'}")


def _written_again() -> None:
    """What is written behind the Erase stays."""
    disk, _ = _marked()
    with fixed_identity():
        db = open_disk(disk, segment_bytes=1)
        db.erase("notes", "a4")
        db["notes"].add("a4", raw=[1, 1], documents="again")
        db.erase("notes", "a3")
        db.close()
        db = open_disk(disk, segment_bytes=1)
        if db["notes"].get("a4").documents != ["again"] or db.at(db.seq - 1)["notes"].get("a4").documents != ["again"]:
            raise Broken("a later version went with an earlier one")
        db.close()


def _gone_unexplained() -> None:
    """A state byte that says erased, and nothing that erased it."""
    disk, before = _marked()
    with fixed_identity():
        with open_disk(disk, segment_bytes=1) as db:
            db.erase("notes", "a4")
        name = next(name for name, data in before.items() if name.startswith("log/") and _MARK in data)
        bare = {**before, name: disk.files[name]}
        snapless = {name: data for name, data in bare.items() if not name.startswith("snap/")}
        for write in (True, False):
            _refused(snapless, "a payload that nothing erased", write)
        if open_disk(SimDisk(bare), write=False).verify("chain").ok:
            raise Broken("verify takes a payload that nothing erased for good")


def _written_anew_under_a_reader() -> None:
    """It stood in the middle of the segment."""
    disk = SimDisk()
    with fixed_identity(), open_disk(disk) as db:
        notes = db.collection("notes", dim=2, metric="l2")
        readers = []
        for number in range(4):
            notes.upsert("x", raw=[number, number], documents="x" * 50)
            readers.append(open_disk(disk, write=False))
        db.erase("notes", "x")
        for reader in readers:
            reader.refresh()
            if reader.checkpoint() != db.checkpoint():
                raise Broken("a reader lost its place")


def _repaired_erasure() -> None:
    """From a copy that still has it; and from one that has given up what this store has not."""
    disk, before = _marked()
    with fixed_identity(), open_disk(disk, segment_bytes=1) as db:
        db.erase("notes", "a4")
    after = disk.files
    name = next(name for name, data in before.items() if name.startswith("log/") and _MARK in data)
    mended = SimDisk({**after, name: _flipped(after[name], 200, 0)})
    copies.repair(mended, SimDisk(before))
    _none_left(mended, "repaired")
    try:
        copies.repair(SimDisk({**before, name: _flipped(before[name], 200, 0)}), SimDisk(after))
    except CorruptionError:
        return
    raise Broken("repaired with a payload that nothing here erases")


class _Place(SimDisk):
    """An archive on a simulated disk; ``wrong`` files come back with a bit flipped from the first sync on."""

    wrong = False

    def path(self, name: str) -> str:
        return "/there"

    def is_folder(self) -> bool:
        return True

    def open(self, name: str, *, write: bool = False, create: bool = False) -> Any:
        file = super().open(name, write=write, create=create)
        if create and self.wrong:
            sound = file.pread

            def pread(size: int, offset: int) -> bytes:
                data = sound(size, offset)
                return _flipped(data, 300, 0) if len(data) > 300 else data

            file = mock.Mock(wraps=file, pread=pread)
        return file


def _archived() -> None:
    """Payloads are elsewhere before they go from here, whatever the power does; an erasure follows them."""
    place = _Place()

    def look(disk: SimDisk, call: str) -> None:
        there = place.survivors((0,) * len(place.units))
        if any(_MARK in data for data in there.values()):
            return
        for choice in ((0,) * len(disk.units), (1,) * len(disk.units)):
            left = disk.survivors(choice)
            if not any(_MARK in data for name, data in left.items() if name.startswith("log/")):
                raise Broken(f"before {call!r}: the payload is neither here nor there")

    with fixed_identity():
        disk, _ = _marked()
        db = open_disk(disk, segment_bytes=1)
        db.snapshot()
        disk.watch = look
        archive.move(disk, place)  # type: ignore[arg-type]
        disk.watch = None
        look(disk, "the end")
        for left in (disk.files, disk.survivors((0,) * len(disk.units))):
            if any(_MARK in data for name, data in left.items() if name.startswith("log/")):
                raise Broken("archived, and still here")
            bare = {name: data for name, data in left.items() if not name.startswith("snap/")}
            _refused(bare, "archived payloads without a snapshot")
            if archive.places(SimDisk(left)) != ["/there"]:
                raise Broken("nobody says where the payloads are")
        for left_over in (False, True):
            if left_over:  # by an archiving that was cut off; erasing again has nothing to write there
                half = place.open("log/00000000000000000099.seg.tmp", create=True)
                half.pwrite(_MARK, 0)
                half.sync()
                half.close()
                place.sync_folder("log")
            with mock.patch.object(archive, "OsDisk", return_value=place):
                db.erase("notes", "a4")
            for one in (place.files, place.survivors((0,) * len(place.units))):
                if any(_MARK in data for data in one.values()):
                    raise Broken("erased, and the archive still has it")
        disk, _ = _marked()
        db = open_disk(disk, segment_bytes=1)
        db.snapshot()
        bad = _Place()
        bad.wrong = True
        try:
            archive.move(disk, bad)  # type: ignore[arg-type]
        except CorruptionError:
            return
        raise Broken("what was read back from the archive was not what had been written")


def hunt_copies() -> None:
    """A backup and repairs, cut off at every call; a copy of another history."""
    for name, how in (("closed", ""), ("closed", "flip"), ("closed", "gone"), ("one segment", "gone")):
        copying = faulty.Copying(faulty.source(name), f"{SEED} {name} {how}", 8)
        if how:
            copying.repair(faulty.damaged(copying.original, how))
        else:
            copying.backup()
    behind = faulty.Copying(faulty.source("one segment"), f"{SEED} behind", 2)
    behind.repair(faulty.damaged(behind.original, "head behind"), promised=len(faulty.COMMITS) - 1)
    ours = faulty.source("one segment")
    other = _store(1 << 26, ("create", "batch", "add", "add", "delete", "add")).files
    disk = SimDisk(faulty.damaged(ours, "flip"))
    try:
        copies.repair(disk, SimDisk(other))
    except CorruptionError:
        return
    raise Broken("repaired from another history")


HUNTS = (hunt_stories, hunt_flips, hunt_crashes, hunt_copies, hunt_errors, hunt_walks)  # the quick ones first


def caught(bug: Bug) -> str:
    """Which hunt met it, and what it said; empty when none did."""
    first = [hunt_copies] if bug.function.__module__ == copies.__name__ else []  # the others do not come there
    for hunt in dict.fromkeys([*first, *HUNTS]):
        with planted(bug):
            try:
                hunt()
            except (Broken, DetmemError, AssertionError) as error:
                return f"{hunt.__name__}: {error}"
    return ""


@pytest.mark.parametrize("bug", [bug for bug in BUGS if bug.name not in REDUNDANT], ids=lambda bug: bug.name)
def test_an_injected_bug_is_caught(bug):
    assert caught(bug), f"no campaign notices: {bug.name}"


def test_without_a_bug_every_hunt_comes_home_empty():
    for hunt in HUNTS[:-1]:  # the walks are test_crash's own
        hunt()


def test_every_redundant_line_is_still_there():
    assert sorted(REDUNDANT) == sorted(bug.name for bug in BUGS if bug.name in REDUNDANT)
