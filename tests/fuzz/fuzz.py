"""``python -m tests.fuzz.fuzz TARGET [--seconds S]``: libFuzzer, through atheris, on one of the targets.

Every input goes to its target twice: as it is, and with right checksums around it.  It begins from tests/fuzz/corpus/;
what it finds on the way is kept outside the tree (``--found``), and a crash is written there with its bytes.  A crash
that has been mended moves into the corpus, and ``test_corpus.py`` runs it for ever.

atheris is in the dependency group ``fuzz``; ``make fuzz`` installs it and runs every target.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["detmem"]):
    from tests.fuzz.checksums import MENDED
    from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).resolve().parent / "corpus"


def main() -> None:
    parser = argparse.ArgumentParser(description="fuzz one target")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", default="", help="where inputs that reach something new are kept")
    options = parser.parse_args()
    target, mended = TARGETS[options.target], MENDED[options.target]

    def one(data: bytes) -> None:
        target(data)
        target(mended(data))

    found = options.found or tempfile.mkdtemp(prefix=f"fuzz-{options.target}-")
    print(f"{options.target}: seed {options.seed}, new inputs and crashes go to {found}", flush=True)
    arguments = [
        sys.argv[0],
        f"-max_total_time={options.seconds}",
        f"-seed={options.seed}",
        "-max_len=65536",
        "-rss_limit_mb=2048",
        "-timeout=30",
        "-print_final_stats=1",
        f"-artifact_prefix={found}/",
        found,
        str(CORPUS / options.target),
    ]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
