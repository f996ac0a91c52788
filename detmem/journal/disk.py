"""The outside world, narrowed to what a journal needs: files, locks, the clock, randomness, the environment.

Rule 1  This is the only room that imports ``os``.  All others get a ``Disk`` and pass names relative to it.
Rule 2  An error of the operating system becomes a ``StorageError`` naming the file and the call; nothing is retried.
Rule 3  A write is whole or an error: short writes are continued, never returned.

Two implementations: ``OsDisk`` in production, ``MemoryDisk`` for ":memory:".
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from detmem.errors import FormatError, LockedError, StorageError, StoreExistsError, UsageError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

msvcrt: Any = None
try:
    import fcntl
except ImportError:
    fcntl = None  # type: ignore[assignment]
    try:
        import msvcrt  # Windows
    except ImportError:  # WebAssembly: no locks and no second process, see ``try_lock``
        pass

__all__ = [
    "LOCK_WORD",
    "AnyPath",
    "Disk",
    "File",
    "MemoryDisk",
    "OsDisk",
    "call_after_fork",
    "check_apart",
    "cpu_count",
    "environment",
    "path_text",
    "random_bytes",
]

AnyPath: TypeAlias = "str | os.PathLike[str]"

LOCK_WORD = "process"  # a lock file's text begins with it
_LOCK_POLL_SECONDS = 0.02
_MAX_WRITE_BYTES = 1 << 30  # Linux writes at most 2 GiB - 4 KiB a call


class File(Protocol):
    """An open file; offsets and sizes in bytes."""

    def pread(self, size: int, offset: int) -> bytes:
        """Up to ``size`` bytes; fewer only at the end of the file."""

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        """All of ``data``."""

    def size(self) -> int:
        """Length now."""

    def truncate(self, size: int) -> None:
        """Cut off what lies behind ``size``."""

    def sync(self) -> None:
        """Return once the bytes would survive a power cut."""

    def close(self) -> None:
        """Idempotent."""


class Disk(Protocol):
    """A folder.  Names are relative, with ``/``; listings are sorted."""

    durable: bool

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        """Open a regular file; ``create`` makes a new empty one."""

    def list(self, folder: str) -> list[str]:
        """Names in a folder, sorted; empty when there is no such folder."""

    def make_folder(self, name: str) -> None:
        """Make a folder; it may exist."""

    def rename(self, old: str, new: str) -> None:
        """Replace ``new`` by ``old``, at once."""

    def remove(self, name: str) -> None:
        """Remove a file."""

    def sync_folder(self, name: str) -> None:
        """Return once the folder's entries would survive a power cut."""

    def lock(self, name: str, timeout: float) -> File:
        """Take the writer's lock, or raise ``LockedError`` naming the holder after ``timeout`` seconds."""

    def path(self, name: str) -> str | None:
        """Where a file stands for other programs, if anywhere."""


class _storage:  # noqa: N801 - used as a statement; a class, since a generator costs as much as a small write
    """A context in which an ``OSError`` becomes a ``StorageError`` that names the call and the file."""

    __slots__ = ("_path", "_what")

    def __init__(self, what: str, path: str) -> None:
        self._what = what
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, OSError):
            raise StorageError(error.errno, f"{self._what} failed: {error.strerror}", self._path) from error


