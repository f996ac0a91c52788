"""The report of ``make platforms``: what differs fails, what cannot run is said, and neither passes."""

from __future__ import annotations

import json

import pytest

from tests.platforms import platforms
from tests.platforms.platforms import OWN, Row

GOLDEN = "ab" * 32


def row(name, digest=GOLDEN, read="r", ours="r", **platform):
    """A platform that is as it must be, but for what is given."""
    machine = {
        "machine": "s390x", "byte_order": "big", "word_bits": 64, "python": "CPython 3.11.2", "numpy": "1.24.2",
        "numba": None, "kernels": ["reference"],
    }  # fmt: skip
    story = {"sha256": digest, "platform": {**machine, **platform}, "stores": {} if name == OWN else {OWN: ours}}
    return Row(name, story, seconds=1.5, read=read)


def judged(*rows):
    platforms.judge(list(rows), GOLDEN)
    return [one.failed for one in rows]


def test_equal_platforms_do_not_fail():
    assert judged(row(OWN), row("sid-s390x")) == [None, None]


def test_all_differing_alike_from_the_golden_digest_fail():
    assert all(judged(row(OWN, digest="cd" * 32), row("sid-s390x", digest="cd" * 32)))


def test_a_store_that_reads_otherwise_here_or_there_fails():
    ours, theirs, there = judged(row(OWN), row("sid-s390x", read="x"), row("sid-i386", ours="x"))
    assert ours is None
    assert theirs == "its stores read here as x, ours as r"
    assert there == "our stores read there as x, here as r"


def test_a_platform_without_kernels_of_its_own_counts_as_not_compiled():
    text = platforms.report([row(OWN, kernels=["reference", "portable"], byte_order="little"), row("a")], GOLDEN, 3.0)
    assert text.startswith(
        "**2 of 2 platforms come to one digest**, 1 of them with compiled kernels;\nbig and little endian"
    )
    assert "0 skipped, 0 failed" in text


def test_what_cannot_run_is_shouted_and_counted():
    rows = [row(OWN), Row("sid-m68k", skipped="its packages cannot be had"), Row("sid-sh4", failed="exit status 139")]
    text = platforms.report(rows, GOLDEN, 3.0)
    assert "**1 of 3 platforms" in text
    assert "1 skipped, 1 failed" in text
    assert "SKIPPED: its packages cannot be had" in text
    assert "FAILED: exit status 139" in text


def test_a_machine_that_cannot_emulate_skips_and_does_not_fail(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(platforms, "WORK", tmp_path)
    monkeypatch.setattr(platforms, "ready", lambda: "no unshare on this machine")
    found = platforms.run(platforms.Platform("sid-riscv64"))
    assert (found.skipped, found.failed, found.story) == ("no unshare on this machine", None, None)
    assert "sid-riscv64               SKIPPED " in capsys.readouterr().out


@pytest.mark.parametrize("words", ["", "qemu: uncaught target signal 11", json.dumps({"half": 1})[:-3]])
def test_a_platform_that_dies_fails(monkeypatch, tmp_path, words):
    monkeypatch.setattr(platforms, "WORK", tmp_path)
    done = platforms.subprocess.CompletedProcess([], 139, words, "")
    monkeypatch.setattr(platforms, "start", lambda platform, left: done)
    found = platforms.run(platforms.Platform("sid-riscv64"))
    assert found.failed is not None
    assert found.failed.startswith("exit status 139")


def test_names_are_unique_and_the_short_list_has_what_was_promised():
    names = [one.name for one in platforms.PLATFORMS]
    assert len(set(names)) == len(names)
    short = [one for one in platforms.PLATFORMS if one.few]
    assert len(short) >= 12
    assert {"bookworm-s390x", "bookworm-i386", "wasm32", "sid-riscv64"} <= {one.name for one in short}
