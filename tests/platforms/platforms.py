"""One digest everywhere: ``python tests/platforms/platforms.py [--all] [--only NAME,...] [--jobs N] [--tests "..."]``.

Every platform plays ``scenario.py``, which compares itself with golden.json; it reads the stores that this machine has
left, and this machine reads those that it leaves.  bench/results/platforms.md has a row for each.

Rule 1  What cannot run is SKIPPED, in capitals, with the reason; it never passes.  Exit status 1 if a platform differs,
        fails or cannot read a store; skipping is no failure.
Rule 2  Needs no root.  Foreign systems are unpacked from Debian's packages (mkroot.sh), and run by QEMU in a namespace
        of their own (xrun.sh).  They stand in DETMEM_PLATFORMS, or in build/platforms, and are made once.
Rule 3  With --tests, pytest runs those files there instead; what it says goes to bench/results/platforms_tests.md.
Rule 4  Each foreign platform has its own copy of the package, for numba keeps what it compiles beside the source.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from bench import common  # noqa: E402

WORK = Path(os.environ.get("DETMEM_PLATFORMS") or ROOT / "build" / "platforms").resolve()
if len(str(WORK).split()) > 1:  # mount's options, and the shell's lists of them, know no quotes
    WORK = Path(tempfile.gettempdir()).resolve() / f"detmem-platforms-{zlib.crc32(str(WORK).encode()):08x}"
unpacking = threading.Lock()  # apt keeps one cache
OWN = "pypi"  # this very interpreter: where stores are written first, and read last
LONGEST = {"build": 900, "run": 3600}  # seconds
COMMON = ("python3", "python3-numpy", "python3-msgpack", "libblas3", "liblapack3")
# Dependencies that nothing here uses: compilers' tools, scipy, and what only maintainer scripts would need.
STUBS = (
    "python3-scipy python3-pkg-resources python3-setuptools python3-importlib-metadata media-types mailcap dpkg tar "
    "tzdata netbase readline-common libtirpc3 libtirpc3t64 libnsl2 libgssapi-krb5-2 libkrb5-3 llvm-14 llvm-19"
)
QEMU = {
    "amd64": "-", "i386": "-32", "arm64": "aarch64", "armhf": "arm", "armel": "arm", "ppc64el": "ppc64le",
    "s390x": "s390x", "riscv64": "riscv64", "mips64el": "mips64el", "loong64": "loongarch64",
}  # fmt: skip


@dataclass(frozen=True)
class Platform:
    """Where to run: a suite and an architecture of Debian's, or one of the two that are none."""

    name: str
    numba: bool = False
    qemu: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    few: bool = True  # among the few that run in minutes
    python: str = "python3"
    wheels: tuple[str, ...] = ()  # what pip gets from PyPI, and for which machine, instead of Debian's packages

    @property
    def root(self) -> Path:
        suite, architecture, *_ = self.name.split("-")
        other = "" if self.python == "python3" else f"-{self.python}"
        return WORK / "roots" / f"{suite}-{architecture}{other}"


PLATFORMS = [
    Platform(OWN),
    Platform("trixie-amd64", numba=True),
    Platform("bookworm-amd64", numba=True),
    Platform("sid-amd64", numba=True),
    Platform("bookworm-i386", numba=True),
    Platform("trixie-arm64", numba=True),
    Platform("bookworm-ppc64el", numba=True),
    Platform("bookworm-armhf", numba=True),
    Platform("bookworm-mips64el", numba=True),
    Platform("bookworm-s390x", numba=True),
    Platform("sid-riscv64"),
    Platform("sid-loong64"),
    Platform("wasm32"),
    Platform("bookworm-arm64", numba=True, few=False),
    Platform("bookworm-armel", numba=True, few=False),
    Platform("trixie-i386", few=False),
    Platform("trixie-armhf", few=False),
    Platform("trixie-ppc64el", few=False),
    Platform("trixie-riscv64", few=False),
    Platform("trixie-s390x", few=False),
    Platform("sid-i386", few=False),
    Platform("sid-arm64", numba=True, few=False),
    Platform("sid-ppc64el", numba=True, few=False),
    Platform("sid-s390x", few=False),
    Platform("bookworm-amd64-Nehalem", numba=True, qemu="x86_64", settings={"QEMU_CPU": "Nehalem"}, few=False),
    Platform("bookworm-amd64-Haswell", numba=True, qemu="x86_64", settings={"QEMU_CPU": "Haswell"}, few=False),
    Platform("trixie-arm64-cortex-a53", numba=True, settings={"QEMU_CPU": "cortex-a53"}, few=False),
    Platform(
        "trixie-arm64-pypi",
        numba=True,
        wheels=(
            "--python-version 3.13 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 "
            "--platform manylinux2014_aarch64 numpy<3 numba msgpack>=1.0.3,<2",
        ),
        few=False,
    ),
    Platform(
        "trixie-amd64-pypy",
        python="pypy3",
        settings={"LC_ALL": "C"},  # it does not begin under a locale that is not there
        wheels=(
            "--implementation pp --abi pypy311_pp73 --python-version 3.11 --platform manylinux_2_28_x86_64 numpy<3",
            "--python-version 3.11 --platform manylinux_2_28_x86_64 msgpack>=1.0.3,<2",  # of which its Python is used
        ),
        few=False,
    ),
]


