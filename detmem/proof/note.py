"""Signed checkpoints: C2SP signed notes with Ed25519 (spec/receipts.md, "Signed checkpoint").

A key never signs two histories: whoever signs brings what it signed last, and the proof that leads from there.  The
library ``cryptography`` (extra ``sign``) is imported when a key is used, not before.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from detmem.errors import CorruptionError, Divergence, UsageError
from detmem.proof.checkpoint import ORIGIN, Checkpoint
from detmem.proof.merkle import BadProof
from detmem.proof.proofs import ConsistencyProof

__all__ = ["SignerKey", "VerifierKey"]

_ALGORITHM = b"\x01"  # Ed25519
_KEY_BYTES = 32
_HASH_BYTES = 4
_SIGNATURE_BYTES = 64
_MAX_SIGNATURES = 100
_MAX_NOTE_BYTES = 1 << 20
_PRIVATE = "PRIVATE+KEY+"
_NAME = r"[^+\s\x00-\x1f\ud800-\udfff]+"  # a note is UTF-8 without control characters
_KEY = re.compile(rf"({_NAME})\+([0-9a-f]{{8}})\+([A-Za-z0-9+/]+=*)")
_LINE = re.compile(r"— ([^+\s]+) ([A-Za-z0-9+/]+=*)")


@dataclass(frozen=True)
class VerifierKey:
    """A public key and its name; ``str`` gives the text ``name+hash+base64``, ``parse`` reads it."""

    name: str
    public: bytes

    @property
    def hash(self) -> bytes:
        """What a signature line says of the key, 4 bytes."""
        return sha256(self.name.encode() + b"\n" + _ALGORITHM + self.public).digest()[:_HASH_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.hash.hex()}+{_text(_ALGORITHM + self.public)}"

    @classmethod
    def parse(cls, text: str) -> VerifierKey:
        """Inverse of ``str``; ``UsageError`` for anything else."""
        name, key_hash, public = _parse_key(text, "a verifier key")
        key = cls(name, public)
        if key.hash != key_hash:
            raise UsageError(f"a verifier key of {name!r} whose hash is {key.hash.hex()}, not {key_hash.hex()}")
        return key

    def open(self, note: str) -> Checkpoint:
        """The checkpoint of a note that this key has signed, under its name.  ``CorruptionError`` for any other text.

        Signatures of other keys are not looked at.
        """
        if not isinstance(note, str):
            raise UsageError(f"note: expected str, found {type(note).__name__}")
        try:
            size = len(note.encode())
        except UnicodeEncodeError as error:
            raise CorruptionError(f"a note that is no UTF-8: {error}") from None
        if size > _MAX_NOTE_BYTES:
            raise CorruptionError(f"a note of {size} bytes: expected at most {_MAX_NOTE_BYTES}")
        text, border, signatures = note.rpartition("\n\n")
        lines = signatures.split("\n")
        if not border or lines.pop() or not 1 <= len(lines) <= _MAX_SIGNATURES:
            raise CorruptionError("expected a signed note: a text, an empty line, signatures")
        text += "\n"
        ours = []
        for line in lines:
            match = _LINE.fullmatch(line)
            data = b"" if match is None else _bytes(match[2])
            if match is None or len(data) <= _HASH_BYTES:
                raise CorruptionError(f"expected a signature line, found {line!r:.100}")
            if (match[1], data[:_HASH_BYTES]) == (self.name, self.hash):
                ours.append(data[_HASH_BYTES:])
        if not ours:
            raise CorruptionError(f"no signature of {self.name!r}")
        if len(ours) > 1 or not self._is_good(ours[0], text.encode()):
            raise CorruptionError(f"the signature of {self.name!r} is wrong")
        if not text.startswith(f"{self.name}\n"):
            raise CorruptionError(f"a note that is no checkpoint of {self.name!r}")
        try:
            return Checkpoint.parse(ORIGIN + text[len(self.name) :])
        except UsageError as error:
            raise CorruptionError(str(error)) from None

    def _is_good(self, signature: bytes, message: bytes) -> bool:
        if len(signature) != _SIGNATURE_BYTES:
            return False
        key = _ed25519().Ed25519PublicKey.from_public_bytes(self.public)
        from cryptography.exceptions import InvalidSignature

        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SignerKey:
    """A private key and its name; ``encode`` gives the text ``PRIVATE+KEY+name+hash+base64``, ``parse`` reads it."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def generate(cls, name: str) -> SignerKey:
        """A new key.  ``name``: not empty, without spaces, plus and control characters; a URL without a scheme is the
        custom.
        """
        if not isinstance(name, str) or not re.fullmatch(_NAME, name) or name == ORIGIN:
            raise UsageError(f"key name: expected a text without spaces, plus and control characters, found {name!r}")
        return cls(name, _ed25519().Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def verifier(self) -> VerifierKey:
        """The public half."""
        return VerifierKey(self.name, _private_key(self.seed).public_key().public_bytes_raw())

    def encode(self) -> str:
        """The key's text: a secret."""
        return f"{_PRIVATE}{self.name}+{self.verifier.hash.hex()}+{_text(_ALGORITHM + self.seed)}"

    @classmethod
    def parse(cls, text: str) -> SignerKey:
        """Inverse of ``encode``; ``UsageError`` for anything else (the message does not repeat the text)."""
        if not isinstance(text, str) or not text.startswith(_PRIVATE):
            raise UsageError("expected a signer key, which begins with PRIVATE+KEY+")
        name, key_hash, seed = _parse_key(text[len(_PRIVATE) :], "a signer key")
        key = cls(name, seed)
        if key.verifier.hash != key_hash:
            raise UsageError(f"a signer key of {name!r} with another key's hash")
        return key

    def last_signed(self, last: Checkpoint | str | None) -> Checkpoint | None:
        """What the caller kept of the last signature: a checkpoint, its text, or the note, which is verified."""
        if isinstance(last, str) and "\n\n" in last:
            return self.verifier.open(last)
        return Checkpoint.read(last, "last")

    def sign(
        self, checkpoint: Checkpoint, last: Checkpoint | str | None = None, consistency: ConsistencyProof | None = None
    ) -> str:
        """The signed note of a checkpoint.  ``last``: what this key signed before, None for nothing yet.

        ``Divergence`` unless ``consistency`` leads from ``last`` to ``checkpoint``, or they are the same.
        """
        before = self.last_signed(last)
        if before is not None and before != checkpoint:
            try:
                if consistency is None:
                    raise BadProof("there is no consistency proof")
                consistency.show(before, checkpoint)
            except BadProof as error:
                raise Divergence(
                    f"seq {checkpoint.seq} is not signed: the last signed is seq {before.seq}, and {error}"
                ) from None
        text = self.name + str(checkpoint)[len(ORIGIN) :]
        signature = _private_key(self.seed).sign(text.encode())
        return f"{text}\n— {self.name} {_text(self.verifier.hash + signature)}\n"


def _parse_key(text: str, what: str) -> tuple[str, bytes, bytes]:
    """(name, hash, 32 bytes)."""
    match = _KEY.fullmatch(text) if isinstance(text, str) else None
    data = b"" if match is None else _bytes(match[3])
    if match is None or len(data) != 1 + _KEY_BYTES or data[:1] != _ALGORITHM:
        raise UsageError(f"expected {what} of the form name+hash+base64, for Ed25519")
    return match[1], bytes.fromhex(match[2]), data[1:]


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    """Base64 in its one spelling; empty for any other."""
    try:
        data = base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
    return data if _text(data) == text else b""


def _private_key(seed: bytes) -> Any:
    return _ed25519().Ed25519PrivateKey.from_private_bytes(seed)


def _ed25519() -> Any:
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise UsageError("signing needs cryptography, which is not installed (pip install cryptography)") from None
    return ed25519
