"""A disk that forgets: what a power cut may leave of everything that had not been synced.

``SimDisk`` speaks the protocol of ``detmem.journal.disk`` and keeps, beside what a program sees (the page cache), what
is sure to survive, and the list of everything between the two: *units* that a power cut keeps or drops one by one.

Bytes of a file
    A write becomes one unit per 512-byte sector it touches, and one unit "the file got that long" when it extends.
    Each may survive or not, whatever became of the others, and a sector may be torn: only its first, or only its last
    bytes are new.  Length without data reads as zeros; data without length brings the length that it needs (a later
    sector without an earlier one leaves a hole of zeros).  Cutting a file is one unit.  Kept units lie over each other
    in the order of issue; another order matters only where two writes overlap, and our overlapping writes have equal
    ranges, so that "the second came first" is "only the first survived".
    ``File.sync`` settles the bytes and the length of its file, and *nothing about its name*: POSIX promises no more,
    and XFS and ext4 differ in how much more they do.
Names
    Making, renaming, removing a file and making a folder are one unit each: a rename is atomic (journalling file
    systems promise that), but any subset survives.  A journal would keep them in order, as a prefix; that order is not
    promised either, and a subset contains every prefix.  A rename may survive though neither the folder nor the bytes
    of the file were synced: the name then stands for an empty or half-written file.  ``sync_folder`` settles every
    unit of that folder; a rename between two folders is settled by either (it is one transaction), and a folder that
    did not survive takes with it what lies inside.
A sync that fails
    Linux marks the failed pages clean: the units of that file are *lost*.  A later sync returns happily and settles
    only what was written since; a power cut may or may not have them, and ``evicted()`` is the disk after the kernel
    has dropped those pages from memory as well.  Writing the same bytes again is the only cure.  A folder's units stay
    pending when its sync fails: metadata goes through the file system's journal, which fails as a whole or not at all.

Not modelled: a device that lies about a sync, a torn sector that cannot be read at all, damage at rest (that is for
the damage tests).  The text of LOCK is not kept: nobody relies on it.

``watch`` is called before every call that reaches the disk: between two calls nothing changes, and a crash in the
middle of a call is a subset of what the call adds, so "before every call, and at the end" is every instant.
``changes`` counts the calls that can have made a difference to what a crash leaves.
"""

from __future__ import annotations

import errno
import itertools
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from detmem.errors import LockedError, StorageError

__all__ = ["DROP", "KEEP", "Choice", "Fault", "SimDisk", "choices", "random_choice"]

SECTOR_BYTES = 512
EXHAUSTIVE_UNITS = 10
_HARMLESS = ("pread", "size", "list", "open", "close", "lock")

Choice = tuple[int, ...]
"""One number a unit, in the order of ``SimDisk.units``: 0 dropped, 1 kept, n > 1: torn, the first n - 1 bytes are new,
n < 0: torn, the last -n bytes are new."""
DROP, KEEP = 0, 1


@dataclass(slots=True)
class _Unit:
    """``data`` at ``offset``; or, without data, the length ``offset`` reached by growing or (``cut``) by cutting."""

    offset: int
    data: bytes | None
    cut: bool = False
    lost: bool = False
    settled: bool = False

    def lay(self, image: bytearray, choice: int) -> None:
        if self.data is None:
            if self.cut:
                del image[self.offset :]
            elif len(image) < self.offset:
                image.extend(bytes(self.offset - len(image)))
            return
        start, stop = 0, len(self.data)
        if choice > KEEP:
            stop = min(stop, choice - 1)
        elif choice < 0:
            start = max(0, stop + choice)
        if len(image) < self.offset + stop:
            image.extend(bytes(self.offset + stop - len(image)))
        image[self.offset + start : self.offset + stop] = self.data[start:stop]