class SkipError(Exception):
    """The platform cannot be had here; the reason is for the report."""


@dataclass
class Row:
    """What a platform said, or why it said nothing."""

    name: str
    story: dict[str, Any] | None = None
    skipped: str | None = None
    failed: str | None = None
    seconds: float = 0.0
    read: str | None = None  # of its stores, here


def shell(*command: object, limit: int, **settings: str) -> subprocess.CompletedProcess[str]:
    """A command at the lowest priority; one that takes too long has ended with status 124."""
    words = ["timeout", "--kill-after=5", str(limit), "nice", "-n19", *map(str, command)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")} | settings
    return subprocess.run(
        words, env={**environment, "WORK": str(WORK)}, capture_output=True, text=True, encoding="utf-8", check=False
    )


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    reason = "took too long" if done.returncode == 124 else f"exit status {done.returncode}"
    return f"{reason}: {lines[-1][:300]}" if lines else reason


def ready() -> str | None:
    """Why foreign systems cannot be run on this machine, or None."""
    for program in ("apt-get", "dpkg-deb", "unshare", "chroot", "setarch"):
        if shutil.which(program) is None:
            return f"no {program} on this machine"
    if os.uname().machine != "x86_64":
        return "written for an x86_64 machine"
    done = shell(
        "unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "binfmt_misc", "none",
        "/proc/sys/fs/binfmt_misc", limit=20,
    )  # fmt: skip
    return None if done.returncode == 0 else f"no binfmt_misc in a user namespace (Linux >= 6.7): {last_words(done)}"


def unpack(place: Path, architecture: str, suite: str, *packages: str, stubs: str = "") -> None:
    """A system at ``place``, unless it stands there already."""
    if (place / ".made").exists():
        return
    shutil.rmtree(place, ignore_errors=True)
    done = shell(HERE / "mkroot.sh", architecture, suite, place, *packages, limit=LONGEST["build"], STUBS=stubs)
    if done.returncode:
        raise SkipError(f"its packages cannot be had: {last_words(done)}")
    (place / ".made").touch()


def wheels_of(platform: Platform) -> Path:
    """A folder for the platform's Python to import from."""
    place = WORK / f"site-{platform.name}"
    with unpacking:
        if not (place / ".made").exists():
            shutil.rmtree(place, ignore_errors=True)
            for words in platform.wheels:
                get(place, "--only-binary=:all:", *words.split())
            (place / ".made").touch()
    return place


def get(place: Path, *words: str) -> None:
    """Let pip unpack something into a folder."""
    command = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile", "--target", place)
    done = shell(sys.executable, *command, *words, limit=LONGEST["build"])
    if done.returncode:
        raise SkipError(f"what it needs from PyPI cannot be had: {last_words(done)}")


def copy_of_package(name: str, *more: str) -> Path:
    """The package and the scenario for one platform; files that have not changed keep what numba has made of them."""
    place = WORK / "sources" / name
    folders = ("detmem", *more)
    wanted = {path.relative_to(ROOT) for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()}
    wanted = {path for path in wanted if "__pycache__" not in path.parts} | {(HERE / "scenario.py").relative_to(ROOT)}
    wanted |= {Path("pyproject.toml")}
    for path in sorted(wanted):
        to = place / path
        if not to.exists() or to.read_bytes() != (ROOT / path).read_bytes():
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, to)
    for path in sorted(place.rglob("*.py")):
        if path.relative_to(place) not in wanted:
            path.unlink()
    return place


def run(platform: Platform) -> Row:
    """Play the scenario there, and leave its stores in WORK/stores/NAME."""
    began = time.monotonic()
    row = Row(platform.name)
    left = WORK / "stores" / platform.name
    shutil.rmtree(left, ignore_errors=True)
    try:
        done = start(platform, left)
        row.story = json.loads(done.stdout.splitlines()[-1])
        if done.returncode:
            row.failed = "; ".join(row.story["differences"]) or last_words(done)
    except SkipError as reason:
        row.skipped = str(reason)
    except (IndexError, json.JSONDecodeError):
        row.failed = last_words(done)
    row.seconds = time.monotonic() - began
    state = "SKIPPED" if row.skipped else "FAILED" if row.failed else row.story["sha256"][:16] if row.story else ""
    print(f"{platform.name:<26}{state:<18}{row.seconds:7.1f} s  {row.skipped or row.failed or ''}", flush=True)
    return row


