"""What the examples share: the shipped sample, a folder to play in, and the ending that must hold for all of them.

Rule 1  Nothing is called the same that was not compared; where it differs, the program ends with exit code 1.
Rule 2  What an example decides, it decides on what the store answers, which is exact and equal everywhere: so the story
        and its roots are the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import detmem

__all__ = ["DIMENSIONS", "Sample", "Say", "main", "replayed_beside", "same_memory", "sample", "short"]

DIMENSIONS = 384
_SAMPLE = Path(__file__).resolve().parent.parent / "data" / "wordnet-sample.npz"
_TEXT_WIDTH = 72

Say = Callable[[str], None]
Play = Callable[[Path, Say], bool]


@dataclass(frozen=True)
class Sample:
    """1,000 glosses of WordNet with their words, and 12 questions; float32 sentence vectors (1000, 384), (12, 384)."""

    words: list[str]
    texts: list[str]
    vectors: NDArray[np.float32]
    questions: list[str]
    queries: NDArray[np.float32]


def sample() -> Sample:
    """What ships with the package."""
    with np.load(_SAMPLE, allow_pickle=False) as archive:
        return Sample(
            archive["lemmas"].tolist(),
            archive["glosses"].tolist(),
            archive["vectors"],
            archive["query_texts"].tolist(),
            archive["query_vectors"],
        )


def short(text: str, width: int = _TEXT_WIDTH) -> str:
    """As much of a text as a line has room for."""
    return textwrap.shorten(text, width, placeholder=" ..")


def replayed_beside(path: Path) -> Path:
    """Where ``same_memory`` puts the second store."""
    return path.with_name(f"{path.stem}-replayed{path.suffix}")


def same_memory(path: Path, recall: Callable[[detmem.Database], object], say: Say, moments: Sequence[int] = ()) -> bool:
    """Replay the store's log into a second one, and compare: checkpoints, records and links, and what both recall.

    ``recall`` asks a database what matters and gives values that ``==`` compares; both stores are asked as they stand,
    and as they were after each seq of ``moments``.
    """
    copy = replayed_beside(path)
    detmem.replay(path, copy)
    with detmem.open(path, "r") as first, detmem.open(copy, "r") as second:
        faults = []
        here, there = first.checkpoint(), second.checkpoint()
        if here != there:
            faults.append(f"the checkpoint is\n{here}there, in the replayed store,\n{there}")
        difference = detmem.diff(first, second)
        if not difference.same:
            faults.append(f"records or links differ: {difference}")
        faults += [
            f"what is recalled of seq {seq} differs"
            for seq in (*moments, first.seq)
            if seq > second.seq or recall(first.at(seq)) != recall(second.at(seq))
        ]
        say(f"replay      {there.seq} commits, applied one by one to a new store")
        say(f"            state {here.state_root}")
        say(f"            again {there.state_root}")
        then = "".join(f", at seq {seq}" for seq in moments)
        say(f"            both were asked everything again{then} and as they stand now")
    for fault in faults:
        print(f"detmem: {fault}", file=sys.stderr)
    say("            NOT the same memory" if faults else "            the same memory, bit for bit")
    return not faults


def main(play: Play, what: str | None, arguments: Sequence[str] | None = None) -> int:
    """Play in a temporary folder, or in the one of ``--keep``.

    Exit code: 0, 1 when the replayed memory is not the same, 3 when a store cannot be made there.
    """
    title = (what or "").partition("\n")[0]
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--keep", metavar="DIR", help="make the stores in DIR, and leave them there")
    keep = parser.parse_args(arguments).keep
    print(title)
    try:
        if keep is None:
            with tempfile.TemporaryDirectory(prefix="detmem-example-") as folder:
                return 0 if play(Path(folder), print) else 1
        same = play(Path(keep), print)
        print(f"The stores are left in {keep}: {', '.join(sorted(path.name for path in Path(keep).glob('*.detmem')))}.")
    except detmem.CorruptionError as error:
        print(f"detmem: {error}", file=sys.stderr)
        return 1
    except detmem.DetmemError as error:
        print(f"detmem: {error}", file=sys.stderr)
        return 3
    return 0 if same else 1
