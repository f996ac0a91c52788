"""The store's key, in ``keys/store.key``: 32 random bytes that the salts of erasable collections are made with.

It is no secret of encryption.  Machines that share it get equal roots from equal commands; whoever has it can confirm a
guess of what was erased, so destroying it is the last step of an erasure.
"""

from __future__ import annotations

from detmem.errors import CorruptionError
from detmem.journal.disk import Disk, random_bytes
from detmem.journal.files import KEYS

__all__ = ["KEY", "store_key"]

KEY = f"{KEYS}/store.key"
_KEY_BYTES = 32


def store_key(disk: Disk) -> bytes:
    """The key; made, synced and put into place when there is none.  ``CorruptionError`` for a file of another size."""
    if KEY.removeprefix(f"{KEYS}/") not in disk.list(KEYS):
        disk.make_folder(KEYS)
        disk.sync_folder("")
        temporary = f"{KEY}.tmp"
        file = disk.open(temporary, create=True)
        try:
            file.pwrite(random_bytes(_KEY_BYTES), 0)
            file.sync()
        finally:
            file.close()
        disk.rename(temporary, KEY)
        disk.sync_folder(KEYS)
    file = disk.open(KEY)
    try:
        key = file.pread(_KEY_BYTES + 1, 0)
    finally:
        file.close()
    if len(key) != _KEY_BYTES:
        raise CorruptionError(f"{KEY}: expected {_KEY_BYTES} bytes, found {len(key)}")
    return key
