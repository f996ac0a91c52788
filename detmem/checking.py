"""What a receipt is worth, for whoever has a checkpoint, a store, or both (spec/receipts.md).

Offline checks are the receipt's own (``detmem.proof``); here a store is asked again.
"""

from __future__ import annotations

from contextlib import ExitStack
from itertools import zip_longest

import numpy as np

from detmem.database import Database
from detmem.errors import Archived, CorruptionError, Erased, NotFoundError, UsageError
from detmem.journal.disk import AnyPath
from detmem.machine import fixed
from detmem.opening import open
from detmem.proof.checkpoint import Checkpoint
from detmem.proof.proofs import ConsistencyProof, Verdict, check_trusted, verdict_of
from detmem.proof.receipt import Named, Receipt

__all__ = ["check_receipt"]


def check_receipt(
    receipt: Receipt | bytes | AnyPath,
    store: Database | AnyPath | None = None,
    *,
    checkpoint: Checkpoint | str | None = None,
    consistency: ConsistencyProof | None = None,
) -> Verdict:
    """What can be shown of a receipt (or its bytes, or its file).

    With a ``checkpoint`` that the caller trusts: R1, offline; ``consistency`` leads from the receipt's own to a later
    one.  With a ``store`` that he trusts: it is asked again as it stood then, R2; and all local lists of an R3.  With
    neither: only that the file is whole, R0; then ``ok`` is False for a receipt that claims more.

    A receipt that does not hold is a verdict without a level; where the store has erased or archived what it would have
    to look at, the level that holds without asking stays, and ``ok`` is False.  ``CorruptionError`` is a file that is
    no receipt.
    """
    if isinstance(receipt, (bytes, bytearray)):
        receipt = Receipt.decode(bytes(receipt))
    elif not isinstance(receipt, Receipt):
        receipt = Receipt.load(receipt)
    trusted = Checkpoint.read(checkpoint, "checkpoint")
    if consistency is not None and trusted is None:
        raise UsageError("consistency: leads to a checkpoint that you trust, and none was given")
    if store is not None:
        with ExitStack() as stack:
            db = store if isinstance(store, Database) else stack.enter_context(open(store, "r"))
            return _checked(receipt, db, trusted)
    said = f"this is what was said (sha256 {receipt.sha256})"
    if receipt.level == "R0":
        if trusted is not None:
            try:
                check_trusted(receipt.checkpoint, trusted, consistency)
            except CorruptionError as error:
                return Verdict(False, None, str(error))
        return Verdict(True, "R0", said, ("that the memory held it", "that the answer is right"))
    if trusted is None:
        return Verdict(False, "R0", f"{said}; to show more, give a checkpoint that you trust, or a store")
    return receipt.verify(trusted, consistency=consistency)


def _checked(receipt: Receipt, db: Database, trusted: Checkpoint | None) -> Verdict:
    def check() -> Verdict:
        for one in (receipt.checkpoint, trusted):
            if one is not None:
                db.prove_consistency(one)
        if receipt.part is not None:
            receipt.show(receipt.checkpoint, None)
        try:
            again = _asked_again(receipt, db)
        except (Archived, Erased) as error:
            level = "R0" if receipt.part is None else "R1"
            return Verdict(False, level, f"neither shown nor refuted: the store cannot be asked this any more: {error}")
        except (NotFoundError, UsageError) as error:
            return Verdict(False, None, f"the store cannot be asked this at seq {receipt.seq}: {error}")
        for rank, (said, found) in enumerate(zip_longest(receipt.results, again.results), 1):
            if said != found:
                reason = f"rank {rank}: the receipt says {_shown(said)}, the store {_shown(found)}"
                return Verdict(False, None, reason, rank=rank)
        if again.subtrees != receipt.subtrees:
            return Verdict(False, None, "the same answer, but other local lists")
        level = "R3" if receipt.level == "R3" else "R2"
        return Verdict(
            True, level, f"asked again at seq {receipt.seq}, the store gives the same {len(again.results)} results"
        )

    return verdict_of(check)


def _asked_again(receipt: Receipt, db: Database) -> Receipt:
    """The receipt that the store gives for the same question at the same seq."""
    with db.at(receipt.seq) as then:
        collection = then[receipt.collection]
        if collection._definition != receipt.definition:
            raise UsageError(f"collection {receipt.collection!r} is defined differently")
        found = collection.search(
            raw=np.frombuffer(receipt.query, fixed.RAW).astype(np.int32),
            k=receipt.k,
            where=receipt.where,
            ids=None if receipt.ids is None else list(receipt.ids),
            max_distance=receipt.max_distance,
            include=(),
        )
        return found.receipt("R3" if receipt.level == "R3" else "R0")


def _shown(one: Named | None) -> str:
    return "nothing" if one is None else f"{one.id!r} at raw distance {one.raw}"
