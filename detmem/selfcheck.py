"""Whether this machine is as all others: ``python -m detmem selfcheck`` plays the fixed life of ``life``.

The SHA-256 over a stage's notes is the stage's digest, and the one over all stages is the machine's.
``data/golden.json`` holds what they must be, with a short hash of each note: what differs first is named.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import detmem
from detmem.journal.disk import environment
from detmem.life import SEARCHING, STAGES, World
from detmem.opening import kernels

__all__ = [
    "REFERENCE",
    "STAGES",
    "Played",
    "World",
    "difference",
    "kernels_of",
    "particulars",
    "play",
    "report_of",
    "run",
    "total",
]

_HERE = Path(__file__).parent
REFERENCE = _HERE / "data" / "golden.json"

# What a platform or a user may have set, and what has made floats differ.
_SETTINGS = (
    "DETMEM_KERNEL", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_NUM_THREADS", "NUMBA_DISABLE_JIT", "NUMBA_OPT",
    "OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NPY_DISABLE_CPU_FEATURES", "GLIBC_TUNABLES",
    "MSGPACK_PUREPYTHON", "PYTHONHASHSEED", "PYTHONOPTIMIZE", "LC_ALL", "TZ",
)  # fmt: skip


# ---------------------------------------------------------------------------------------------------------- the digests


class Played(NamedTuple):
    """What became of a stage: its notes as (what, SHA-256), seconds, and the error it ended in, if it did."""

    stage: str
    kernel: str
    notes: list[tuple[str, str]]
    seconds: float
    error: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over the notes."""
        return _digest(self.notes)


def play(name: str, world: World) -> Played:
    """Play one stage to its end; an error of any kind is noted as its end."""
    began = time.perf_counter()
    notes: list[tuple[str, str]] = []
    error = None
    try:
        for what, value in STAGES[name](world):
            notes.append((what, hashlib.sha256(_spelled(value).encode()).hexdigest()))
    except Exception as end:  # noqa: BLE001 - a strange platform may raise anything, and the report is about that
        frames = traceback.extract_tb(end.__traceback__)
        place = [frame for frame in frames if Path(frame.filename).is_relative_to(_HERE)][-1]  # this file is the first
        error = f"{type(end).__name__} in {Path(place.filename).name}, line {place.lineno}: {end}"
    return Played(name, world.kernel, notes, time.perf_counter() - began, error)


def _digest(notes: list[tuple[str, str]]) -> str:
    return hashlib.sha256("".join(f"{what}\t{digest}\n" for what, digest in notes).encode()).hexdigest()


def total(digests: dict[str, str]) -> str:
    """SHA-256 over the digests of all stages."""
    return hashlib.sha256("".join(f"{name}\t{digest}\n" for name, digest in digests.items()).encode()).hexdigest()


def _spelled(value: Any) -> str:
    """A value in one spelling: exact floats, sorted maps, no room for a type to hide."""
    if value is None or isinstance(value, (bool, str)):
        return json.dumps(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, dict):
        return "{" + ",".join(f"{_spelled(key)}:{_spelled(value[key])}" for key in sorted(value)) + "}"
    assert isinstance(value, (list, tuple)), f"a note of type {type(value)}"
    return "[" + ",".join(map(_spelled, value)) + "]"


def report_of(played: list[Played]) -> dict[str, Any]:
    """What ``data/golden.json`` holds, of stages that were played with one kernel."""
    digests = {one.stage: one.digest for one in played}
    notes = {one.stage: [[what, digest[:16]] for what, digest in one.notes] for one in played}
    return {"sha256": total(digests), "stages": digests, "notes": notes}