@dataclass(slots=True)
class _Inode:
    base: bytes = b""  # sure to survive
    units: list[_Unit] = field(default_factory=list)
    cache: bytearray = field(default_factory=bytearray)  # what programs see

    def add(self, unit: _Unit) -> None:
        unit.lay(self.cache, KEEP)
        self.units.append(unit)

    def write(self, data: bytes, offset: int) -> None:
        end = offset + len(data)
        if not self.units and self.base[offset:end] == data:
            return  # these bytes are there already, and nothing is on its way
        if end > len(self.cache):
            self.add(_Unit(end, None))
        start = offset
        while start < end:
            stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
            self.add(_Unit(start, data[start - offset : stop - offset]))
            start = stop

    def sync(self) -> None:
        if not any(unit.lost for unit in self.units):
            self.base, self.units = bytes(self.cache), []
            return
        for unit in self.units:
            unit.settled = unit.settled or not unit.lost

    def lose(self) -> None:
        for unit in self.units:
            unit.lost = not unit.settled

    def image(self, choice_of: Callable[[_Unit], int]) -> bytes:
        image = bytearray(self.base)
        for unit in self.units:
            choice = KEEP if unit.settled else choice_of(unit)
            if choice != DROP:
                unit.lay(image, choice)
        return bytes(image)

    def copy(self) -> _Inode:
        return _Inode(self.base, [replace(unit) for unit in self.units], bytearray(self.cache))


