"""The auditor's page: it tells the truth of the log, it is one quiet file, and hostile text stays text."""

from __future__ import annotations

import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import detmem
from detmem.cli import main
from detmem.report import gather, report

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "\"><img src=x onerror=document.title='owned'>",
    "'><svg/onload=document.title='owned'>",
    "<!--",
    "]]>",
    "&lt;b&gt;&amp;",
    "${document.title='owned'}",
    "javascript:document.title='owned'",
    "\u202egnp.exe",
    "two\nlines\tand \x1b[31mred",
    "\x00",
    "x" * 512,
    "שלום",
]


def hostile_store(path: Path) -> str:
    """Every hostile text as id, document, metadata key and value, and as a collection's name."""
    with detmem.open(path) as db:
        for name in HOSTILE:
            db.collection(name[:128], dim=1, metric="l2")
        c = db[HOSTILE[1]]
        c.add(HOSTILE, [[n] for n in range(len(HOSTILE))], metadatas=[{h: h} for h in HOSTILE], documents=HOSTILE)
        c.delete(HOSTILE[0])
        c.update(HOSTILE[2], documents="other")
    return str(path)


def plain_store(path: Path) -> str:
    """Seven commits: notes a, b, c of which b is changed and c deleted; a collection that is dropped again."""
    with detmem.open(path) as db:
        notes = db.collection("notes", dim=2, metric="l2")  # 1
        notes.add(["a", "b", "c"], [[0, 0], [3, 4], [0, 1]], documents=["one", "two", "three"])  # 2
        notes.update("b", documents="secret words")  # 3
        notes.delete("c")  # 4
        db.collection("old", dim=1, metric="ip").add("gone", [1])  # 5, 6
        db.snapshot()
        db.drop("old")  # 7
    return str(path)


