"""What callers of a collection hand in, looked at: lists of ids, of metadata and documents, names of parts.

Each gives the plain value back or raises ``UsageError`` with the place of what is wrong.  Vectors are ``fixed``'s.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from detmem.errors import DuplicateIdError, UsageError, shown
from detmem.machine import encoding

__all__ = ["check_missing", "copied", "distance", "entries", "id_list", "includes", "listed", "merged"]


def distance(value: object, flat: bool) -> float | None:
    """A checked ``max_distance``."""
    if value is None:
        return None
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise UsageError(f"max_distance: expected a number, found {shown(value)}")
    if isinstance(value, (float, np.floating)) and math.isnan(value):
        raise UsageError("max_distance: expected a number, found NaN")
    if not flat:
        raise UsageError("max_distance: expected one query (dim,), found several: their answers differ in length")
    try:
        return float(value)
    except OverflowError:
        raise UsageError("max_distance: expected a number that a float64 can hold") from None


def id_list(ids: object, *, empty: bool = False, repeated: bool = False) -> tuple[list[str], bool]:
    """Checked ids, and whether they came as one bare str."""
    if isinstance(ids, str):
        return [encoding.check_id(ids, "id")], True
    values = listed(ids, "ids", "a str or a list of str")
    if not values and not empty:
        raise UsageError("ids: expected at least one id, found none")
    names = encoding.check_ids(values, "ids")
    if not repeated and len(set(names)) < len(names):
        seen: dict[str, int] = {}
        for index, id in enumerate(names):
            if seen.setdefault(id, index) != index:
                raise DuplicateIdError(f"ids[{index}]: {id!r} stands at ids[{seen[id]}] already; nothing was written")
    return names, False


def entries(values: object, count: int, bare: bool, what: str) -> list[Any]:
    """One entry for each record, None where there is none."""
    if values is None:
        return [None] * count
    if bare and isinstance(values, (str, dict, Mapping)):  # a dict is a Mapping, which takes longer to see
        return [values]
    entries = listed(values, what, "a list with an entry for each id")
    if len(entries) != count:
        raise UsageError(f"{what}: expected {count} entries, one for each id, found {len(entries)}")
    return entries


def listed(values: object, what: str, expected: str) -> list[Any]:
    """A list from a list, a tuple, a 1-D array or another sequence; never from a set or a generator."""
    if isinstance(values, (list, tuple)):  # these are Sequences, which takes longer to see
        return list(values)
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return list(values.tolist())
    if isinstance(values, Sequence) and not isinstance(values, (str, bytes, bytearray, memoryview)):
        return list(values)
    raise UsageError(f"{what}: expected {expected}, found {type(values).__name__}")


def _content(metadata: object, document: object, index: int) -> tuple[encoding.Metadata, str | None]:
    return (
        encoding.normalise_metadata(metadata, f"metadatas[{index}]"),
        encoding.check_document(document, f"documents[{index}]"),
    )


def merged(
    metadata: encoding.Metadata, document: str | None, patch: object, text: object, index: int
) -> tuple[encoding.Metadata, str | None]:
    """What an update leaves: keys with None are removed, others set; a part that is None stays."""
    changes, replaced = _content(patch, text, index)
    kept = {key: value for key, value in {**metadata, **changes}.items() if changes.get(key, ...) is not None}
    return encoding.normalise_metadata(kept, f"metadatas[{index}]"), document if text is None else replaced


def copied(metadata: encoding.Metadata) -> encoding.Metadata:
    """A map that the caller may change."""
    copy = metadata.copy()
    for key, value in metadata.items():
        if isinstance(value, list):
            copy[key] = value.copy()
    return copy


def includes(include: object, known: tuple[str, ...]) -> frozenset[str]:
    names = listed(include, "include", f"a list of any of {', '.join(known)}")
    for name in names:
        if not isinstance(name, str) or name not in known:
            raise UsageError(f"include: expected any of {', '.join(known)}, found {shown(name)}")
    return frozenset(names)


def check_missing(missing: object) -> None:
    if not isinstance(missing, str) or missing not in ("error", "ignore"):
        raise UsageError(f"missing: expected 'error' or 'ignore', found {shown(missing)}")