class _OsFile:
    def __init__(self, path: str, flags: int) -> None:
        self._path = path
        self._fd = -1
        self._locked = False
        flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)  # a link is refused, a FIFO does not hang
        with _storage("open", path):
            self._fd = os.open(path, flags, 0o666)
        with _storage("stat", path):
            regular = stat.S_ISREG(os.fstat(self._fd).st_mode)
        if not regular:
            self.close()
            raise FormatError(f"{path}: expected a regular file")

    def pread(self, size: int, offset: int) -> bytes:
        with _storage("read", self._path):
            parts = []
            while size > 0:
                part = _pread(self._fd, min(size, _MAX_WRITE_BYTES), offset)
                if not part:
                    break
                parts.append(part)
                offset += len(part)
                size -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        with _storage("write", self._path):
            rest = data
            while rest:
                written = _pwrite(self._fd, rest[:_MAX_WRITE_BYTES], offset)  # of bytes, a slice of all is no copy
                if not written:
                    raise OSError(errno.EIO, "nothing was written")
                rest, offset = memoryview(rest)[written:], offset + written

    def size(self) -> int:
        with _storage("stat", self._path):
            return os.fstat(self._fd).st_size

    def truncate(self, size: int) -> None:
        with _storage("truncate", self._path):
            os.ftruncate(self._fd, size)

    def sync(self) -> None:
        with _storage("sync", self._path):
            _sync(self._fd)

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            locked, self._locked = self._locked, False
            with _storage("close", self._path):
                if locked and fcntl is not None:  # a child that was just forked still shares the lock
                    fcntl.flock(fd, fcntl.LOCK_UN)
                os.close(fd)

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def try_lock(self) -> bool:
        """flock, never lockf: POSIX locks vanish when any descriptor of the file closes."""
        try:
            if fcntl is not None:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            elif msvcrt is not None:
                os.lseek(self._fd, 1 << 20, os.SEEK_SET)  # behind the text, so that others can read it
                msvcrt.locking(self._fd, msvcrt.LK_NBLCK, 1)
            elif any(os.path.sameopenfile(file._fd, self._fd) for file in _locked_files if file._locked):
                return False  # a process that is alone with its files can only meet itself
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK, errno.EDEADLK):
                return False
            raise StorageError(error.errno, f"lock failed: {error.strerror}", self._path) from error
        self._locked = True
        _locked_files.add(self)
        return True

    def disown_lock(self) -> None:
        """In a forked child: closing this must not take the lock from the parent."""
        self._locked = False


if hasattr(os, "pread"):
    _pread, _pwrite = os.pread, os.pwrite
else:  # Windows

    def _pread(fd: int, size: int, offset: int, /) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size)

    def _pwrite(fd: int, data: Buffer, offset: int, /) -> int:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.write(fd, data)


_FULL_SYNC: int | None = getattr(fcntl, "F_FULLFSYNC", None)  # macOS: fsync alone stops at the drive's cache
if _FULL_SYNC is not None:

    def _sync(fd: int, /) -> None:
        assert _FULL_SYNC is not None
        fcntl.fcntl(fd, _FULL_SYNC)

elif hasattr(os, "fdatasync"):
    _sync = os.fdatasync
else:
    _sync = os.fsync


class OsDisk:
    """A folder of the operating system's."""

    durable = True

    def __init__(self, root: str) -> None:
        self._root = os.path.abspath(root)  # once: a later chdir must not lead into another store

    def exists(self) -> bool:
        """Whether anything stands at the root."""
        return os.path.lexists(self._root)

    def holds(self, other: OsDisk) -> bool:
        """Whether the other's root is this one's, or lies below it."""
        ours, theirs = os.path.realpath(self._root), os.path.realpath(other._root)
        return theirs == ours or theirs.startswith(os.path.join(ours, ""))

    def is_folder(self) -> bool:
        """Whether the root is a folder."""
        return os.path.isdir(self._root)

    def make_root(self, *, new: bool = False) -> None:
        """Make the root, and see that its entry lasts.  ``new``: ``StoreExistsError`` when anything stands there."""
        try:
            with _storage("mkdir", self._root):
                os.makedirs(self._root, exist_ok=not new)
        except StorageError as error:
            if new and error.errno == errno.EEXIST:
                raise StoreExistsError(f"{self._root!r} exists already, made by somebody else just now") from None
            raise
        OsDisk(os.path.dirname(self._root)).sync_folder("")

    def open(self, name: str, *, write: bool = False, create: bool = False) -> _OsFile:
        flags = os.O_RDWR if write or create else os.O_RDONLY
        return _OsFile(self._at(name), flags | (os.O_CREAT | os.O_TRUNC if create else 0))

    def list(self, folder: str) -> list[str]:
        path = self._at(folder)
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            raise FormatError(f"{path}: expected a folder") from None
        except OSError as error:
            raise StorageError(error.errno, f"list failed: {error.strerror}", path) from error

    def make_folder(self, name: str) -> None:
        with _storage("mkdir", self._at(name)):
            os.makedirs(self._at(name), exist_ok=True)

    def rename(self, old: str, new: str) -> None:
        with _storage("rename", self._at(new)):
            os.replace(self._at(old), self._at(new))

    def remove(self, name: str) -> None:
        with _storage("remove", self._at(name)):
            os.remove(self._at(name))

    def sync_folder(self, name: str) -> None:
        if os.name == "nt":  # folders cannot be opened there; renames are journalled
            return
        path = self._at(name)
        with _storage("sync folder", path):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def lock(self, name: str, timeout: float) -> _OsFile:
        path = self._at(name)
        file = _OsFile(
            path, os.O_RDWR | os.O_CREAT
        )  # not truncated: another holder's text stays until the lock is ours
        deadline = time.monotonic() + timeout
        while not file.try_lock():
            if time.monotonic() >= deadline:
                holder = file.pread(512, 0).decode("utf-8", "replace").strip() or "another writer"
                file.close()
                raise LockedError(errno.EWOULDBLOCK, f"the store is being written by {holder}", path)
            time.sleep(_LOCK_POLL_SECONDS)
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        text = f"{LOCK_WORD} {os.getpid()} on {socket.gethostname()} since {since}\n".encode()
        try:
            file.truncate(0)
            file.pwrite(text, 0)
        except BaseException:  # whoever keeps the error must not keep the lock with it
            file.close()
            raise
        return file

    def path(self, name: str) -> str:
        return self._at(name)

    def _at(self, name: str) -> str:
        return os.path.join(self._root, name) if name else self._root