class Page(html.parser.HTMLParser):
    """What a browser without scripts would see: elements, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.data: Any = None
        self._open: list[str] = []
        self._section = ""
        self._script = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._section = dict(attrs)["id"] or ""
        if tag == "script":
            self._script = dict(attrs).get("id") or ""

    def handle_data(self, data: str) -> None:
        if self._script == "data":
            self.data = json.loads(data)
            self._script = ""
        self.texts[self._section] = self.texts.get(self._section, "") + data

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._section = ""


def page_of(store: str, **options: Any) -> Page:
    return Page(report(store, **options)[0])


# --- what it tells ----------------------------------------------------------------------------------------------------


def test_it_shows_the_roots_of_the_store_and_the_verdict(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "s")
    page = page_of(store)
    with detmem.open(store, "r") as db:
        checkpoint = db.checkpoint()
        assert "Intact7 commits were checked" in page.texts["verdict"]
        for value in (checkpoint.state_root, checkpoint.log_root, db.head, str(checkpoint)):
            assert value in page.texts["identity"]
        assert checkpoint.state_root in page.texts["again"]
        for entry in db.log():
            assert entry.link in page.texts["commits"]


def test_timeline_growth_and_collections_are_those_of_the_log(tmp_path: Path) -> None:
    page = page_of(plain_store(tmp_path / "s"))
    kinds = [kind for kind, _ in page.data["kinds"]]
    assert kinds == ["create collection", "drop collection", "add", "update", "delete"]
    told = [dict(zip(kinds, counts, strict=True)) for counts in page.data["bins"]]
    assert [{kind: n for kind, n in one.items() if n} for one in told] == [
        {"create collection": 1},
        {"add": 3},
        {"update": 1},
        {"delete": 1},
        {"create collection": 1},
        {"add": 1},
        {"drop collection": 1},
    ]
    notes = {"name": "notes", "points": [[0, 0], [1, 3], [2, 3], [3, 2]]}
    assert page.data["series"] == [notes, {"name": "old", "points": [[4, 0], [5, 1], [6, 0]]}]
    assert page.data["snapshots"] == [6]
    assert page.data["segments"] == [7]
    assert "old dropped" in page.texts["collections"]


@pytest.mark.parametrize(
    "start, stop, added, removed, changed",
    [
        (0, None, ["notes a", "notes b"], [], []),
        (2, None, [], ["notes c"], ["notes b content"]),
        (2, 3, [], [], ["notes b content"]),
        (5, 6, ["old gone"], [], []),
        (6, 7, [], ["old gone"], []),
        (4, 7, [], [], []),
        (7, 7, [], [], []),
    ],
)
def test_what_changed_between_two_moments(
    tmp_path: Path, start: int, stop: int | None, added: list[str], removed: list[str], changed: list[str]
) -> None:
    text = page_of(plain_store(tmp_path / "s"), start=start, stop=stop).texts["changes"]
    expected = "".join(
        f"{sign} {title} {len(items)}" + ("".join(items) or "none")
        for sign, title, items in (("+", "Added", added), ("-", "Removed", removed), ("~", "Changed", changed))
    )
    assert expected in text


def test_changes_agree_with_diff_of_replayed_moments(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "s")
    for start, stop in [(1, 4), (2, 6), (3, 7)]:
        sides = [tmp_path / f"{start}-{stop}-{seq}" for seq in (start, stop)]
        for seq, side in zip((start, stop), sides, strict=True):
            detmem.replay(store, side, until=seq)
        diff = detmem.diff(*sides)
        story = gather.Story(start, stop)
        from detmem.database import verify_disk
        from detmem.opening import disk_for_reading

        verify_disk(disk_for_reading(store), "replay", None, visit=story.visit)
        change = story.change()
        assert (change.added, change.removed) == (diff.added, diff.removed)
        assert [key[:2] for key in change.changed] == diff.changed


def test_damage_is_named_and_what_is_before_it_is_told(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "s")
    segment = sorted(Path(store, "log").iterdir())[0]
    data = bytearray(segment.read_bytes())
    data[data.index(b"secret words")] ^= 1
    segment.write_bytes(data)
    page, verdict = report(store)
    told = Page(page)
    assert (verdict.ok, verdict.first_bad_seq) == (False, 3)
    assert "Damaged" in told.texts["verdict"]
    assert f"First bad commitseq 3Wherelog/{segment.name}, byte {verdict.offset}" in told.texts["verdict"]
    assert "Intact before it2 commits" in told.texts["verdict"]
    assert (told.data["seq"], told.data["bad"]) == (2, 3)


def test_a_root_or_checkpoint_that_is_not_met_is_damage(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "s")
    page, verdict = report(store, expect="ab" * 32)
    assert not verdict.ok
    assert f"expected to end in state root {'ab' * 32}" in Page(page).texts["verdict"]
    assert report(store, expect=verdict.state_root)[1].ok
    with detmem.open(store, "r") as db:
        assert "kept elsewhere" in page_of(store, expect=db.checkpoint()).texts["verdict"]


def test_an_empty_store_has_a_page(tmp_path: Path) -> None:
    detmem.open(tmp_path / "s").close()
    page = page_of(str(tmp_path / "s"))
    assert "Intact, and empty" in page.texts["verdict"]
    assert "nothing to tell of" in page.texts["timeline"]


def test_without_head_the_log_is_told_and_the_verdict_says_why_it_is_bad(tmp_path: Path) -> None:
    store = plain_store(tmp_path / "s")
    (tmp_path / "s" / "HEAD").unlink()
    page = page_of(store)
    assert "Damaged" in page.texts["verdict"]
    assert "WhereHEADWhatHEAD is missing" in page.texts["verdict"]
    assert page.data["seq"] == 7


def test_recorded_receipts_links_and_erasures_are_told(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=1, metric="l2", erasable=True)
        c.add(["a", "b"], [[1], [2]], request_id="req-1")
        c.link("a", "knows", "b")
        db.record(bytes(range(32)), HOSTILE[1])
        db.record(b"\xff" * 32)
        with db.batch():
            c.unlink("a", "knows", "b")
            c.delete("b")
    page = page_of(str(tmp_path / "s"))
    assert f"4{bytes(range(32)).hex()}{HOSTILE[1]}5{'ff' * 32}" in page.texts["receipts"]
    kinds = [kind for kind, _ in page.data["kinds"]]
    assert kinds == ["create collection", "add", "delete", "link", "unlink", "record", "request"]
    assert [sum(counts) for counts in zip(*page.data["bins"], strict=True)] == [1, 2, 1, 1, 1, 2, 1]
    assert page.data["series"] == [{"name": "c", "points": [[0, 0], [1, 2], [2, 2], [5, 1]]}]


def test_erased_payloads_are_told_and_one_that_nobody_erased_is_damage(tmp_path: Path) -> None:
    with detmem.open(tmp_path / "s") as db:
        c = db.collection("c", dim=1, metric="l2", erasable=True)  # 1
        c.add(["a", "b"], [[1], [2]], documents=["one", "two"])  # 2
        c.add("later", [3])  # 3
        db.snapshot()
        before = {file: file.read_bytes() for file in (tmp_path / "s" / "log").iterdir()}
        db.erase("c", ["a"])  # 4
    page = page_of(str(tmp_path / "s"))
    assert "The payloads of 1 operation are erased" in page.texts["verdict"]
    assert page.data["series"][0]["points"][-1] == [3, 2]
    whole = sorted((tmp_path / "s" / "log").iterdir())
    first = whole[0]
    assert before[first] != first.read_bytes()
    for file in whole[1:]:  # as if the erasure had never been logged, and the store closed before it
        file.unlink()
    report_of, verdict = report(str(tmp_path / "s"))
    assert not verdict.ok
    assert Page(report_of).data["seq"] == verdict.seq


def test_a_long_log_is_put_into_bins_that_lose_no_operation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds made small: 100 commits in at most 16 bins, the last 5 of them listed, no moments compared in the page."""
    for name, value in {"MAX_BINS": 16, "MAX_COMMITS": 5, "MAX_EVENTS": 50}.items():
        monkeypatch.setattr(gather, name, value)
    with detmem.open(tmp_path / "s", durability="os") as db:
        c = db.collection("c", dim=1, metric="l2")
        for n in range(99):
            c.add(f"id{n}", [n])
        checkpoint = db.checkpoint()
    page = page_of(str(tmp_path / "s"))
    assert page.data["width"] == 8  # 13 bins: the least power of two that fits
    assert [sum(counts) for counts in page.data["bins"]] == [8] * 12 + [4]
    assert page.data["series"][0]["points"][-1] == [12, 99]
    assert page.data["roots"][-1] == checkpoint.state_root
    assert page.data["events"] is None
    assert len([tag for tag, attrs in page.tags if tag == "tr" and "data-seq" in attrs]) == 5


