"""The words of the command line: commands, options, help with an example each.  What they do stands in ``cli``.

Rule 1  A wrong word is one line on stderr and exit code 2.
Rule 2  Nothing is abbreviated or guessed: scripts that audit must not change their meaning when an option is added.
"""

from __future__ import annotations

import argparse
import re
from typing import NoReturn

__all__ = ["COMMANDS", "USAGE", "parser"]

USAGE = 2

COMMANDS = {  # name: (what it does, an example's arguments)
    "demo": ("the main job on real sentence vectors, with a crash in the middle", "--keep trial"),
    "selfcheck": ("play one fixed life on this machine, and compare it with what every machine must come to", "--json"),
    "verify": ("read a whole store again, and say whether it is what was written", "agent.detmem --level chain"),
    "replay": ("apply a store's commands to a new store", "agent.detmem copy.detmem --until 100"),
    "log": ("what happened, commit by commit", "agent.detmem --start 10 --stop 20"),
    "inspect": ("roots and collections, or one record and its history", "agent.detmem n1"),
    "stats": ("sizes of files, counts, ranges of values", "agent.detmem"),
    "diff": ("what changed from one store to another", "monday.detmem tuesday.detmem"),
    "search": (
        "the exact nearest records",
        'agent.detmem --collection notes --id n1 -k 5 --where \'{"kind": "fact"}\'',
    ),
    "check-receipt": ("ask a store again what a receipt says it answered", "answer.receipt agent.detmem"),
    "sign": (
        "sign where a store stands, never against what was signed before",
        "agent.detmem --key signer.key --note agent.note",
    ),
    "snapshot": ("write a snapshot, so that the next open is quick", "agent.detmem"),
    "backup": ("copy a consistent store, beside a live writer", "agent.detmem copy.detmem"),
    "archive": ("move the payloads of everything up to now out of a store", "agent.detmem archive/"),
    "export": ("write contents or the log to files that other programs read", "agent.detmem out --format npz"),
    "import": ("make a new store of what was exported", "copy.detmem out"),
    "report": ("one page for an auditor: roots, timeline, what changed, the verdict", "agent.detmem -o report.html"),
    "salvage": ("take the longest good prefix of a damaged log over to a new store", "agent.detmem saved.detmem"),
    "repair": ("write damaged segments anew, from a copy of the same history", "agent.detmem --from copy.detmem"),
}

_PROGRESS = "say on stderr how far it is, also when that is no terminal"
_RAW = argparse.RawDescriptionHelpFormatter


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """One line, as for every other error."""
        self.exit(USAGE, f"detmem: {message} (see {self.prog} --help)\n")


