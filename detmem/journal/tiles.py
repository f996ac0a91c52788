"""Leaf hashes of the log tree, in ``tiles/`` as C2SP tlog-tiles lays them out, and any node of the tree from them.

A tile of level L holds up to 256 hashes, each over 256^L leaves; it is written once it is full, and as ``.p/<count>``
before.  ``tiles/`` is a cache while the log is whole: never synced, never trusted (what it leads to is compared with
the log's own roots), made anew from the log where it is absent, behind, torn or another history's.  It is brought up to
date when a proof is asked for, so no write waits for it.  A reader writes nothing: it keeps in memory what it lacks.
"""

from __future__ import annotations

import errno
import re
from hashlib import sha256

from detmem.errors import CorruptionError, Divergence, StorageError
from detmem.journal.disk import Disk
from detmem.journal.files import TILES, damaged, frames, read_header, segment_name, segment_seqs
from detmem.journal.frame import BadFrame, Frame, SegmentHeader, SegmentReader
from detmem.machine import commands
from detmem.machine.commitment import LogTree

__all__ = ["StaleTiles", "Tiles"]

_HEIGHT = 8
_WIDTH = 1 << _HEIGHT
_HASH_BYTES = 32
_TILE_BYTES = _WIDTH * _HASH_BYTES
_KEPT_CLOSINGS = 4096
_CACHED_TILES = 256  # that a disk has as well: 2 MiB
_FOLDER, _TILE, _PART = re.compile("x[0-9]{3}"), re.compile("[0-9]{3}"), re.compile("[0-9]{1,3}")


class StaleTiles(CorruptionError):  # noqa: N818 - not an error yet: they can be made anew
    """What ``tiles/`` holds cannot be used."""


