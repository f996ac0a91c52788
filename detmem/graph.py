"""Links as a caller names and sees them, and walks along them.

It decides nothing: what is legal stands in ``machine``, what is read comes from the moment that the caller asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from detmem.errors import UsageError
from detmem.machine import commands, encoding
from detmem.machine.links import Node, link_of
from detmem.results import Link

__all__ = ["DIRECTIONS", "Nodes", "Step", "all_between", "between", "edge", "expansion", "seen_from", "walk"]

DIRECTIONS = {"out": (False,), "in": (True,), "both": (False, True)}

Expansion = dict[str | None, int]
Near = Callable[[Node], Sequence[commands.Link]]


class Step(NamedTuple):
    """A record that a walk came to: how far, along which relation, where, and from where; so they are listed."""

    depth: int
    relation: str
    id: str
    collection: str
    source: Node


def edge(collection: str, src: object, relation: object, dst: object) -> commands.Link:
    """A checked link; ``dst`` is an id of the same collection, or (collection, id)."""
    target_collection, target = collection, dst
    if isinstance(dst, (tuple, list)):
        if len(dst) != 2:
            raise UsageError(f"dst: expected an id or (collection, id), found {len(dst)} values")
        target_collection, target = encoding.check_name(dst[0], "dst's collection"), dst[1]
    return commands.Link(
        collection,
        encoding.check_id(src, "src"),
        encoding.check_name(relation, "relation"),
        target_collection,
        encoding.check_id(target, "dst"),
    )


def seen_from(collection: str, link: commands.Link) -> Link:
    """The link with plain ids for records of ``collection``, and pairs for others."""
    src = link.source if link.collection == collection else (link.collection, link.source)
    dst = link.target if link.target_collection == collection else (link.target_collection, link.target)
    return Link(src, link.relation, dst)


class Nodes(dict[Node, Node]):
    """One object for each record that many links begin or end at."""

    def __missing__(self, node: Node) -> Node:
        self[node] = node
        return node


def between(link: commands.Link, nodes: Nodes) -> Link:
    """The link with (collection, id) for both ends."""
    return Link(nodes[link.collection, link.source], link.relation, nodes[link.target_collection, link.target])


def all_between(names: Iterable[bytes]) -> list[Link]:
    """``between`` of links in the machine's spelling, in order."""
    nodes = Nodes()
    return sorted(between(link_of(one), nodes) for one in names)


def expansion(expand: Any) -> Expansion | None:
    """Depth by relation, None standing for any relation; None when nothing is asked for."""
    if expand is None:
        return None
    if isinstance(expand, str):
        return {encoding.check_name(expand, "expand"): 1}
    if isinstance(expand, Mapping):
        if not expand:
            raise UsageError("expand: expected at least one relation, found an empty map")
        return {
            encoding.check_name(relation, "expand"): encoding.whole_number(depth, f"expand[{relation!r:.80}]", 1)
            for relation, depth in expand.items()
        }
    if isinstance(expand, (list, tuple)):
        raise UsageError("expand: expected a relation, {relation: depth} or a depth, found several; name them in a map")
    return {None: encoding.whole_number(expand, "expand: a relation, {relation: depth}, or a depth", 1)}


def walk(start: Node, wanted: Expansion, near: Near) -> list[Step]:
    """Every record within reach of ``start``, each once for each entry of ``wanted``, at its least depth.

    Links are followed from source to target, breadth first; ``start`` itself is not listed.
    """
    steps: list[Step] = []
    for relation, depth in wanted.items():
        seen, layer = {start}, [start]
        for level in range(1, depth + 1):
            found = sorted(
                Step(level, link.relation, link.target, link.target_collection, source)
                for source in layer
                for link in near(source)
                if relation in (None, link.relation)
            )
            layer = []
            for step in found:
                node = step.collection, step.id
                if node not in seen:
                    seen.add(node)
                    steps.append(step)
                    layer.append(node)
            if not layer:
                break
    return sorted(steps)