def parser(version: str) -> argparse.ArgumentParser:
    """What ``parse_args`` gives has ``command``, ``json``, and the options of that command."""
    top = _Parser(
        prog="detmem",
        description="Look into, check and replay detmem stores.",
        formatter_class=_RAW,
        epilog="exit codes: 0 ok, 1 verification or diff failed, 2 usage, 3 cannot open, 4 interrupted",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"detmem {version}")
    commands = top.add_subparsers(metavar="COMMAND", dest="command", required=True)
    made: dict[str, argparse.ArgumentParser] = {}
    for name, (does, example) in COMMANDS.items():
        made[name] = commands.add_parser(name, help=does, description=does, formatter_class=_RAW, allow_abbrev=False)
        made[name].epilog = f"example: detmem {name} {example}"
        made[name].add_argument("--json", action="store_true", help="print JSON")
        if name == "check-receipt":
            made[name].add_argument("receipt", metavar="R", help="a file that search --receipt wrote")
        if name not in ("demo", "diff", "selfcheck"):
            what = ("PATH[@SEQ]", "a store, as it was after that commit") if name == "inspect" else ("PATH", "a store")
            made[name].add_argument("path", metavar=what[0], help=what[1])

    made["demo"].add_argument("--keep", metavar="DIR", help="make the stores in DIR, and leave them there")

    for name in ("verify", "report"):
        one = made[name]
        levels = "chain: every byte against the links; replay (default): also every state root"
        one.add_argument("--level", choices=("chain", "replay"), default="replay", help=levels)
        expected = "the state root it must end in, or a file with a checkpoint that it must pass through"
        one.add_argument("--expect", metavar="HEX|FILE", help=expected)
        one.add_argument("--progress", action="store_true", help=_PROGRESS)

    one = made["report"]
    one.add_argument("-o", metavar="FILE", dest="output", required=True, help="the page; written over if it is there")
    one.add_argument("--start", metavar="SEQ", type=_whole, default=0, help="compare from this moment (default 0)")
    one.add_argument("--stop", metavar="SEQ", type=_whole, help="compare to this moment (default: the end)")

    one = made["replay"]
    one.add_argument("dest", metavar="DEST", help="the new store; nothing may stand there")
    one.add_argument("--until", metavar="SEQ", type=_whole, help="the last seq to apply")

    one = made["log"]
    one.add_argument("--start", metavar="SEQ", type=_whole, default=1, help="the first seq (default 1)")
    one.add_argument("--stop", metavar="SEQ", type=_whole, help="the seq to stop before")
    one.add_argument("--id", metavar="ID", help="only what touched this id")
    one.add_argument("--collection", metavar="C", help="only what touched this collection")

    for name in ("backup", "salvage"):
        made[name].add_argument("dest", metavar="DEST", help="the new store; nothing may stand there")

    made["archive"].add_argument("dest", metavar="DEST", help="a new folder, or an archive of this store")

    one = made["export"]
    one.add_argument("dest", metavar="DEST", help="a new folder; for --format log a new file")
    formats = "vectors as npy (default), npz, parquet or fvecs, with the records beside them; log: the canonical log"
    one.add_argument("--format", choices=("npy", "npz", "parquet", "fvecs", "log"), default="npy", help=formats)
    one.add_argument("--collection", metavar="C", help="only this collection")

    one = made["import"]
    one.add_argument("source", metavar="SOURCE", help="an exported folder or log; PATH is the new store")

    one = made["repair"]
    one.add_argument("--from", metavar="COPY", dest="copy", required=True, help="a backup, or a replayed store")

    one = made["inspect"]
    one.add_argument("id", metavar="ID", nargs="?", help="a record")
    one.add_argument("--collection", metavar="C", help="look in this collection only")

    one = made["diff"]
    one.add_argument("a", metavar="A", help="a store")
    one.add_argument("b", metavar="B", help="another store")

    one = made["search"]
    one.add_argument("--collection", metavar="C", required=True, help="the collection to search")
    query = one.add_mutually_exclusive_group(required=True)
    query.add_argument("--vector", metavar="F.npy", help="one query (dim) or several (n, dim)")
    query.add_argument("--id", metavar="ID", help="the vector of this record")
    one.add_argument("-k", metavar="K", type=_whole, default=10, help="how many (default 10)")
    one.add_argument("--where", metavar="JSON", help="a filter on metadata")
    one.add_argument("--at", metavar="SEQ", type=_whole, help="ask the memory as it was after this commit")
    one.add_argument("--receipt", metavar="OUT", help="write a receipt of the answer to this file (one query)")
    levels = "R0: what was said; R1 (default): its records are proven; R2; R3: and completeness, by parts"
    one.add_argument("--level", choices=("R0", "R1", "R2", "R3"), default="R1", help=levels)

    one = made["sign"]
    one.add_argument("--key", metavar="FILE", required=True, help="the signer key, PRIVATE+KEY+name+hash+base64")
    one.add_argument(
        "--note", metavar="FILE", required=True, help="the last note signed, if any; the new one replaces it"
    )
    return top


def _whole(text: str) -> int:
    """Digits, and nothing else that int() would take."""
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise argparse.ArgumentTypeError(f"expected a whole number, found {text!r}")
    return int(text)