# --- one quiet file ---------------------------------------------------------------------------------------------------


def test_equal_stores_give_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    store = hostile_store(tmp_path / "s")
    shutil.copytree(store, tmp_path / "elsewhere")
    assert report(store) == report(str(tmp_path / "elsewhere"))


def test_it_asks_for_nothing_and_its_own_policy_forbids_more(tmp_path: Path) -> None:
    text, _ = report(hostile_store(tmp_path / "s"))
    page = Page(text)
    asked = [attrs for _, attrs in page.tags if {"src", "srcset", "action", "data", "background"} & attrs.keys()]
    assert asked == []
    assert [attrs["href"] for _, attrs in page.tags if "href" in attrs] == ["data:,"]
    style = text[text.index("<style>") : text.index("</style>")]
    assert not re.search(r"url\(|@import|@font-face", style)
    assert not re.search(r"fetch\(|XMLHttpRequest|WebSocket|import\(|innerHTML|eval\(", text)
    (policy,) = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_hostile_text_makes_no_element_and_is_shown_as_it_is(tmp_path: Path) -> None:
    page = page_of(hostile_store(tmp_path / "s"))
    kinds = {tag for tag, _ in page.tags}
    assert not kinds & {"img", "svg", "iframe", "object", "embed", "form", "a", "b0"}
    assert [attrs for tag, attrs in page.tags if tag == "script"] == [{"type": "application/json", "id": "data"}, {}]
    assert not [attrs for _, attrs in page.tags if any(name.startswith("on") or name == "style" for name in attrs)]
    for text in HOSTILE[1:9]:
        assert text in page.texts["changes"]
    assert "\\u202egnp.exe" in page.texts["changes"]
    assert "two\\nlines\\tand \\x1b[31mred" in page.texts["changes"]
    assert [HOSTILE[1], HOSTILE[4]] in page.data["events"]["keys"]


