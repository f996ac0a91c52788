"""From what was gathered to HTML.  Everything that the store says passes through ``shown``."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Iterable, Sequence
from importlib.resources import files
from typing import Any

from detmem.journal.disk import Disk
from detmem.journal.files import open_if_there, segment_name, segment_seqs, snapshot_name, snapshot_seqs
from detmem.journal.head import HEAD, newest_head
from detmem.proof.checkpoint import Checkpoint
from detmem.report.gather import MAX_COMMITS, Change, Story
from detmem.results import Report

__all__ = ["render", "visible"]

MAX_LISTED = 200  # records in one list of changes
MAX_SERIES = 8  # collections with a line of their own
_SHOWN_IDS = 4
_COLOURS = {"add": 2, "upsert": 0, "update": 4, "delete": 1, "link": 3, "unlink": 3, "record": 6, "erase": 5}
_LEVELS = {
    "replay": "every payload against its commitment, every link, and every state root by applying each commit anew",
    "chain": "every payload against its commitment and every link; state roots were not computed anew",
}


def visible(text: str) -> str:
    """What a reader can see: control characters, and those that turn the order of reading, are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def shown(text: str) -> str:
    """Text of the store as HTML, which cannot reach out of its place."""
    return f"<bdi>{html.escape(visible(text))}</bdi>"