@dataclass(slots=True)
class _Entry:
    """One atomic change of names; settled by a sync of any of ``folders``."""

    folders: tuple[str, ...]
    bindings: dict[str, _Inode | None]
    made: str | None = None  # a folder


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at call number ``at`` (from 0).  ``short``: of a write only half arrives.  ``lasting``: and every
    write, creation and folder after it fails likewise (a full disk)."""

    at: int
    errno: int = errno.EIO
    short: bool = False
    lasting: bool = False


class _SimFile:
    def __init__(self, disk: SimDisk, name: str, inode: _Inode, write: bool) -> None:
        self._disk, self._name, self._inode, self._write = disk, name, inode, write
        self._open = True
        disk.handles.add(self)

    @property
    def is_open(self) -> bool:
        return self._open

    def pread(self, size: int, offset: int) -> bytes:
        self._called("pread")
        return bytes(self._inode.cache[offset : offset + size])

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        data = bytes(data)
        if self._called("pwrite", len(data) > 1):
            self._inode.write(data[: len(data) // 2], offset)
            raise self._disk.failed("pwrite", self._name)
        self._inode.write(data, offset)

    def size(self) -> int:
        self._called("size")
        return len(self._inode.cache)

    def truncate(self, size: int) -> None:
        self._called("truncate")
        if size < len(self._inode.cache):
            self._inode.add(_Unit(size, None, cut=True))

    def sync(self) -> None:
        try:
            self._called("sync")
        except StorageError:
            self._inode.lose()
            raise
        self._inode.sync()

    def close(self) -> None:
        if not self._open:
            return
        self._open = False  # as in Linux: the descriptor is gone even when close fails
        if self._disk.locked is self:
            self._disk.locked = None
        self._disk.called("close", self._name)

    def _called(self, what: str, can_be_short: bool = False) -> bool:
        assert self._open, f"{what} of {self._name} after close"
        assert self._write or what in ("pread", "size", "sync"), f"{what} of {self._name}, opened for reading"
        return self._disk.called(what, self._name, can_be_short)


class SimDisk:
    """See the module's docstring.  ``watch(disk, call)`` may look and copy (``kill``, ``crash``), or raise."""

    durable = True

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self._names: dict[str, _Inode] = {
            name: _Inode(data, [], bytearray(data)) for name, data in (files or {}).items()
        }
        self._sure: dict[str, _Inode] = dict(self._names)
        self._folders = {name.rpartition("/")[0] for name in self._names} | {""}
        self._sure_folders = set(self._folders)
        self._entries: list[_Entry] = []
        self.handles: weakref.WeakSet[_SimFile] = weakref.WeakSet()
        self.locked: _SimFile | None = None
        self.watch: Callable[[SimDisk, str], None] | None = None
        self.fault: Fault | None = None
        self.calls = 0
        self.changes = 0
        self.failures = 0
        self.last_failure = ""

    # -- the protocol

    def open(self, name: str, *, write: bool = False, create: bool = False) -> _SimFile:
        self.called("create" if create else "open", name)
        inode = self._names.get(name)
        if inode is None:
            if not create:
                raise StorageError(errno.ENOENT, "open failed: no such file", name)
            inode = self._make(name)
        elif create:
            inode.add(_Unit(0, None, cut=True))
        return _SimFile(self, name, inode, write or create)

    def list(self, folder: str) -> list[str]:
        self.called("list", folder)
        start = f"{folder}/" if folder else ""
        everything = [*self._names, *self._folders - {""}]
        return sorted({name[len(start) :].split("/")[0] for name in everything if name.startswith(start)})

    def make_folder(self, name: str) -> None:
        self.called("make_folder", name)
        if name not in self._folders:
            self._folders.add(name)
            self._entries.append(_Entry((_folder(name),), {}, name))

    def rename(self, old: str, new: str) -> None:
        self.called("rename", f"{old} -> {new}")
        inode = self._names.pop(old)
        self._names[new] = inode
        self._entries.append(_Entry((_folder(old), _folder(new)), {old: None, new: inode}))

    def remove(self, name: str) -> None:
        self.called("remove", name)
        del self._names[name]
        self._entries.append(_Entry((_folder(name),), {name: None}))

    def sync_folder(self, name: str) -> None:
        self.called("sync_folder", name)
        if name not in self._folders:
            raise StorageError(errno.ENOENT, "sync folder failed: no such folder", name)
        for entry in self._entries:
            if name in entry.folders:
                _settle(entry, self._sure, self._sure_folders)
        self._entries = [entry for entry in self._entries if name not in entry.folders]

    def lock(self, name: str, timeout: float) -> _SimFile:
        self.called("lock", name)
        if self.locked is not None:
            raise LockedError(errno.EWOULDBLOCK, "the store is being written by this simulation", name)
        self.locked = _SimFile(self, name, _Inode(), True)
        return self.locked

    def path(self, name: str) -> None:
        return None

    # -- what can be done to it

    @property
    def units(self) -> list[_Unit | _Entry]:
        """Everything that a power cut now may keep or drop."""
        inodes = self._inodes()
        return [*self._entries, *(unit for inode in inodes for unit in inode.units if not unit.settled)]

    def crash(self, choice: Choice) -> SimDisk:
        """The disk after a power cut that treated ``units`` so; everything on it is sure."""
        return SimDisk(self.survivors(choice))

    def survivors(self, choice: Choice) -> dict[str, bytes]:
        """The files after ``crash(choice)``."""
        units = self.units
        assert len(units) == len(choice)
        names, folders = dict(self._sure), set(self._sure_folders)
        for entry, one in zip(self._entries, choice, strict=False):
            if one:
                _settle(entry, names, folders)
        chosen = {id(unit): one for unit, one in zip(units, choice, strict=True)}
        return {
            name: inode.image(lambda unit: chosen[id(unit)])
            for name, inode in names.items()
            if inode is not None and _folder(name) in folders
        }

    def kill(self) -> SimDisk:
        """The disk after the process died and the machine did not: all that was written is seen, and nothing more of it
        is sure than before."""
        copies = {id(inode): inode.copy() for inode in self._inodes()}
        other = SimDisk()
        other._names = {name: copies[id(inode)] for name, inode in self._names.items()}
        other._sure = {name: copies[id(inode)] for name, inode in self._sure.items()}
        other._folders, other._sure_folders = set(self._folders), set(self._sure_folders)
        for entry in self._entries:
            bindings = {name: inode and copies[id(inode)] for name, inode in entry.bindings.items()}
            other._entries.append(_Entry(entry.folders, bindings, entry.made))
        return other

    def evicted(self) -> SimDisk:
        """As ``kill``, and the pages of failed syncs have left the memory: programs see what the disk has."""
        other = self.kill()
        for inode in other._inodes():
            if any(unit.lost for unit in inode.units):
                inode.units = [unit for unit in inode.units if not unit.lost]
                inode.cache = bytearray(inode.image(lambda unit: KEEP))
        return other

    @property
    def files(self) -> dict[str, bytes]:
        """What programs see."""
        return {name: bytes(inode.cache) for name, inode in sorted(self._names.items())}

    @property
    def open_handles(self) -> list[str]:
        """Names of the files that are open."""
        return sorted(file._name for file in self.handles if file.is_open)

    def called(self, what: str, name: str, can_be_short: bool = False) -> bool:
        """Before every call.  True: this write is to arrive by half and fail."""
        if self.watch is not None:
            self.watch(self, f"{what} {name}")
        number, self.calls = self.calls, self.calls + 1
        self.changes += what not in _HARMLESS
        fault = self.fault
        if fault is None or number < fault.at:
            return False
        if number > fault.at and not (fault.lasting and what in ("pwrite", "create", "make_folder")):
            return False
        self.last_failure = f"{what} {name}"
        self.failures += 1
        if fault.short and can_be_short:
            return True
        raise self.failed(what, name)

    def failed(self, what: str, name: str) -> StorageError:
        """The error of the fault that is set."""
        assert self.fault is not None
        return StorageError(self.fault.errno, f"{what} failed: injected", name)

    # -- inside

    def _make(self, name: str) -> _Inode:
        if _folder(name) not in self._folders:
            raise StorageError(errno.ENOENT, "open failed: no such folder", name)
        inode = self._names[name] = _Inode()
        self._entries.append(_Entry((_folder(name),), {name: inode}))
        return inode

    def _inodes(self) -> list[_Inode]:
        """Every inode once, in an order that depends on the calls alone."""
        bound = (inode for entry in self._entries for inode in entry.bindings.values() if inode is not None)
        every = itertools.chain(self._sure.values(), bound, self._names.values())
        return list({id(inode): inode for inode in every}.values())


