"""From a path to an open database: modes, the lock, recovery, and a checkpoint that the log must pass through.

Arguments are checked before anything is made; what is not ours is left as it is.
"""

from __future__ import annotations

import sys

from detmem.database import MEMORY, Database
from detmem.errors import Divergence, FormatError, StoreExistsError, StoreNotFoundError, UsageError, shown
from detmem.finder import Finder
from detmem.journal.disk import AnyPath, Disk, MemoryDisk, OsDisk, environment, path_text
from detmem.journal.files import LOCK, holds_store
from detmem.journal.head import read_heads
from detmem.journal.log import SEGMENT_BYTES, Journal
from detmem.journal.past import position_at
from detmem.journal.policy import parse_policy
from detmem.journal.recovery import Opened, recover
from detmem.parallel import Workers, thread_count
from detmem.proof.checkpoint import Checkpoint
from detmem.search import KERNELS, available_kernels

__all__ = ["disk_for_reading", "kernels", "open", "open_disk"]

_MODES = ("r", "r+", "a", "x")


def open(
    path: AnyPath,
    mode: str = "a",
    *,
    durability: str = "always",
    expect: Checkpoint | str | None = None,
    accept_missing_head: bool = False,
    lock_timeout: float = 0.0,
) -> Database:
    """Open a store, a directory, or ``":memory:"``.

    ``mode``: ``r`` reads, takes no lock and writes nothing; ``r+`` must exist; ``a`` opens or creates; ``x`` creates.
    ``durability``: when a write returns.  ``always``: the disk has the commit; ``paranoid``: and HEAD says so;
    ``group:MS``: the disk has it, one sync serving the writers of MS milliseconds; ``interval:MS``: the operating
    system has it, the disk within MS; ``os``: the operating system has it. ``expect``: a checkpoint (or its text)
    that the log must pass through.  ``accept_missing_head``: go on without HEAD, on what the log holds.
    ``lock_timeout``: seconds to wait for another writer.

    ``StoreNotFoundError`` / ``StoreExistsError`` (also ``FileNotFoundError`` / ``FileExistsError``), ``FormatError``
    for a directory that is no store, ``LockedError``, ``LogDamaged`` where acknowledged data is lost, ``Divergence``
    from ``expect``.  An open that raises has lost nothing: at most it has put a torn tail into quarantine.
    """
    if not isinstance(mode, str) or mode not in _MODES:
        raise UsageError(f"mode: expected one of {', '.join(_MODES)}, found {shown(mode)}")
    if (
        isinstance(lock_timeout, bool)
        or not isinstance(lock_timeout, (int, float))
        or not 0 <= lock_timeout <= sys.float_info.max
    ):
        raise UsageError(f"lock_timeout: expected seconds, 0 or more, found {shown(lock_timeout)}")
    if not isinstance(accept_missing_head, bool):
        raise UsageError(f"accept_missing_head: expected True or False, found {shown(accept_missing_head)}")
    parse_policy(durability)
    _forced_kernel()
    expect = Checkpoint.read(expect, "expect")
    disk = _disk_at(path, mode, expect)  # makes the folder, so every argument has been checked before
    return open_disk(
        disk,
        write=mode != "r",
        durability=durability,
        expect=expect,
        accept_missing_head=accept_missing_head,
        lock_timeout=lock_timeout,
    )


def _disk_at(path: object, mode: str, wanted: Checkpoint | None = None) -> Disk:
    """The disk for ``open``, seen to be ours or still empty; made when the mode creates it, unless it should have
    reached ``wanted``."""
    text = path_text(path)
    if text == MEMORY:
        if mode not in ("a", "x"):
            raise StoreNotFoundError(f"{MEMORY} holds nothing yet: mode {mode!r} needs an existing store")
        _check_reached(wanted, 0)
        return MemoryDisk()
    disk = OsDisk(text)
    if not disk.exists():
        if mode in ("r", "r+"):
            raise StoreNotFoundError(f"no store at {text!r}, and mode {mode!r} does not create one")
        _check_reached(wanted, 0)
        disk.make_root(new=mode == "x")
        return disk
    if mode == "x":
        raise StoreExistsError(f"{text!r} exists already, and mode 'x' creates")
    ours = holds_store(disk) if disk.is_folder() else False
    if ours is False or (ours is None and mode != "a"):
        raise FormatError(f"{text!r} is not a detmem store; it was left as it is")
    if ours is None:
        _check_reached(wanted, 0)
    return disk


def disk_for_reading(path: AnyPath) -> Disk:
    """The disk of an existing store, opened by nobody."""
    return _disk_at(path, "r")


def open_disk(
    disk: Disk,
    *,
    write: bool = True,
    durability: str = "always",
    expect: Checkpoint | str | None = None,
    accept_missing_head: bool = False,
    lock_timeout: float = 0.0,
    segment_bytes: int = SEGMENT_BYTES,
) -> Database:
    """Open the store on a disk; see ``open``."""
    policy = parse_policy(durability)
    kernel = _forced_kernel() or "auto"
    workers = Workers(thread_count())
    wanted = Checkpoint.read(expect, "expect")
    read_heads(disk)  # a newer format is refused before anything is written, the lock's text included
    lock = disk.lock(LOCK, lock_timeout) if write else None
    opened: Opened | None = None
    try:
        opened = recover(disk, write=write, accept_missing_head=accept_missing_head)
        if wanted is not None:
            _check_expected(disk, wanted, opened.state.seq)
        journal = Journal(disk, opened, policy, segment_bytes, lock) if write else None
    except BaseException:  # whoever keeps the error must not keep the files open
        for file in (lock, None if opened is None else opened.head_file):
            if file is not None:
                file.close()
        raise
    return Database(disk, opened, journal, lock, Finder(kernel, workers))


def kernels() -> dict[str, object]:
    """What computes the answers here: ``{"forced": name or None, "available": {name: reason why not, or None}}``.

    ``reference`` is NumPy, ``portable`` compiled for any CPU, ``native`` uses its dot product of bytes.  All give the
    same bits.  The choice is made by the size of the work, unless the environment variable DETMEM_KERNEL forces one of
    them at any size.
    """
    return {"forced": _forced_kernel(), "available": available_kernels()}


def _forced_kernel() -> str | None:
    kernel = environment("DETMEM_KERNEL")
    if kernel is not None and kernel not in KERNELS:
        raise UsageError(f"DETMEM_KERNEL: expected one of {', '.join(KERNELS)}, found {kernel!r}")
    return kernel


def _check_reached(wanted: Checkpoint | None, seq: int) -> None:
    if wanted is not None and wanted.seq > seq:
        raise Divergence(
            f"expected a store that has reached seq {wanted.seq}, this one ends at {seq}: it was rolled back"
        )


def _check_expected(disk: Disk, wanted: Checkpoint, seq: int) -> None:
    _check_reached(wanted, seq)
    position = position_at(disk, wanted.seq)
    found = Checkpoint.of(position.seq, position.log, position.state_root)
    if found != wanted:
        raise Divergence(f"expected the log to pass through {wanted!r}, found {found!r}")
