"""A checkpoint: four values that say what a memory holds and everything that happened to it (spec/commitments.md).

Its text is a C2SP tlog-checkpoint, so that other people's tools can read it.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

from detmem.errors import UsageError
from detmem.machine.commitment import ZERO, LogTree

__all__ = ["ORIGIN", "Checkpoint"]

ORIGIN = "detmem/v1"

_TEXT = re.compile(
    rf"{ORIGIN}\n(0|[1-9][0-9]{{0,18}})\n([A-Za-z0-9+/]{{43}}=)\nseq (0|[1-9][0-9]{{0,18}})\nstate ([0-9a-f]{{64}})\n"
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """``seq`` commits in ``log_size`` leaves; ``log_root`` and ``state_root`` in hex.

    Equal checkpoints mean equal histories and equal contents.  ``str`` gives the text, ``parse`` reads it.
    """

    seq: int
    log_size: int
    log_root: str
    state_root: str

    @classmethod
    def of(cls, seq: int, log: LogTree, state_root: bytes) -> Checkpoint:
        """The checkpoint of a machine that stands there."""
        return cls(seq, log.size, log.root.hex(), state_root.hex())

    def __str__(self) -> str:
        root = base64.b64encode(bytes.fromhex(self.log_root)).decode("ascii")
        return f"{ORIGIN}\n{self.log_size}\n{root}\nseq {self.seq}\nstate {self.state_root}\n"

    @classmethod
    def read(cls, value: object, what: str) -> Checkpoint | None:
        """What a caller may hand in: a checkpoint, its text, or None.  ``UsageError``, also for impossible fields."""
        if value is None:
            return None
        if isinstance(value, Checkpoint):
            try:
                value = str(value)
            except (TypeError, ValueError) as error:
                raise UsageError(f"{what}: a checkpoint whose log root is not hex: {error}") from None
        if not isinstance(value, str):
            raise UsageError(f"{what}: expected a Checkpoint or its text, found {type(value).__name__}")
        return cls.parse(value)

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """Inverse of ``str``, accepting nothing else.  ``UsageError``."""
        if not isinstance(text, str):
            raise UsageError(f"checkpoint: expected its text, found {type(text).__name__}")
        match = _TEXT.fullmatch(text)
        if match is None:
            raise UsageError(f"expected the text of a checkpoint (five lines from {ORIGIN!r}), found {text[:80]!r}")
        size, root, seq, state_root = match.groups()
        try:
            log_root = base64.b64decode(root, validate=True)
        except binascii.Error as error:
            raise UsageError(f"checkpoint: the log root is not base64: {error}") from None
        checkpoint = cls(int(seq), int(size), log_root.hex(), state_root)
        if base64.b64encode(log_root).decode("ascii") != root:
            raise UsageError("checkpoint: the log root's base64 has stray bits in its last character")
        if 0 in (checkpoint.seq, checkpoint.log_size) and checkpoint != cls.of(0, LogTree(), ZERO):
            raise UsageError(f"no log has such a checkpoint: seq {seq} with {size} leaves, or other roots of none")
        return checkpoint