def choices(disk: SimDisk, most: int, rng: random.Random) -> Iterator[Choice]:
    """What a power cut may do now, at most ``most`` ways, the extremes first.

    Nothing survives, everything, everything torn, all but one, one alone, one torn; then every subset where there are
    at most 2^10, and samples with torn sectors.
    """
    units = disk.units
    count = len(units)
    seen: set[Choice] = set()

    def candidates() -> Iterator[Choice]:
        yield (DROP,) * count
        yield (KEEP,) * count
        for _ in range(3):
            yield tuple(_torn(unit, rng) for unit in units)
        for ground, other in ((KEEP, DROP), (DROP, KEEP)):
            for at in range(count):
                yield (*(ground,) * at, other, *(ground,) * (count - at - 1))
        for ground in (KEEP, DROP):
            for at in range(count):
                torn = _torn(units[at], rng)
                if torn != KEEP:
                    yield (*(ground,) * at, torn, *(ground,) * (count - at - 1))
        if count <= EXHAUSTIVE_UNITS:
            every = list(itertools.product((DROP, KEEP), repeat=count))
            rng.shuffle(every)
            yield from every
        while count > 1 and any(isinstance(unit, _Unit) and unit.data for unit in units):
            yield tuple(rng.choice((DROP, DROP, KEEP, KEEP, _torn(unit, rng))) for unit in units)

    misses = 0
    for choice in candidates():
        if len(seen) >= most or misses > 64:
            return
        misses = misses + 1 if choice in seen else 0
        if choice not in seen:
            seen.add(choice)
            yield choice


def random_choice(disk: SimDisk, rng: random.Random) -> Choice:
    """One power cut, of any kind."""
    units = disk.units
    bias = rng.choice((0.0, 0.1, 0.5, 0.5, 0.9, 1.0))
    torn = rng.choice((0.0, 0.0, 0.2))
    return tuple(_torn(unit, rng) if rng.random() < torn else (KEEP if rng.random() < bias else DROP) for unit in units)


def _torn(unit: _Unit | _Entry, rng: random.Random) -> int:
    """A way to tear a sector; ``KEEP`` for what is atomic."""
    if isinstance(unit, _Entry) or unit.data is None or len(unit.data) < 2:
        return KEEP
    cut = rng.randrange(1, len(unit.data))
    return rng.choice((cut + 1, -cut))


def _settle(entry: _Entry, names: dict[str, _Inode], folders: set[str]) -> None:
    if entry.made is not None:
        folders.add(entry.made)
    for name, inode in entry.bindings.items():
        if inode is None:
            names.pop(name, None)
        else:
            names[name] = inode


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
