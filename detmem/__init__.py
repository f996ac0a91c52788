"""detmem: a deterministic embedded memory database.

Fixed-point vectors with text and metadata, held by a replayable state machine, written to an append-only log, searched
exactly.  The same commands give the same bytes on every machine: roots, snapshots, answers.

The house, from the top (a room imports only rooms below it):

    cli, options, demo      the auditor's desk, its words, and the main job on real data
    examples                memory systems on the public API, to read and to run
    selfcheck, life         one fixed life, and whether this machine makes of it what all others do
    history                 verify, replay, diff, salvage, repair: whole stores at once
    checking                what a receipt is worth, asked of a store again
    exchange                export and import: files that other programs read
    report                  one page for an auditor
    opening                 from a path to an open database
    database, collection    the shell: check -> stage -> append -> sync -> publish; arrays in, results out
    finder, arguments       rows that are nearest or match; what callers hand in, looked at
    past, graph             a database as it was at a seq; links as callers see them
    results                 what calls give back
    parallel, progress      threads for searches; how far long work is
    prover                  from a store to proofs
    proof                   checkpoints, proofs, receipts, signed notes: whatever is checked without a store
    journal                 the only rooms that touch a disk: frames, HEAD, recovery, snapshots
    search                  exact nearest neighbours: the definition, and planes and kernels with the same bits
    machine                 the pure core: numbers, encoding, operations, state, filters, commitments
    errors                  every way to say no
    verifier                stands alone: copied elsewhere, it checks stores and proofs without this package

Normative texts stand in ``spec/``.
"""

from detmem.checking import check_receipt
from detmem.collection import Collection
from detmem.database import Batch, Database
from detmem.errors import (
    Archived,
    CorruptionError,
    DetmemError,
    DimensionError,
    Divergence,
    DuplicateIdError,
    Erased,
    FormatError,
    LockedError,
    LogDamaged,
    NotFoundError,
    RangeError,
    ReadOnlyError,
    SnapshotDamaged,
    StorageError,
    StoreExistsError,
    StoreNotFoundError,
    StorePoisoned,
    UsageError,
)
from detmem.history import diff, replay, verify
from detmem.journal.recovery import Recovery
from detmem.machine.fixed import dequantize, quantize
from detmem.opening import kernels, open
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.note import SignerKey, VerifierKey
from detmem.proof.proofs import ConsistencyProof, Proof, RecordProof, Verdict
from detmem.proof.receipt import Receipt, Refutation, Subtree
from detmem.results import (
    ArchiveInfo,
    Commit,
    Diff,
    Entry,
    Hit,
    Link,
    Linked,
    Record,
    Records,
    Report,
    Result,
    SnapshotInfo,
)

__version__ = "0.1.0"

__all__ = [
    "ArchiveInfo",
    "Archived",
    "Batch",
    "Checkpoint",
    "Collection",
    "Commit",
    "ConsistencyProof",
    "CorruptionError",
    "Database",
    "DetmemError",
    "Diff",
    "DimensionError",
    "Divergence",
    "DuplicateIdError",
    "Entry",
    "Erased",
    "FormatError",
    "Hit",
    "Link",
    "Linked",
    "LockedError",
    "LogDamaged",
    "NotFoundError",
    "Proof",
    "RangeError",
    "ReadOnlyError",
    "Receipt",
    "Record",
    "RecordProof",
    "Records",
    "Recovery",
    "Refutation",
    "Report",
    "Result",
    "SignerKey",
    "SnapshotDamaged",
    "SnapshotInfo",
    "StorageError",
    "StoreExistsError",
    "StoreNotFoundError",
    "StorePoisoned",
    "Subtree",
    "UsageError",
    "Verdict",
    "VerifierKey",
    "check_receipt",
    "dequantize",
    "diff",
    "kernels",
    "open",
    "quantize",
    "replay",
    "verify",
]