class _MemoryFile:
    def __init__(self, data: bytearray) -> None:
        self._data = data

    def pread(self, size: int, offset: int) -> bytes:
        return bytes(self._data[offset : offset + size])

    def pwrite(self, data: bytes | memoryview, offset: int) -> None:
        if offset > len(self._data):
            self._data.extend(bytes(offset - len(self._data)))
        self._data[offset : offset + len(data)] = data

    def size(self) -> int:
        return len(self._data)

    def truncate(self, size: int) -> None:
        del self._data[size:]

    def sync(self) -> None:
        pass  # memory is as safe as it gets

    def close(self) -> None:
        pass  # nothing to give back


class MemoryDisk:
    """A folder in memory, for one handle and as long as it lives."""

    durable = False

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}

    def open(self, name: str, *, write: bool = False, create: bool = False) -> File:
        if create:
            self.files[name] = bytearray()
        if name not in self.files:
            raise StorageError(errno.ENOENT, "open failed: no such file", name)
        return _MemoryFile(self.files[name])

    def list(self, folder: str) -> list[str]:
        start = f"{folder}/" if folder else ""
        inside = [name[len(start) :] for name in self.files if name.startswith(start)]
        return sorted({name.split("/")[0] for name in inside})

    def make_folder(self, name: str) -> None:
        pass  # folders are prefixes here

    def rename(self, old: str, new: str) -> None:
        self.files[new] = self.files.pop(old)

    def remove(self, name: str) -> None:
        del self.files[name]

    def sync_folder(self, name: str) -> None:
        pass  # as File.sync

    def lock(self, name: str, timeout: float) -> File:
        return self.open(name, create=True)

    def path(self, name: str) -> None:
        return None


_locked_files: weakref.WeakSet[_OsFile] = weakref.WeakSet()
_after_fork: list[weakref.WeakMethod[Callable[[], None]]] = []


def call_after_fork(method: Callable[[], None]) -> None:
    """Call a bound method in every child that this process forks, as long as its object lives."""
    _after_fork[:] = [kept for kept in _after_fork if kept() is not None]
    _after_fork.append(weakref.WeakMethod(method))


def _in_child() -> None:
    for file in list(_locked_files):
        file.disown_lock()
    failures: list[OSError] = []
    for reference in _after_fork:
        method = reference()
        if method is not None:
            try:
                method()
            except OSError as error:  # one handle's trouble must not leave the others writing; raised below
                failures.append(error)
    if failures:
        raise failures[0]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def check_apart(disk: Disk, target: OsDisk) -> None:
    """``UsageError`` when a place for something new is the folder of ``disk``, or lies in it."""
    if isinstance(disk, OsDisk) and disk.holds(target):
        raise UsageError(f"{target.path('')!r} lies in the store itself: choose a place outside of it")


def random_bytes(size: int) -> bytes:
    """Unpredictable bytes, for a store's identity."""
    return os.urandom(size)


def environment(name: str) -> str | None:
    """An environment variable; empty counts as unset."""
    return os.environ.get(name) or None


def cpu_count() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def path_text(path: object) -> str:
    """A path as str; ``UsageError`` when it is none."""
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"path: expected str or PathLike, found {type(path).__name__}")
    text = os.fspath(path)
    if not isinstance(text, str) or not text or "\0" in text:
        raise UsageError(f"path: expected a non-empty str without NUL, found {text!r}")
    try:
        os.fsencode(text)
    except UnicodeEncodeError as error:
        raise UsageError(f"path: {text!r} cannot be a file name: {error.reason}") from None
    return text
