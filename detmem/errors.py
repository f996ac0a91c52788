"""Every way detmem says no: a short tree, by whose move is next.

Rule 1  A raised error means that nothing happened: no state, file or caller's array has changed.
Rule 2  A message says what was expected, what was found, and where.
Rule 3  Callers never need to catch anything that is not a ``DetmemError``, except Python's own ``TypeError`` for
        unknown or missing arguments, and ``IndexError``, which ends a loop over a result.

``UsageError`` and below: the caller mends the call.  ``NotFoundError``, ``LockedError``, ``ReadOnlyError``: the caller
looks elsewhere, waits, or opens differently.  ``FormatError``: not a store of this version.
``Erased``: what is asked for is gone for good; ``Archived``: it lies elsewhere.  ``CorruptionError`` and
below: the bytes on disk are not what was written; look at a copy.  ``StorageError`` and below: the operating system
refused; look at the machine.
"""

from __future__ import annotations

__all__ = [
    "Archived",
    "CorruptionError",
    "DetmemError",
    "DimensionError",
    "Divergence",
    "DuplicateIdError",
    "Erased",
    "FormatError",
    "LockedError",
    "LogDamaged",
    "NotFoundError",
    "RangeError",
    "ReadOnlyError",
    "SnapshotDamaged",
    "StorageError",
    "StoreExistsError",
    "StoreNotFoundError",
    "StorePoisoned",
    "UsageError",
    "shown",
]


class DetmemError(Exception):
    """Anything that detmem refuses."""


class UsageError(DetmemError, ValueError):
    """A wrong value or a wrong type in a call."""


class DimensionError(UsageError):
    """A vector of the wrong shape."""


class RangeError(UsageError):
    """A number that the format cannot hold: NaN, infinite, too large, or a zero vector under ``cosine``."""


class DuplicateIdError(UsageError):
    """An id that already exists, or stands twice in one call."""


class NotFoundError(DetmemError, KeyError):
    """An id or a collection that is not there."""

    def __str__(self) -> str:  # KeyError would quote the message
        return str(self.args[0]) if self.args else ""


class StoreNotFoundError(DetmemError, FileNotFoundError):
    """No store stands at this path, and the mode does not create one."""


class StoreExistsError(DetmemError, FileExistsError):
    """A store stands at this path already, and the mode wanted to create it."""


class ReadOnlyError(DetmemError):
    """A write through a handle that only reads."""


class LockedError(DetmemError, OSError):
    """Another writer holds the store; the message names it."""


class FormatError(DetmemError):
    """Not a detmem store, or one of a newer format."""


class Erased(DetmemError):  # noqa: N818 - public contract
    """An answer about the past that would touch records erased since: it can no longer be given as it was."""


class Archived(DetmemError):  # noqa: N818 - as Erased
    """An answer about the past that needs payloads which were moved to an archive; the message says where."""


class CorruptionError(DetmemError):
    """Bytes that no version of detmem can have written, or that do not belong together."""


class LogDamaged(CorruptionError):  # noqa: N818 - the name is part of the public contract
    """The log does not hold what it acknowledged.

    Attributes: ``segment`` (file name), ``offset`` (bytes), ``first_lost_seq``, ``last_known_seq``.
    """

    def __init__(
        self, message: str, *, segment: str = "", offset: int = 0, first_lost_seq: int = 0, last_known_seq: int = 0
    ) -> None:
        super().__init__(message)
        self.segment = segment
        self.offset = offset
        self.first_lost_seq = first_lost_seq
        self.last_known_seq = last_known_seq


class SnapshotDamaged(CorruptionError):  # noqa: N818 - public contract
    """A snapshot file that does not verify."""


class Divergence(CorruptionError):  # noqa: N818 - public contract
    """Two things that must be equal are not: a replayed root, a checkpoint, a snapshot's link."""


class StorageError(DetmemError, OSError):
    """The operating system refused a file operation."""


class StorePoisoned(StorageError):  # noqa: N818 - public contract
    """A write or sync failed earlier: this handle writes no more; reopening recovers."""


def shown(value: object) -> str:
    """A value as a message says it: ``repr``, cut short."""
    try:
        text = repr(value)
    except ValueError:  # Python writes out no int of more than 4,300 digits, wherever it stands
        return f"{type(value).__name__} that is too large to show"
    return text if len(text) <= 80 else f"{text[:60]}...{text[-16:]}"
