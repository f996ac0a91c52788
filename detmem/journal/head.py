"""HEAD: what was acknowledged, in two slots of which a power cut can tear at most one (spec/log.md).

An unsynced slot is rewritten in place; only after it was synced does the next write go to the other slot.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from struct import Struct
from zlib import crc32

from detmem.errors import FormatError
from detmem.journal.disk import Disk
from detmem.machine.commitment import LINK_ZERO, ZERO
from detmem.machine.stage import VERSION

__all__ = ["HEAD", "Head", "HeadFile", "head_size_is_right", "newest_head", "read_heads"]

HEAD = "HEAD"

_SLOT = Struct("<8sHH4xQ16sQQQ32sQ32sI")
_MAGIC = b"DETMEMHD"
_CLEAN = 1
_PAGE_BYTES = 4096
_SLOTS = 2
_MAX_GENERATION = 2**63 - 1

assert _SLOT.size == 140


@dataclass(frozen=True, slots=True)
class Head:
    """One slot.  ``segment`` is the first seq of the segment that holds ``durable_offset``, 0 before there is one."""

    store_id: bytes
    generation: int = 0
    clean: bool = False
    durable_seq: int = 0
    segment: int = 0
    durable_offset: int = 0
    link: bytes = LINK_ZERO
    snapshot_seq: int = 0
    snapshot_digest: bytes = ZERO

    def encode(self) -> bytes:
        """140 bytes; ``decode`` is the inverse."""
        return _encode(**{name: getattr(self, name) for name in _FIELDS})

    @classmethod
    def decode(cls, data: bytes) -> Head | None:
        """None for a bad slot, ``FormatError`` for another format."""
        if len(data) < _SLOT.size:
            return None
        magic, version, flags, generation, store_id, *rest, crc = _SLOT.unpack(data[: _SLOT.size])
        if magic != _MAGIC or crc != crc32(data[: _SLOT.size - 4]):
            return None
        if version != VERSION:
            raise FormatError(f"HEAD has format {version}, this version of detmem reads format {VERSION}")
        if generation > _MAX_GENERATION:  # no life is long enough to have written it, and the next could not be
            return None
        head = cls(store_id, generation, bool(flags & _CLEAN), *rest)
        return head if head.encode() == data[: _SLOT.size] else None


def _encode(
    store_id: bytes,
    generation: int,
    clean: bool,
    durable_seq: int,
    segment: int,
    durable_offset: int,
    link: bytes,
    snapshot_seq: int,
    snapshot_digest: bytes,
) -> bytes:
    place = (durable_seq, segment, durable_offset, link)
    values = (generation, store_id, *place, snapshot_seq, snapshot_digest)
    head = _SLOT.pack(_MAGIC, VERSION, _CLEAN * clean, *values, 0)[:-4]
    return head + crc32(head).to_bytes(4, "little")


_FIELDS = tuple(field.name for field in fields(Head))


def read_heads(disk: Disk) -> list[Head | None]:
    """Both slots, None for a bad one; both None when there is no HEAD."""
    if HEAD not in disk.list(""):
        return [None] * _SLOTS
    file = disk.open(HEAD)
    data = file.pread(_SLOTS * _PAGE_BYTES, 0)
    file.close()
    return [Head.decode(data[at : at + _SLOT.size]) for at in range(0, _SLOTS * _PAGE_BYTES, _PAGE_BYTES)]


def head_size_is_right(disk: Disk) -> bool:
    """Whether HEAD, whatever it holds, has the size of ours."""
    file = disk.open(HEAD)
    size = file.size()
    file.close()
    return size == _SLOTS * _PAGE_BYTES


def newest_head(disk: Disk) -> Head | None:
    """The good slot of the newest generation, or None without a good one."""
    good = [head for head in read_heads(disk) if head is not None]
    return max(good, key=lambda head: head.generation, default=None)


class HeadFile:
    """HEAD, open for writing."""

    def __init__(self, disk: Disk, head: Head, slot: int) -> None:
        self._fields = {name: getattr(head, name) for name in _FIELDS}
        self._file = disk.open(HEAD, write=True)
        self._slot = slot
        # After a crash the slot that was read may live in memory only, and a write to the other would put both at the
        # mercy of one power cut.  The same bytes are written again, since a failed sync has marked their page clean.
        try:
            self._file.pwrite(head.encode(), slot * _PAGE_BYTES)
            self._file.sync()
        except BaseException:
            self._file.close()
            raise
        self._synced = True

    @classmethod
    def create(cls, disk: Disk, head: Head) -> HeadFile:
        """A new HEAD, synced; both slots are good from the start, so a bad one always means damage."""
        temporary = f"{HEAD}.tmp"
        file = disk.open(temporary, create=True)
        heads = [replace(head, generation=head.generation + slot) for slot in range(_SLOTS)]
        try:
            file.pwrite(b"".join(one.encode().ljust(_PAGE_BYTES, b"\0") for one in heads), 0)
            file.sync()
        finally:
            file.close()
        disk.rename(temporary, HEAD)
        disk.sync_folder("")
        return cls(disk, heads[-1], _SLOTS - 1)

    @property
    def head(self) -> Head:
        """What was written last."""
        return Head(**self._fields)

    def write(self, *, sync: bool, **changes: object) -> None:
        """Write the changed head; with ``sync`` it has reached the disk on return."""
        # One a commit, so no ``Head`` is made for it.
        self._fields.update(changes, generation=self._fields["generation"] + 1)
        if self._synced:
            self._slot = 1 - self._slot
        self._file.pwrite(_encode(**self._fields), self._slot * _PAGE_BYTES)
        self._synced = sync
        if sync:
            self._file.sync()

    def close(self) -> None:
        """Close the file; nothing is written."""
        self._file.close()
