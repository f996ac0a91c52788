"""The naive twin (spec/reference.py) as a model: the same calls for it and for a database.

A *call* is a command in the shapes of the twin: ("create", name, dim, metric, format), ("drop", name),
("add" | "upsert" | "update", name, [(id, raw vector or None, metadata, document)]), ("delete", name, ids),
("delete_where", name, where), ("link" | "unlink", name, id, relation, collection, id), ("request", request id, call),
("record", hash, note), ("batch", [calls]).
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import detmem

__all__ = ["TWIN", "Call", "check_contents", "perform", "perform_batch"]

Call = tuple[Any, ...]


def _twin() -> ModuleType:
    place = Path(__file__).resolve().parents[1] / "spec" / "reference.py"
    spec = importlib.util.spec_from_file_location("detmem_spec_reference_of_model", place)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TWIN = _twin()


def perform(db: detmem.Database, call: Call, **more: Any) -> Any:
    """One call of the twin's, not a batch, through the public door."""
    kind, name, *rest = call
    if kind == "request":
        return perform(db, rest[0], request_id=name)
    if kind == "record":
        return db.record(name, *rest)
    if kind == "create":
        if name in db.collections():
            raise detmem.UsageError("the public door gets an existing collection; the twin refuses to make it")
        dim, metric, number_format = rest
        return db.collection(name, dim=dim, metric=metric, format=number_format)
    if kind == "drop":
        return db.drop(name)
    if kind == "erase":
        return db.erase(name, rest[0])
    c = db[name]
    if kind == "delete":
        return c.delete(rest[0])
    if kind == "delete_where":
        return c.delete(where=rest[0])
    if kind in ("link", "unlink"):
        source, relation, collection, target = rest
        return getattr(c, kind)(source, relation, target if collection == name else (collection, target))
    ids, raws, metadatas, documents = (list(part) for part in zip(*rest[0], strict=True))
    more |= {"raw": raws} if raws[0] is not None else {}
    return getattr(c, kind)(ids, metadatas=metadatas, documents=documents, **more)


def perform_batch(db: detmem.Database, calls: list[Call]) -> Any:
    """All calls as one commit, or none."""
    with db.batch() as batch:
        for call in calls:
            if call[0] == "create":  # inside, only the batch knows whether it is pending
                try:
                    db[call[1]]
                except detmem.NotFoundError:
                    db.collection(call[1], dim=call[2], metric=call[3], format=call[4])
                else:
                    raise detmem.UsageError("it is there")
            else:
                assert perform(db, call) is None
    return batch.commit


def check_contents(db: detmem.Database, model: Any) -> None:
    """Everything that can be asked of a database is what the twin's memory holds."""
    assert db.collections() == sorted(model.state)
    for name, expected in model.state.items():
        c = db[name]
        assert (c.dim, c.metric, c.format) == (expected.dim, expected.metric, expected.format)
        found = c.get(include=("metadatas", "documents", "raw"))
        assert found.ids == list(c) == sorted(expected.records)
        assert len(c) == len(expected.records)
        records = [expected.records[id] for id in found.ids]
        assert [list(one.items()) for one in found.metadatas or []] == [sorted(r.metadata.items()) for r in records]
        assert found.documents == [record.document for record in records]
        assert found.raw is not None
        assert found.raw.tolist() == [record.vector for record in records]
        for id in expected.records:
            for direction, mine in (("out", slice(0, 2)), ("in", slice(3, 5))):
                other = slice(3, 5) if direction == "out" else slice(0, 2)
                there = [link for link in model.state.links if link[mine] == (name, id)]
                there.sort(key=lambda link: (link[2], *link[other][::-1]))
                assert c.neighbors(id, direction=direction) == [_seen(name, link) for link in there]
            either = {link for link in model.state.links if (name, id) in (link[:2], link[3:])}
            assert sorted(map(repr, c.neighbors(id, direction="both"))) == sorted(
                repr(_seen(name, link)) for link in either
            )


def _seen(name: str, link: Any) -> detmem.Link:
    src, dst = (end[1] if end[0] == name else end for end in (link[:2], link[3:]))
    return detmem.Link(src, link[2], dst)
