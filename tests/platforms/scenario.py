"""The fixed life of ``detmem.selfcheck`` as a program, for platforms that have this checkout and little else.

    python tests/platforms/scenario.py              one JSON line: the platform, a SHA-256 for each stage, seconds
    python tests/platforms/scenario.py --leave DIR  also leave a store there, written on this platform
    python tests/platforms/scenario.py --read DIR   also read such stores, and say what is in each as a SHA-256
    python tests/platforms/scenario.py --stages ""  only these stages; here none
    python tests/platforms/scenario.py --renew      write detmem/data/golden.json anew; package and twin must agree

Exit status 1: not what golden.json says.  It needs no pytest, and no installed package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import detmem  # noqa: E402
from detmem import selfcheck  # noqa: E402


def played(name: str, kernel: str) -> selfcheck.Played:
    with tempfile.TemporaryDirectory(prefix="detmem-scenario-") as folder:
        return selfcheck.play(name, selfcheck.World(Path(folder), kernel))


def renew() -> int:
    """The golden file from a life that package and twin live alike."""
    from tests.platforms.twin_world import TwinWorld

    lives = [played(name, "reference") for name in selfcheck.STAGES]
    wanted = selfcheck.report_of(lives)
    for life in lives:
        twin = selfcheck.play(life.stage, TwinWorld())
        found = twin.error or life.error or selfcheck.difference(life, selfcheck.report_of([twin]))
        if found:
            print(f"the twin comes to something else: {found}", file=sys.stderr)
            return 1
    selfcheck.REFERENCE.write_text(json.dumps(wanted, indent=1, ensure_ascii=True) + "\n", encoding="ascii")
    print(f"{selfcheck.REFERENCE.name}: {wanted['sha256']}, package and twin agree on {len(lives)} stages")
    return 0


def leave(folder: Path) -> None:
    """The stores of stage "copies", written here."""
    folder.mkdir(parents=True)
    life = selfcheck.play("copies", selfcheck.World(folder, "reference"))
    assert life.error is None, life.error


def read(folder: Path) -> str:
    """SHA-256 over what the stores hold that somebody left, opened from their snapshot and replayed from their log."""
    seen: list[Any] = []
    for name in ("origin", "replayed"):
        report = detmem.verify(folder / name)
        seen.append([report.ok, report.seq, report.state_root])
        with detmem.open(folder / name, "r") as db:
            seen.append([str(db.checkpoint()), db.head])
            for c in map(db.collection, db.collections()):
                records = c.get(include=("metadatas", "documents", "raw"))
                answer = c.search(raw=records.raw[:4], k=5)
                seen.append([c.name, c.metric, c.format, records.ids, repr(records.metadatas), records.documents])
                seen.append([records.raw.tolist(), answer.ids, answer.raw.tolist()])
    with tempfile.TemporaryDirectory(prefix="detmem-scenario-") as copy:
        seen.append(str(detmem.replay(folder / "origin", Path(copy) / "again")))
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


def main() -> int:
    asked = argparse.ArgumentParser(description="the fixed life of a store")
    asked.add_argument("--renew", action="store_true")
    asked.add_argument("--leave", type=Path)
    asked.add_argument("--read", type=Path, nargs="*", default=[])
    asked.add_argument("--stages")
    options = asked.parse_args()
    began = time.perf_counter()
    if options.renew:
        return renew()
    golden = json.loads(selfcheck.REFERENCE.read_text(encoding="ascii"))
    machine = selfcheck.particulars()
    digests: dict[str, str] = {}
    differences = []
    chosen = list(selfcheck.STAGES) if options.stages is None else options.stages.split()
    for name in chosen:
        for kernel in selfcheck.kernels_of(name, machine["kernels"]):
            life = played(name, kernel)
            digests.setdefault(name, life.digest)
            differences += [found for found in [selfcheck.difference(life, golden)] if found is not None]
    if options.leave is not None:
        leave(options.leave)
    stores = {folder.name: read(folder) for folder in options.read}
    story = {"sha256": selfcheck.total(digests), "identical": not differences, "differences": differences}
    seconds = round(time.perf_counter() - began, 1)
    print(json.dumps({**story, "platform": machine, "stages": digests, "stores": stores, "seconds": seconds}))
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