def render(disk: Disk, story: Story, found: Report, level: str, *, expected: bool) -> str:
    """The whole page."""
    style, script = (files(__package__).joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; img-src data:"
    change = story.change()
    head = newest_head(disk)
    sections = [
        _verdict(found, level, expected),
        _identity(found, story, None if head is None else head.store_id.hex()),
        _timeline(story),
        _collections(story),
        _changes(change, story),
        _receipts(story),
        _commits(story),
        _files(disk, story, found),
        _again(found, story, level, expected),
    ]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<link rel="icon" href="data:,">',
            "<title>Audit report of a detmem store</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            "<main>",
            "<header><h1>Audit report</h1><p>A detmem store, told from its own log</p></header>",
            *sections,
            "<footer>This page is not signed: whoever can change it can change what it says. "
            "The commands above ask the store itself.</footer>",
            "</main>",
            f'<script type="application/json" id="data">{_json(_data(story, found, disk, change))}</script>',
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


# ------------------------------------------------------------------------------------------------------------ sections


def _verdict(found: Report, level: str, expected: bool) -> str:
    commits = _count(found.seq, "commit")
    if found.ok:
        title = "Intact" if found.seq else "Intact, and empty"
        text = f"<p>{commits} {_were(found.seq)} checked: {_LEVELS[level]}.</p>"
        if found.erased:
            text += (
                f"<p>The payloads of {_count(found.erased, 'operation')} are erased, as the log itself explains: their "
                "commitments stand in every link and root, their bytes are gone.</p>"
            )
        if found.remaining:
            text += (
                f"<p>An erasure is unfinished: {_count(found.remaining, 'payload')} that it names "
                f"{'is' if found.remaining == 1 else 'are'} still there. Opening the store for writing finishes it.</p>"
            )
        if expected:
            text += "<p>It is what whoever made this page expected, by a checkpoint or a root kept elsewhere.</p>"
        return f'<section class="verdict ok" id="verdict"><h2>{title}</h2>{text}</section>'
    place: list[tuple[str, str]] = []
    if found.first_bad_seq is not None:
        place.append(("First bad commit", f"seq {found.first_bad_seq:,}"))
    if found.file is not None:
        offset = "" if found.offset is None else f", byte {found.offset:,}"
        place.append(("Where", f"{shown(found.file)}{offset}"))
    place.append(("What", shown(found.cause)))
    place.append(("Intact before it", commits))
    text = "<p>Nothing before it could be read.</p>"
    if found.seq:
        text = f"<p>What follows tells of the {commits} before the damage. It was checked: {_LEVELS[level]}.</p>"
    return f'<section class="verdict bad" id="verdict"><h2>Damaged</h2>{_pairs(place)}{text}</section>'


def _identity(found: Report, story: Story, store_id: str | None) -> str:
    checkpoint = _checkpoint(found, story)
    rows = [
        ("Commits", f"{found.seq:,}"),
        ("State root", _hash(found.state_root, "everything that the memory holds now")),
    ]
    if checkpoint is not None:
        rows += [
            ("Log root", _hash(checkpoint.log_root, "everything that ever happened to it")),
            ("Log size", f"{checkpoint.log_size:,} leaves"),
        ]
    if story.commits and story.commits[-1].seq == found.seq:
        rows.append(("Last link", _hash(story.commits[-1].link, "the end of the chain of commits")))
    if store_id is not None:
        rows.append(("Store id", _hash(store_id, "this copy alone: in no root and no link")))
    text = "" if checkpoint is None else f"<h3>Checkpoint</h3><pre>{html.escape(str(checkpoint))}</pre>"
    note = (
        "<p>Two machines that show the same checkpoint hold the same memory and have the same history. "
        "Keep it elsewhere: it is what a rewritten store cannot meet.</p>"
    )
    return _section("identity", "Identity and roots", _pairs(rows) + text + (note if text else ""))


def _timeline(story: Story) -> str:
    if not story.seq:
        return _section("timeline", "Timeline", "<p>There is nothing to tell of.</p>")
    width = "one commit" if story.width == 1 else f"{story.width:,} commits"
    counts = f"{_count(story.operations.total(), 'operation')} in {_count(story.seq, 'commit')}"
    text = (
        f"<p>{counts}, from left to right. A bar is {width} or more; heights are logarithmic, each row to its own "
        "scale; triangles are snapshots. Drag to look closer.</p>"
        '<div id="tools" role="group" aria-label="Zoom" hidden></div>'
        '<p id="readout" aria-live="polite"></p><div id="plot"></div>'
        '<h3>Records that were live</h3><p id="growth-readout" aria-live="polite"></p><div id="growth"></div>'
        "<noscript><p>The plot is drawn by the page's own script, which this reader does not run.</p></noscript>"
    )
    return _section("timeline", "Timeline", text)


def _collections(story: Story) -> str:
    kinds = [name for name in story.kinds() if name not in ("create_collection", "drop_collection", "record")]
    rows = []
    for name in sorted(story.by_collection):
        definition = story.definitions.get(name)
        standing = name in story.live
        counts = story.by_collection[name]
        rows.append(
            [
                shown(name) + ("" if standing else ' <span class="tag">dropped</span>'),
                f"{len(story.live.get(name, ())):,}",
                f"{story.peaks.get(name, 0):,}",
                *([f"{definition.dim:,}", definition.metric, definition.format] if definition else ["-"] * 3),
                *(f"{counts[kind]:,}" for kind in kinds),
            ]
        )
    if not rows:
        return _section("collections", "Collections", "<p>There are none.</p>")
    heads = ["collection", "records", "most ever", "dim", "metric", "format", *(_words(kind) for kind in kinds)]
    return _section("collections", "Collections", _table(heads, rows, "lrrrll" + "r" * len(kinds)))


def _changes(change: Change, story: Story) -> str:
    if not story.seq:
        return ""
    lists = "".join(
        _listed(title, sign, items)
        for title, sign, items in (
            ("Added", "+", [(key, "") for key in change.added]),
            ("Removed", "-", [(key, "") for key in change.removed]),
            ("Changed", "~", [((collection, id), parts) for collection, id, parts in change.changed]),
        )
    )
    how = (
        "It follows the plot: what you zoom to is compared, its beginning with its end."
        if story.events is not None
        else "This log is too long to compare others here: <code>detmem report --start SEQ --stop SEQ</code> does."
    )
    text = (
        f'<p>From <strong id="change-from">{_moment(change.first)}</strong> to '
        f'<strong id="change-to">{_moment(change.last)}</strong>, record by record: what came and went again in '
        f"between is not listed. {how}</p>"
        f'<div id="change-lists">{lists}</div>'
        "<p>Documents, metadata and vectors are not shown here, for they may be erased from the store one day: "
        "<code>detmem inspect PATH ID</code> shows a record.</p>"
    )
    return _section("changes", "What changed between two moments", text)


def _receipts(story: Story) -> str:
    if not story.receipts:
        text = "<p>None: nobody put on record what was read from this memory (<code>db.record</code>).</p>"
        return _section("receipts", "Recorded receipts", text)
    rows = [
        [f"{seq:,}", f"<code>{digest}</code>", "" if note is None else shown(note)]
        for seq, digest, note in story.receipts
    ]
    count = story.operations["record"]
    more = f" The first {len(rows):,} of {count:,} are listed." if len(rows) < count else ""
    text = (
        "<p>Each is the SHA-256 of an answer that the memory gave, and was put on record with the note beside it: who "
        f"kept the answer can show that it is this one (<code>detmem check-receipt FILE PATH</code>).{more}</p>"
    )
    return _section("receipts", "Recorded receipts", text + _table(["seq", "SHA-256", "note"], rows, "rll", tall=True))


def _commits(story: Story) -> str:
    if not story.commits:
        return ""
    rows = []
    for commit in story.commits:
        done = "; ".join(_done(*operation) for operation in commit.operations)
        rows.append(
            f'<tr data-seq="{commit.seq}"><td class="r">{commit.seq:,}</td><td>{done}</td>'
            f"<td><code>{commit.state_root}</code></td><td><code>{commit.link}</code></td></tr>"
        )
    first, last = story.commits[0].seq, story.commits[-1].seq
    whole = (first, last) == (1, story.seq)
    note = (
        "Each with the state root and the link behind it."
        if whole
        else f"Listed are seq {first:,} to {last:,} (at most {MAX_COMMITS:,}); <code>detmem log PATH</code> lists all, "
        "and <code>detmem report --stop SEQ</code> those before another."
    )
    table = (
        '<div class="scroll tall" tabindex="0"><table id="commits-table"><thead><tr><th class="r">seq</th><th>what</th>'
        f"<th>state root</th><th>link</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )
    return _section("commits", "Commits", f'<p>{note} <span id="commits-shown"></span></p>{table}')


def _files(disk: Disk, story: Story, found: Report) -> str:
    rows = []
    for first in segment_seqs(disk):
        name = segment_name(first)
        start, last = story.files.get(name, (0, 0))
        none = "no commit yet" if found.ok else "no good commit"
        what = f"commits {start:,} to {last:,}" if last else none
        rows.append([f"<code>{name}</code>", what, _size(disk, name)])
    rows += [
        [f"<code>{name}</code>", f"snapshot at seq {seq:,}", _size(disk, name)]
        for seq in snapshot_seqs(disk)
        for name in [snapshot_name(seq)]
    ]
    head = newest_head(disk)
    what = "unreadable" if head is None else f"acknowledged up to seq {head.durable_seq:,}"
    if head is not None and head.snapshot_seq:
        what += f", snapshot {head.snapshot_seq:,}"
    rows.append([f"<code>{HEAD}</code>", what, _size(disk, HEAD)])
    return _section("files", "Files", _table(["file", "holds", "bytes"], rows, "llr"))


def _again(found: Report, story: Story, level: str, expected: bool) -> str:
    lines = [f"detmem verify PATH --level {level} --expect {found.state_root}" if found.ok else "detmem verify PATH"]
    if found.ok:
        lines += [
            "detmem replay PATH COPY             # every commit applied anew, to a new store",
            "detmem diff PATH COPY               # must say: the same history, same contents",
        ]
    if _checkpoint(found, story) is not None:
        lines.append("detmem verify PATH --expect FILE    # FILE: the checkpoint above, as it stands")
    lines.append("python verifier.py store PATH       # detmem/verifier.py, copied: Python alone, without detmem")
    moments = (f" --start {story.first}" if story.first else "") + (f" --stop {story.last}" if story.last else "")
    wanted = " --expect ..." if expected else ""
    lines.append(
        "detmem report PATH -o report.html" + moments + (" --level chain" if level == "chain" else "") + wanted
    )
    text = (
        "<p>With PATH for the store. The first must end in the state root above; the last must write this page again, "
        "byte for byte, as long as nothing has been written to the store.</p>"
        f"<pre>{html.escape(chr(10).join(lines))}</pre>"
    )
    return _section("again", "How to reproduce this", text)


# ------------------------------------------------------------------------------------------------ what the script reads


def _data(story: Story, found: Report, disk: Disk, change: Change) -> dict[str, Any]:
    kinds = story.kinds()
    return {
        "seq": story.seq,
        "width": story.width,
        "kinds": [[_words(kind), _COLOURS.get(kind, 7)] for kind in kinds],
        "bins": [[one.operations[kind] for kind in kinds] for one in story.bins],
        "roots": [one.state_root for one in story.bins],
        "series": _series(story),
        "snapshots": [seq for seq in snapshot_seqs(disk) if seq <= story.seq],
        "segments": [seq for seq in segment_seqs(disk) if 1 < seq <= story.seq],
        "bad": found.first_bad_seq,
        "view": [change.first, change.last],
        "events": _events(story),
        "listed": MAX_LISTED,
    }


def _series(story: Story) -> list[dict[str, Any]]:
    """Records by collection as [bin, count] where it changed; the smaller collections are one line together."""
    ranked = sorted(story.peaks, key=lambda name: (-story.peaks[name], name))
    own = ranked if len(ranked) <= MAX_SERIES else ranked[: MAX_SERIES - 1]
    lines: dict[str, list[list[int]]] = {name: [] for name in own}
    rest: list[list[int]] = []
    standing: dict[str, int] = {}
    total = 0
    for number, one in enumerate(story.bins):
        for name, count in one.live.items():
            if name in lines:
                lines[name].append([number, count])
            else:
                total += count - standing.get(name, 0)
                standing[name] = count
        if len(own) < len(ranked) and (not rest or rest[-1][1] != total):
            rest.append([number, total])
    series = [{"name": visible(name), "points": points} for name, points in lines.items()]
    if rest:
        series.append({"name": f"{len(ranked) - len(own):,} others", "points": rest})
    return series


def _events(story: Story) -> dict[str, Any] | None:
    """Each touch of a record as [seq, key, vector, content]: numbers, equal where commitments are, 0 for absent."""
    if story.events is None:
        return None
    keys: dict[tuple[str, str], int] = {}
    numbers: dict[bytes, int] = {}
    events = []
    for seq, key, version in story.events:
        parts = (0, 0) if version is None else [numbers.setdefault(part, len(numbers) + 1) for part in version]
        events.append([seq, keys.setdefault(key, len(keys)), *parts])
    ranks = {key: rank for rank, key in enumerate(sorted(keys))}
    return {
        "keys": [[visible(collection), visible(id)] for collection, id in keys],
        "ranks": [ranks[key] for key in keys],
        "list": events,
    }


# --------------------------------------------------------------------------------------------------------------- pieces


def _checkpoint(found: Report, story: Story) -> Checkpoint | None:
    """Where the good part of the log ends; None when verification stopped between a commit and what it is told by."""
    return Checkpoint.of(story.seq, story.log, bytes.fromhex(found.state_root)) if story.seq == found.seq else None


def _done(name: str, collection: str, ids: Sequence[str]) -> str:
    some = ", ".join(shown(id) for id in ids[:_SHOWN_IDS])
    more = f" and {len(ids) - _SHOWN_IDS:,} more" if len(ids) > _SHOWN_IDS else ""
    return f'<span class="op">{_words(name)}</span> {shown(collection)}{": " if ids else ""}{some}{more}'


def _listed(title: str, sign: str, items: Sequence[tuple[tuple[str, str], str]]) -> str:
    rows = [
        f"<li>{shown(collection)} {shown(id)}" + (f' <span class="tag">{parts}</span>' if parts else "") + "</li>"
        for (collection, id), parts in items[:MAX_LISTED]
    ]
    if len(items) > MAX_LISTED:
        rows.append(f'<li class="more">and {len(items) - MAX_LISTED:,} more</li>')
    inside = f'<ul class="scroll" tabindex="0">{"".join(rows)}</ul>' if rows else '<p class="none">none</p>'
    return f'<div class="list"><h3><span class="sign">{sign}</span> {title} <b>{len(items):,}</b></h3>{inside}</div>'


def _section(name: str, title: str, inside: str) -> str:
    return f'<section id="{name}"><h2>{title}</h2>{inside}</section>'


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], sides: str, *, tall: bool = False) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        inside = (
            f"<{tag}{' class=r' if side == 'r' else ''}>{cell}</{tag}>" for cell, side in zip(cells, sides, strict=True)
        )
        return f"<tr>{''.join(inside)}</tr>"

    body = "".join(line("td", row) for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table><thead>{line("th", heads)}</thead><tbody>{body}</tbody></table></div>'
    )


def _hash(value: str, meaning: str) -> str:
    return f"<code>{value}</code><small>{meaning}</small>"


def _moment(seq: int) -> str:
    return f"seq {seq:,}" if seq else "the beginning"


def _words(kind: str) -> str:
    return kind.replace("_", " ")


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def _size(disk: Disk, name: str) -> str:
    file = open_if_there(disk, name)
    if file is None:
        return "-"
    try:
        return f"{file.size():,}"
    finally:
        file.close()


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")


def _json(value: object) -> str:
    """JSON that cannot end the element it stands in."""
    text = json.dumps(value, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