def difference(one: Played, reference: dict[str, Any]) -> str | None:
    """Where a stage first leaves the reference, or None."""
    if one.error is None and one.digest == reference["stages"].get(one.stage):
        return None
    expected = [tuple(note) for note in reference["notes"].get(one.stage, [])]
    found = [(what, digest[:16]) for what, digest in one.notes]
    place = next((at for at, pair in enumerate(zip(expected, found, strict=False)) if pair[0] != pair[1]), None)
    if place is not None:
        (what, wanted), (_, got) = expected[place], found[place]
        said = f"note {place + 1}, {what!r}: expected {wanted}, found {got}"
    else:
        said = f"expected {len(expected)} notes, found {len(found)}"
    ended = "" if one.error is None else f"; it ended in {one.error}"
    return f"stage {one.stage!r}, kernel {one.kernel}: {said}{ended}"


def kernels_of(stage: str, usable: list[str]) -> list[str]:
    """Those that a stage is played with: all where it is about searching, one elsewhere."""
    return usable if stage in SEARCHING else usable[:1]


# ----------------------------------------------------------------------------------------------------------- the report


def particulars() -> dict[str, Any]:
    """What one must know of a machine to understand a difference.

    ``UsageError``: the environment forces a kernel that cannot run here.
    """
    available = _available()
    usable = [name for name, refusal in available.items() if refusal is None]
    if not usable:
        raise detmem.UsageError(f"no kernel to play with: {available}")
    return {
        "detmem": detmem.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "byte_order": sys.byteorder,
        "word_bits": sys.maxsize.bit_length() + 1,
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "numpy": np.__version__,
        "numba": _version("numba"),
        "msgpack": _version("msgpack"),
        "kernels": usable,
        "settings": {name: value for name in _SETTINGS if (value := environment(name)) is not None},
    }


def _available() -> dict[str, str | None]:
    """Kernels that this run plays with, or the reason why not."""
    known = kernels()
    available = known["available"]
    assert isinstance(available, dict)
    forced = known["forced"]
    if forced is None:
        return dict(available)
    return {name: reason if name == forced else f"DETMEM_KERNEL={forced}" for name, reason in available.items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def run(*, as_json: bool = False) -> bool:
    """Play every stage with every kernel there is, in a temporary folder; True when this machine is as all others.

    Text goes to stdout; with ``as_json`` one JSON document goes there, and the text to stderr.
    """

    def say(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    reference = json.loads(REFERENCE.read_text(encoding="ascii"))
    machine = particulars()
    for name, value in machine.items():
        say(f"{name:<11}{json.dumps(value) if isinstance(value, (dict, list)) else value}")
    for name, refusal in _available().items():
        if refusal is not None:
            say(f"{'':<11}kernel {name} is not played: {refusal}")
    played: list[Played] = []
    differences: list[str] = []
    with tempfile.TemporaryDirectory(prefix="detmem-selfcheck-") as folder:
        for name in STAGES:
            for kernel in kernels_of(name, machine["kernels"]):
                place = Path(folder) / f"{name} {kernel}"
                place.mkdir()
                one = play(name, World(place, kernel))
                found = difference(one, reference)
                say(f"{name:<11}{kernel:<11}{one.digest}  {one.seconds:6.2f} s{'  DIFFERENT' if found else ''}")
                played.append(one)
                if found is not None:
                    differences.append(found)
    digests = {one.stage: one.digest for one in reversed(played)}
    digest = total({name: digests[name] for name in STAGES})
    same = not differences and digest == reference["sha256"]
    if same:
        say(f"identical to the reference (sha256 {digest})")
    else:
        say(f"DIFFERENT from the reference (sha256 {reference['sha256']})")
        for line in differences:
            say(f"  {line}")
        say("Please report this, with all of the lines above.")
    if as_json:
        stages = [
            {"stage": one.stage, "kernel": one.kernel, "sha256": one.digest, "seconds": round(one.seconds, 3)}
            for one in played
        ]
        story = {"identical": same, "sha256": digest, "expected": reference["sha256"], "differences": differences}
        print(json.dumps({**story, "platform": machine, "stages": stages}))
    return same