def start(platform: Platform, left: Path) -> subprocess.CompletedProcess[str]:
    program, own = "tests/platforms/scenario.py", WORK / "stores" / OWN
    if platform.name == OWN:
        return shell(sys.executable, ROOT / program, "--leave", left, limit=LONGEST["run"])
    source = copy_of_package(platform.name)
    if platform.name == "wasm32":
        for needed in ("node", "npm"):
            if shutil.which(needed) is None:
                raise SkipError(f"no {needed} on this machine")
        command = (HERE / "wasm.sh", source, "--leave", left, "--read", own)
        return shell(*command, limit=LONGEST["run"], PYTHON=sys.executable)
    command = (f"/checkout/{program}", "--leave", f"/stores/{left.name}", "--read", f"/stores/{OWN}")
    return inside(platform, f"{source}:/checkout {WORK / 'stores'}:/stores", *command)


def inside(platform: Platform, binds: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with these arguments in the platform's own system."""
    reason = ready()
    if reason is not None:
        raise SkipError(reason)
    suite, architecture, *_ = platform.name.split("-")
    packages: tuple[str, ...] = (*COMMON, "python3-numba") if platform.numba else COMMON
    if platform.python != "python3":
        packages = (platform.python, "libstdc++6")
    qemu = platform.qemu or QEMU[architecture]
    with unpacking:
        if not qemu.startswith("-"):
            unpack(WORK / "qemu", "amd64", "trixie", "qemu-user")
        unpack(platform.root, architecture, suite, *packages, stubs=STUBS)
    settings = [f"{key}={value}" for key, value in platform.settings.items()]
    if platform.wheels:
        binds += f" {wheels_of(platform)}:/wheels"
        settings.append("PYTHONPATH=/wheels")
    program = f"/usr/bin/{platform.python}"
    return shell(
        HERE / "xrun.sh", platform.root, qemu, *settings, "--", program, "-W", "ignore", *arguments,
        limit=LONGEST["run"], BIND=binds, QEMU_DIR=str(WORK / "qemu" / "usr" / "bin"),
    )  # fmt: skip


def test(platform: Platform, files: str) -> list[object]:
    """Run pytest on some files there: (platform, what it said last, seconds)."""
    began = time.monotonic()
    try:
        source = copy_of_package(f"{platform.name}-tests", "tests", "spec", "bench")
        program = (
            "import os, sys; os.chdir('/checkout'); sys.path[:0] = ['/checkout', '/site']; "
            "os.environ['PYTHONPATH'] = '/site'; import pytest; "
            "sys.exit(pytest.main(sys.argv[1:]))"
        )
        words = ("-c", program, "-q", "-p", "no:cacheprovider", "-o", "filterwarnings=", *files.split())
        done = inside(platform, f"{source}:/checkout {pytest_for_all()}:/site", *words)
        said = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        verdict = "; ".join([last_words(done).partition(": ")[2].strip(" ="), *said[:5]])
        verdict = verdict if done.returncode == 0 else f"FAILED: {verdict}"
    except SkipError as reason:
        verdict = f"SKIPPED: {reason}"
    print(f"{platform.name:<26}{verdict}", flush=True)
    return [platform.name, verdict, round(time.monotonic() - began)]


def pytest_for_all() -> Path:
    """pytest and Hypothesis as pure Python, which later ones of Hypothesis are not."""
    place = WORK / "site"
    with unpacking:
        if not (place / ".made").exists():
            get(place, "pytest<10", "hypothesis==6.115.0")
            (place / ".made").touch()
    return place


def read_here(rows: list[Row]) -> str | None:
    """Read the stores that all have left; returns why that failed, or None."""
    there = [row for row in rows if row.story is not None and not row.failed]
    places = [str(WORK / "stores" / row.name) for row in there]
    done = shell(sys.executable, HERE / "scenario.py", "--stages", "", "--read", *places, limit=LONGEST["run"])
    if done.returncode:
        return last_words(done)
    stores = json.loads(done.stdout.splitlines()[-1])["stores"]
    for row in there:
        row.read = stores[row.name]
    return None


def judge(rows: list[Row], golden: str) -> None:
    """Say of each row what is wrong with it."""
    wanted = next((row.read for row in rows if row.name == OWN), None)
    for row in rows:
        if row.story is None or row.failed:
            continue
        if row.story["sha256"] != golden:
            row.failed = f"digest {row.story['sha256']}, golden is {golden}"
        elif row.read is None or row.read != wanted:
            row.failed = f"its stores read here as {row.read}, ours as {wanted}"
        elif row.name != OWN and row.story["stores"].get(OWN) != wanted:
            row.failed = f"our stores read there as {row.story['stores'].get(OWN)}, here as {wanted}"


COLUMNS = (
    "platform", "machine", "byte order", "bits", "Python", "NumPy", "numba", "kernels", "digest", "stores", "seconds",
)  # fmt: skip


def cells(row: Row) -> list[object]:
    """A row of the table."""
    verdict = f"FAILED: {row.failed}" if row.failed else f"SKIPPED: {row.skipped}" if row.skipped else ""
    if row.story is None:
        return [row.name, *[""] * 8, verdict, round(row.seconds)]
    machine = row.story["platform"]
    return [
        row.name, machine["machine"], machine["byte_order"], machine["word_bits"], machine["python"], machine["numpy"],
        machine["numba"] or "none", ", ".join(machine["kernels"]), row.story["sha256"][:16],
        verdict or ("its own" if row.name == OWN else "both ways"), round(row.seconds),
    ]  # fmt: skip


def report(rows: list[Row], golden: str, seconds: float) -> str:
    """The table, and what it adds up to."""
    sound = [row.story["platform"] for row in rows if row.story is not None and not row.failed]
    compiled = sum("portable" in machine["kernels"] for machine in sound)
    ends = " and ".join(sorted({machine["byte_order"] for machine in sound}))
    bits = " and ".join(sorted({str(machine["word_bits"]) for machine in sound}))
    skipped, failed = (
        sum(bool(word) for word in words) for words in zip(*[(r.skipped, r.failed) for r in rows], strict=True)
    )
    return f"""**{len(sound)} of {len(rows)} platforms come to one digest**, {compiled} of them with compiled kernels;
{ends} endian, {bits} bits. {skipped} skipped, {failed} failed; {seconds:.0f} s in all. The digest: `{golden}`.

`make platforms`, or `make platforms-all` for the long list. Each platform plays tests/platforms/scenario.py, every
stage, those about searching with each of the kernels named, and must come to the digest in detmem/data/golden.json,
which the naive twin derives as well. *Stores*: a log and a snapshot written there are verified, replayed, opened and
asked here, and ours there, with the same result. Foreign systems are Debian's, run by QEMU; `{OWN}` is this machine's
Python with PyPI's wheels; *-pypi* and *-pypy* are Debian's CPython and PyPy with PyPI's. *Seconds* include unpacking
and compiling, where nothing was kept from an earlier run.

{common.table(COLUMNS, [cells(row) for row in rows])}"""


def main() -> int:
    asked = argparse.ArgumentParser(description="one digest everywhere")
    asked.add_argument("--all", action="store_true", help="the long list")
    asked.add_argument("--only", help="these platforms, by name, with commas; no report is written")
    asked.add_argument("--tests", metavar="FILES", help="run pytest on these there, instead of the scenario")
    asked.add_argument("--jobs", type=int, default=2)
    options = asked.parse_args()
    known = {platform.name: platform for platform in PLATFORMS}
    names = [name for name, one in known.items() if options.all or one.few]
    if options.only is not None:
        names = [OWN, *(name for name in options.only.split(",") if name != OWN)]
        unknown = [name for name in names if name not in known]
        if unknown:
            asked.error(f"no platform {', '.join(unknown)}; there are {', '.join(known)}")
    began = time.monotonic()
    if options.tests is not None:
        chosen = [known[name] for name in names if name not in (OWN, "wasm32")]
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            verdicts = list(pool.map(lambda one: test(one, options.tests), chosen))
        text = f"`pytest {options.tests}` on each.\n\n{common.table(('platform', 'pytest', 'seconds'), verdicts)}"
        common.write("platforms_tests", "Tests on other platforms", text)
        return 1 if any(str(verdict).startswith("FAILED") for _, verdict, _ in verdicts) else 0
    golden = json.loads((ROOT / "detmem" / "data" / "golden.json").read_text(encoding="ascii"))["sha256"]
    (WORK / "stores").mkdir(parents=True, exist_ok=True)
    rows = [run(known[OWN])]
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        rows += pool.map(run, [known[name] for name in names if name != OWN])
    trouble = read_here(rows)
    judge(rows, golden)
    text = report(rows, golden, time.monotonic() - began)
    if options.only is None:
        common.write("platforms", "Platforms", text)
    else:
        print(text)
    failed = [f"{row.name}: {row.failed}" for row in rows if row.failed] + ([trouble] if trouble else [])
    print("\n".join([f"SKIPPED {row.name}: {row.skipped}" for row in rows if row.skipped] + failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