def test_documents_and_metadata_stay_in_the_store(tmp_path: Path) -> None:
    text, _ = report(plain_store(tmp_path / "s"))
    assert "secret words" not in text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_writes_the_page_and_says_the_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, page = plain_store(tmp_path / "s"), tmp_path / "report.html"
    assert main(["report", store, "-o", str(page)]) == 0
    assert capsys.readouterr().out.startswith("ok 1..7 state ")
    assert page.read_bytes() == report(store)[0].encode()
    assert main(["report", store, "-o", str(page), "--start", "2", "--stop", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True
    text = page.read_text(encoding="utf-8")
    assert text == report(store, start=2, stop=3)[0]
    assert "detmem report PATH -o report.html --start 2 --stop 3\n" not in text  # it is the last line
    assert "detmem report PATH -o report.html --start 2 --stop 3</pre>" in text
    assert main(["report", store, "-o", str(page), "--expect", "ab" * 32]) == 1
    assert main(["report", store, "-o", str(page), "--start", "3", "--stop", "2"]) == 2
    assert main(["report", store]) == 2
    assert main(["report", store, "-o", str(tmp_path / "no" / "folder")]) == 3
    assert main(["report", str(tmp_path / "none"), "-o", str(page)]) == 3


def test_a_segment_without_commits_is_no_damage_and_a_bad_one_is(tmp_path: Path) -> None:
    """Behind a snapshot the last segment is empty; the page called that "no good commit"."""
    path = tmp_path / "s"
    with detmem.open(path) as db:
        db.collection("notes", dim=1)
        db.snapshot()
    assert "no commit yet" in Page(report(path)[0]).texts["files"]
    head = path / "HEAD"
    head.unlink()
    assert "no good commit" in Page(report(path)[0]).texts["files"]


# --- in a browser -----------------------------------------------------------------------------------------------------

BROWSER = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=3000",
    "--enable-logging=stderr",
    "--dump-dom",
]
in_a_browser = pytest.mark.skipif(
    BROWSER is None, reason="NO BROWSER on this machine (chromium): the page was not opened and drawn"
)


def drawn(page: Path, profile: Path, fragment: str = "", width: int = 1000) -> str:
    """The document as it stands once a real browser has run it; nothing may have been refused or gone wrong."""
    assert BROWSER is not None
    command = [BROWSER, *QUIET, f"--window-size={width},1200", f"--user-data-dir={profile}", page.as_uri() + fragment]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


def count_bars(dom: str) -> int:
    plot = dom[dom.index('<div id="plot">') : dom.index('<div id="growth">')]
    return plot.count("<rect ") - plot.count('class="brush"')


@in_a_browser
def test_a_browser_draws_the_page_and_runs_nothing_of_the_stores(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(report(hostile_store(tmp_path / "s"))[0], encoding="utf-8")
    dom = drawn(tmp_path / "page.html", tmp_path / "profile")
    assert "<title>Audit report of a detmem store</title>" in dom
    assert count_bars(dom) == len(HOSTILE) + 3  # a commit for each collection, then add, delete, update
    assert "<img" not in dom
    assert 'class="curve k0"' in dom


@in_a_browser
def test_a_range_in_the_address_zooms_and_is_compared(tmp_path: Path) -> None:
    """Seq 3 to 4 of the plain store: b was changed, c deleted."""
    (tmp_path / "page.html").write_text(report(plain_store(tmp_path / "s"))[0], encoding="utf-8")
    dom = drawn(tmp_path / "page.html", tmp_path / "profile", "#3-4")
    assert count_bars(dom) == 2
    text = Page(dom).texts
    assert "From seq 2 to seq 4" in text["changes"]
    assert "+ Added 0none- Removed 1notes c~ Changed 1notes b content" in text["changes"]
    assert "2 of them lie in the range" in text["commits"]
    assert len(re.findall(r'<tr data-seq="\d+">', dom)) == 2
    assert len(re.findall(r'<tr data-seq="\d+" hidden="">', dom)) == 5


@in_a_browser
def test_nothing_is_wider_than_a_phone(tmp_path: Path) -> None:
    """A frame of 390 pixels says how wide its content is; chromium's own window cannot be so narrow."""
    (tmp_path / "page.html").write_text(report(hostile_store(tmp_path / "s"))[0], encoding="utf-8")
    (tmp_path / "phone.html").write_text(
        '<iframe id="f" src="page.html" style="width:390px;height:900px;border:0"></iframe><p id="w"></p><script>'
        "f.onload = () => setTimeout(() => { const root = f.contentDocument.documentElement;"
        " w.textContent = `${root.scrollWidth} of ${root.clientWidth}`; }, 500)</script>",
        encoding="utf-8",
    )
    assert BROWSER is not None
    command = [BROWSER, "--allow-file-access-from-files", *QUIET, f"--user-data-dir={tmp_path / 'profile'}"]
    command.append((tmp_path / "phone.html").as_uri())
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True)
    found = re.search(r">(\d+) of (\d+)<", done.stdout)
    assert found is not None
    assert int(found[1]) == int(found[2]) > 350