class Tiles:
    """The tree over a log's leaf hashes, up to ``size`` leaves.  The caller sees to it that one thread uses it."""

    def __init__(self, disk: Disk, *, write: bool) -> None:
        self._disk = disk
        self._write = write
        self._begin()

    def _begin(self) -> None:
        self.size = 0
        self._seq: int | None = 0  # None: of this many leaves, and the seq is not known yet
        self._resume: tuple[SegmentHeader, int] | None = None  # a segment, and the offset behind commit _seq
        self._link = b""
        self._tails: list[bytearray] = []  # of each level the hashes that fill no tile yet
        self._full: list[int] = []  # and how many tiles they stand behind
        self._parts: dict[int, str | None] = {}  # and the file of these, of each level
        self._held: dict[tuple[int, int], bytes] = {}
        self._written: dict[tuple[int, int], None] = {}  # those of ``_held`` that the disk has as well
        self._closings: dict[int, tuple[int, int]] = {}  # of the last commits read, as ``closing`` gives them

    def disown(self) -> None:
        """In a forked child: the store's files stay with the parent."""
        self._write = False

    # -- up to date

    def follow(self, seq: int, log: LogTree) -> None:
        """Hold the leaves of the commits up to ``seq``, whose tree is ``log``.

        ``LogDamaged`` where the log cannot be read; ``Divergence`` where it is not that of ``log``.
        """
        try:
            if self.size == 0:
                self._load(log.size)
            if self.size < log.size:
                self._read_on(seq)
                self._save()
            if self.agrees(log):
                return
        except StaleTiles:
            pass
        except BaseException:  # a full disk, an interrupt: nobody knows how far it came
            self._begin()
            raise
        self.rebuild(seq, log)

    def rebuild(self, seq: int, log: LogTree) -> None:
        """The same from the log alone, whatever ``tiles/`` says."""
        self._begin()
        try:
            if self._write:
                self._clear()
            self._read_on(seq)
            if not self.agrees(log):
                raise Divergence(f"the log up to seq {seq} has not the root {log.root.hex()} that was computed from it")
            self._save()
        except BaseException:
            self._begin()
            raise

    def agrees(self, log: LogTree) -> bool:
        """Whether the first ``log.size`` leaves here have that tree's root."""
        if log.size > self.size:
            return False
        start, complete = 0, iter(log.frontier)
        for level in reversed(range(log.size.bit_length())):
            if log.size >> level & 1:
                if self.node(level, start >> level) != next(complete):
                    return False
                start += 1 << level
        return True

    # -- the tree

    def node(self, level: int, index: int) -> bytes:
        """Root of the complete subtree over leaves [index * 2^level, (index + 1) * 2^level)."""
        tile_level, up = divmod(level, _HEIGHT)
        number, first = divmod(index << up, _WIDTH)
        at = first * _HASH_BYTES
        row = self._tile(tile_level, number)[at : at + (_HASH_BYTES << up)]
        assert len(row) == _HASH_BYTES << up, "a complete subtree of the tree that is held"
        return _root(row)

    def _tile(self, level: int, number: int) -> bytes | bytearray:
        if level < len(self._full) and number == self._full[level]:
            return self._tails[level]
        held = self._held.get((level, number))
        if held is None:
            held = self._stored(f"{TILES}/{level}/{_path(number)}", _TILE_BYTES)
            self._keep(level, number, held, stored=True)
        return held

    def _append(self, hashes: bytes) -> None:
        self.size += len(hashes) // _HASH_BYTES
        level = 0
        while hashes:
            if level == len(self._tails):
                self._tails.append(bytearray())
                self._full.append(0)
            tail, above = self._tails[level], []
            tail += hashes
            while len(tail) >= _TILE_BYTES:
                tile = bytes(tail[:_TILE_BYTES])
                del tail[:_TILE_BYTES]
                if self._write:
                    self._store(f"{TILES}/{level}/{_path(self._full[level])}", tile)
                self._keep(level, self._full[level], tile, stored=self._write)
                self._full[level] += 1
                above.append(_root(tile))
            hashes, level = b"".join(above), level + 1

    # -- from the log

    def closing(self, seq: int) -> tuple[int, int]:
        """(index, number of operations) of the leaf that closes commit ``seq``, which is in the log."""
        if seq not in self._closings:
            first = max(number for number in segment_seqs(self._disk) if number <= seq)
            counts: list[int] = []
            file = self._disk.open(segment_name(first))
            try:
                header = SegmentHeader.decode(file.pread(SegmentHeader.size_bytes, 0))
                reader = SegmentReader(file, header)
                reader.skip(seq + 1, lambda body: counts.append(commands.count(body)))
            finally:
                file.close()
            if reader.seq != seq:
                raise damaged(segment_name(first), reader.offset, f"the log ends before seq {seq}", reader.seq, seq)
            self._remember(seq, header.log_size + sum(counts) + len(counts), counts[-1])
        return self._closings[seq]

    def _remember(self, seq: int, size: int, operations: int) -> None:
        """``size``: of the log behind the commit."""
        self._closings[seq] = size - 1, operations
        if len(self._closings) > _KEPT_CLOSINGS:
            del self._closings[next(iter(self._closings))]

    def commit_with(self, leaf: int) -> int:
        """The seq of the commit that leaf ``leaf`` belongs to."""
        seq, size = 0, 0
        for number in segment_seqs(self._disk):
            header = read_header(self._disk, number)
            if header.log_size > leaf:
                break
            seq, size = number, header.log_size
        for _, frame in frames(self._disk, seq, None):
            size += len(frame.operations) + 1
            if size > leaf:
                return frame.seq
        raise damaged("log", 0, f"the log ends before leaf {leaf}", seq, seq)

    def _read_on(self, seq: int) -> None:
        if self._seq is None:
            self._find_place()
        assert self._seq is not None
        while self._seq < seq:
            header, offset = self._resume or (read_header(self._disk, self._seq + 1), SegmentHeader.size_bytes)
            resume = None if self._resume is None else (offset, self._seq, self._link)
            file = self._disk.open(segment_name(header.first_seq))
            reader = SegmentReader(file, header, resume)
            try:
                for frame in reader:
                    self._append(frame.leaves)
                    self._remember(frame.seq, self.size, len(frame.operations))
                    self._arrived(header, frame)
                    if frame.seq == seq:  # before the next is looked at: it may be torn, or being written
                        return
            except BadFrame as bad:
                raise damaged(segment_name(header.first_seq), bad.offset, bad.reason, self._seq, seq) from None
            finally:
                file.close()
            if reader.seal is None:
                raise damaged(segment_name(header.first_seq), reader.offset, "the log ends here", self._seq, seq)
            self._resume = None

    def _find_place(self) -> None:
        """Where in the log the stored leaves end, which is behind a commit."""
        headers = [read_header(self._disk, number) for number in segment_seqs(self._disk)]
        headers = [header for header in headers if header.log_size <= self.size]
        if not headers:
            raise StaleTiles("tiles of another log")
        header = headers[-1]
        size, self._seq, self._resume = header.log_size, header.first_seq - 1, None
        for _, frame in frames(self._disk, header.first_seq, None) if size < self.size else ():
            size += len(frame.operations) + 1
            self._arrived(header, frame)
            if size >= self.size:
                break
        if size != self.size:
            raise StaleTiles("tiles that end inside a commit")

    def _arrived(self, header: SegmentHeader, frame: Frame) -> None:
        self._seq, self._link, self._resume = frame.seq, frame.link, (header, frame.offset + frame.size)

    # -- on the disk

    def _load(self, most: int) -> None:
        """Take over what ``tiles/`` holds, unless that is nothing, or more than ``most`` leaves."""
        size = self._stored_size()
        if not 0 < size <= most:
            return
        entries = size
        while entries:
            level = len(self._tails)
            full, part = divmod(entries, _WIDTH)
            name = f"{TILES}/{level}/{_path(full)}.p/{part}"
            self._tails.append(bytearray(self._stored(name, part * _HASH_BYTES) if part else b""))
            self._parts[level] = name if part else None
            self._full.append(full)
            entries = full
        self.size, self._seq = size, None

    def _stored_size(self) -> int:
        """Leaves in ``tiles/``, by the last name of level 0."""
        folder, number = f"{TILES}/0", 0
        while deeper := self._named(folder, _FOLDER):
            folder, number = f"{folder}/{deeper[-1]}", number * 1000 + int(deeper[-1][1:])
        full = int((self._named(folder, _TILE) or ["-1"])[-1]) + 1
        part = max(map(int, self._named(f"{folder}/{full:03d}.p", _PART)), default=0)
        return (number * 1000 + full) * _WIDTH + part

    def _named(self, folder: str, pattern: re.Pattern[str]) -> list[str]:
        """The names in a folder that are tiles' names; others are not ours."""
        return [name for name in self._disk.list(folder) if pattern.fullmatch(name)]

    def _clear(self) -> None:
        """Remove every tile."""
        folders = [f"{TILES}/{level}" for level in self._named(TILES, _PART)]
        while folders:
            folder = folders.pop()
            for name in self._disk.list(folder):
                if re.fullmatch(r"x[0-9]{3}|[0-9]{3}\.p", name):
                    folders.append(f"{folder}/{name}")
                elif re.fullmatch(r"[0-9]{1,3}(\.tmp)?", name):
                    self._disk.remove(f"{folder}/{name}")

    def _stored(self, name: str, size: int) -> bytes:
        try:
            file = self._disk.open(name)
        except StorageError as error:
            if error.errno == errno.ENOENT:
                raise StaleTiles(f"{name} is missing") from None
            raise
        try:
            data = file.pread(size + 1, 0)
        finally:
            file.close()
        if len(data) != size:
            raise StaleTiles(f"{name} has not {size} bytes")
        return data

    def _keep(self, level: int, number: int, tile: bytes, *, stored: bool) -> None:
        self._held[level, number] = tile
        if stored:
            self._written[level, number] = None
            if len(self._written) > _CACHED_TILES:
                for key in self._written:
                    del self._held[key]
                self._written.clear()

    def _save(self) -> None:
        """Store what fills no tile, and let go of its earlier form.  Full tiles are stored already."""
        if not self._write:
            return
        for level, (tail, full) in enumerate(zip(self._tails, self._full, strict=True)):
            name = f"{TILES}/{level}/{_path(full)}.p/{len(tail) // _HASH_BYTES}" if tail else None
            before = self._parts.get(level)
            if name is not None and name != before:
                self._store(name, tail)
            if before is not None and name != before:
                self._disk.remove(before)
            self._parts[level] = name

    def _store(self, name: str, data: bytes | bytearray) -> None:
        self._disk.make_folder(name.rpartition("/")[0])
        temporary = f"{name}.tmp"
        file = self._disk.open(temporary, create=True)
        try:
            file.pwrite(bytes(data), 0)
        finally:
            file.close()
        self._disk.rename(temporary, name)


def _path(number: int) -> str:
    """A tile's number as C2SP writes it: x001/x234/067."""
    parts = [f"{number % 1000:03d}"]
    while number := number // 1000:
        parts.insert(0, f"x{number % 1000:03d}")
    return "/".join(parts)


def _root(row: bytes | bytearray) -> bytes:
    """Root over 2^n hashes."""
    nodes = [bytes(row[at : at + _HASH_BYTES]) for at in range(0, len(row), _HASH_BYTES)]
    while len(nodes) > 1:
        pairs = iter(nodes)
        nodes = [sha256(b"\x01" + left + right).digest() for left, right in zip(pairs, pairs, strict=True)]
    return nodes[0]
