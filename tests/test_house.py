"""The house keeps its floors: who may import whom, and what the pure rooms refuse to know.

Each rule is a function from source text to complaints, so each can be shown a broken house (the second half of this
file) and must complain.  The first half walks the real one.  When a rule complains, move the code; an exception is a
line in a table below, with its reason.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "detmem"

# --- the rules, as tables ---------------------------------------------------------------------------------------------

# A room imports only rooms on lower floors, and its own files.  A file directly in detmem/ is a room of its own.
FLOORS = {
    "errors": 0,
    "verifier": 0,  # imports nothing of the house, and nothing of the house imports it
    "machine": 1,
    "proof": 2,
    "journal": 2,
    "search": 2,
    "options": 2,
    "progress": 2,
    "results": 3,
    "parallel": 3,
    "prover": 3,
    "graph": 4,
    "arguments": 4,
    "finder": 4,
    "database": 5,
    "collection": 5,
    "past": 5,
    "adapters": 5,
    "opening": 6,
    "checking": 7,
    "history": 7,
    "report": 7,
    "exchange": 7,
    "front": 8,  # detmem/__init__.py: the door through which users, and the desk above, come in
    "demo": 9,
    "examples": 9,
    "life": 9,
    "selfcheck": 10,
    "cli": 11,
    "__main__": 12,
}
# Rooms of one floor do not know each other, but the shell is one room in several files.
NEIGHBOURS = {
    ("database", "collection"), ("collection", "database"), ("database", "past"), ("past", "database"),
}  # fmt: skip

PURE_ROOMS = ("machine", "search")
# Everything that a pure room may import from outside the house.  An allow-list: a clock has too many names to forbid.
PURE_IMPORTS = {
    "__future__", "abc", "bisect", "collections", "contextlib", "dataclasses", "enum", "functools", "hashlib", "heapq",
    "hmac", "itertools", "math", "msgpack", "numpy", "operator", "struct", "sys", "types", "typing", "zlib",
}  # fmt: skip
ONLY_IN = {
    "numba": {"search/kernels.py", "search/lanes.py"},
    "llvmlite": {"search/lanes.py"},
    "cryptography": {"proof/note.py"},
    "os": {"journal/disk.py"},
    "shutil": {"journal/disk.py", "life.py"},
    "fcntl": {"journal/disk.py"},
    "msvcrt": {"journal/disk.py"},
    "socket": {"journal/disk.py"},
    "tempfile": {"journal/disk.py", "cli.py", "demo.py", "selfcheck.py", "examples/story.py"},
    "subprocess": {"cli.py", "demo.py"},
    "signal": {"cli.py", "demo.py"},
    "random": set[str](),
    "secrets": set[str](),
    "uuid": set[str](),
}
PURE_FORBIDDEN_CALLS = {
    "open",
    "hash",
    "id",
    "input",
    "print",
    "eval",
    "exec",
    "compile",
    "__import__",
    "vars",
    "globals",
}
# np.random; libm (exp, log and their kin differ between machines); rounding that obeys the C rounding mode.
PURE_FORBIDDEN_ATTRIBUTES = {
    "random", "exp", "expm1", "exp2", "log", "log1p", "log2", "log10", "pow", "cbrt", "hypot", "sin", "cos", "tan",
    "arctan", "atan", "atan2", "asin", "acos", "arcsin", "arccos", "sinh", "cosh", "tanh", "rint", "nearbyint", "fma",
}  # fmt: skip
NUMERIC_MODULES = {"math", "np", "numpy"}
FLOAT_NAMES = {"float", "float16", "float32", "float64", "longdouble", "double", "single", "half", "floating"}
FLOAT_ROOMS = {
    "machine/fixed.py": "floats end here",
    "machine/units.py": "floats propose what integers would decide, with a bound of the error",
    "machine/contents.py": "as encoding",
    "machine/encoding.py": "float64 metadata values are data and have a byte string",
    "machine/columns.py": "float64 metadata values are held by their bits and compared, exactly",
    "machine/filters.py": "float64 metadata values are compared, exactly",
    "search/front.py": "learning what to read first, and guarded products; no answer depends on either",
}
WITHOUT_DOOR = {"__main__.py"}  # run, never imported


@dataclass(frozen=True)
class Complaint:
    line: int
    text: str


# --- the rules, as functions ------------------------------------------------------------------------------------------


def room_of(place: str) -> str:
    """The room of a file, given as its path below detmem/: ``machine/fixed.py`` -> ``machine``."""
    first = place.split("/")[0].removesuffix(".py")
    return "front" if first == "__init__" else first


def imports_of(place: str, source: str) -> Iterator[tuple[int, str]]:
    """Every imported module as (line, dotted name), at any depth; relative ones are resolved."""
    package = ["detmem", *place.split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                # `from detmem import errors` names a room, `from detmem import open` the front door.
                yield node.lineno, f"{module}.{alias.name}" if module == "detmem" else module


def target_room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "front"


def check_floors(place: str, source: str) -> list[Complaint]:
    room = room_of(place)
    if room not in FLOORS:
        return [Complaint(0, f"room {room!r} has no floor: give it one in FLOORS")]
    complaints = []
    for line, module in imports_of(place, source):
        if module.split(".")[0] != "detmem":
            continue
        target = target_room(module)
        lower = FLOORS[target] < FLOORS[room]
        if not (lower or target == room or (room, target) in NEIGHBOURS):
            complaints.append(Complaint(line, f"room {room!r} imports {module!r}, which is not on a lower floor"))
    return complaints


def check_imports(place: str, source: str) -> list[Complaint]:
    complaints = []
    for line, module in imports_of(place, source):
        top = module.split(".")[0]
        if top == "detmem":
            continue
        if top in ONLY_IN:
            if place not in ONLY_IN[top]:
                complaints.append(Complaint(line, f"imports {top!r}, known only to {sorted(ONLY_IN[top])}"))
        elif room_of(place) in PURE_ROOMS and top not in PURE_IMPORTS:
            complaints.append(Complaint(line, f"a pure room imports {top!r}"))
    return complaints


def check_pure_calls(place: str, source: str) -> list[Complaint]:
    if room_of(place) not in PURE_ROOMS:
        return []
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PURE_FORBIDDEN_CALLS:
            complaints.append(Complaint(node.lineno, f"calls {node.func.id}()"))
        # Only of a module: a state may well have a `.log`.
        if (
            isinstance(node, ast.Attribute)
            and node.attr in PURE_FORBIDDEN_ATTRIBUTES
            and _is_numeric_module(node.value)
        ):
            complaints.append(Complaint(node.lineno, f"uses {ast.unparse(node)}"))
        if (
            isinstance(node, ast.BinOp)
            and isinstance(node.op, ast.Pow)
            and isinstance(node.left, ast.Constant)
            and isinstance(node.left.value, float)
            and not isinstance(node.right.operand if isinstance(node.right, ast.UnaryOp) else node.right, ast.Constant)
        ):
            complaints.append(Complaint(node.lineno, f"{ast.unparse(node)} is libm's pow: use math.ldexp"))
        if isinstance(node, ast.ImportFrom) and node.module in NUMERIC_MODULES:
            names = [alias.name for alias in node.names if alias.name in PURE_FORBIDDEN_ATTRIBUTES]
            complaints += [Complaint(node.lineno, f"imports {name} from {node.module}") for name in names]
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}:
            complaints.append(Complaint(node.lineno, "reads the environment"))
    return complaints


def _is_numeric_module(node: ast.AST) -> bool:
    return isinstance(node, ast.Name) and node.id in NUMERIC_MODULES


def check_floats(place: str, source: str) -> list[Complaint]:
    if room_of(place) not in PURE_ROOMS or place in FLOAT_ROOMS:
        return []
    complaints = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, float):
            complaints.append(Complaint(node.lineno, f"the float {node.value!r}"))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"[<>=|]?f[248]|float(16|32|64)", node.value):
                complaints.append(Complaint(node.lineno, f"the float type {node.value!r}"))
        elif isinstance(node, ast.Name) and node.id in FLOAT_NAMES:
            complaints.append(Complaint(node.lineno, f"the name {node.id}"))
        elif isinstance(node, ast.Attribute) and node.attr in FLOAT_NAMES:
            complaints.append(Complaint(node.lineno, f"the name {node.attr}"))
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and isinstance(node.op, ast.Div):
            complaints.append(Complaint(node.lineno, "true division makes a float"))
    return complaints


def check_widths(place: str, source: str) -> list[Complaint]:
    """On 32 bits, what ``arange`` makes unasked has 32: it wraps, and NumPy 1.24 on i386 divides it wrongly."""
    return [
        Complaint(node.lineno, "arange without a dtype: say np.int64")
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "arange"
        if all(keyword.arg != "dtype" for keyword in node.keywords)
    ]


def check_door(place: str, source: str) -> list[Complaint]:
    tree = ast.parse(source)
    empty_room = place.endswith("__init__.py") and not source.strip()
    if place in WITHOUT_DOOR or empty_room:
        return []
    complaints = [] if ast.get_docstring(tree) else [Complaint(1, "no docstring: say what the room is for")]
    doors = [
        node.value if isinstance(node, (ast.Assign, ast.AnnAssign)) else None
        for node in tree.body
        if "__all__"
        in {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}
    ]
    only_docstring = all(isinstance(node, ast.Expr) for node in tree.body)
    if not doors and not (only_docstring and place.endswith("__init__.py")):
        complaints.append(Complaint(1, "no __all__: name the doors"))
    return complaints


# A value whose order nobody wrote down: sets, and what is computed from them.
SET_MAKERS = {"set", "frozenset"}
SET_METHODS = {"union", "intersection", "difference", "symmetric_difference"}
ORDER_BLIND = {"sorted", "set", "frozenset", "len", "sum", "min", "max", "any", "all", "bool"}
ORDER_KEEPING = {
    "list",
    "tuple",
    "iter",
    "enumerate",
    "zip",
    "map",
    "filter",
    "reversed",
    "next",
    "fromiter",
    "fromkeys",
    "join",
}
SET_ANNOTATION = re.compile(r"\b(set|frozenset|Set|AbstractSet|MutableSet)\b(?!\w)")


class _SetOrder(ast.NodeVisitor):
    """Complains where the order of a set could be seen.  Names are followed within one function, attributes by name."""

    def __init__(self, tree: ast.Module) -> None:
        self.complaints: list[Complaint] = []
        self.scopes: list[set[str]] = [set()]
        self.attributes = {
            node.target.attr if isinstance(node.target, ast.Attribute) else node.target.id
            for node in ast.walk(tree)
            if isinstance(node, ast.AnnAssign)
            and isinstance(node.target, (ast.Attribute, ast.Name))
            and _is_set_annotation(node.annotation)
        }
        self.blind: set[int] = set()  # comprehensions that stand directly in sorted(...), sum(...) and the like

    def is_set(self, node: ast.AST) -> bool:
        if isinstance(node, (ast.Set, ast.SetComp)):
            return True
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name):
                return node.func.id in SET_MAKERS
            return (
                isinstance(node.func, ast.Attribute) and node.func.attr in SET_METHODS and self.is_set(node.func.value)
            )
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.BitOr, ast.BitAnd, ast.Sub, ast.BitXor)):
            return any(self.is_set(side) or _is_key_view(side) for side in (node.left, node.right))
        if isinstance(node, ast.Name):
            return node.id in self.scopes[-1]
        return isinstance(node, ast.Attribute) and node.attr in self.attributes

    def seen(self, node: ast.AST, how: str) -> None:
        if self.is_set(node):
            self.complaints.append(Complaint(getattr(node, "lineno", 0), f"{how} the order of a set: sort it"))

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        self.scopes.append({one.arg for one in arguments if one.annotation and _is_set_annotation(one.annotation)})
        self.generic_visit(node)
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        for target in node.targets:
            if isinstance(target, ast.Name):
                (self.scopes[-1].add if self.is_set(node.value) else self.scopes[-1].discard)(target.id)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self.generic_visit(node)
        if isinstance(node.target, ast.Name) and _is_set_annotation(node.annotation):
            self.scopes[-1].add(node.target.id)

    def visit_For(self, node: ast.For) -> None:
        self.seen(node.iter, "a for loop walks in")
        self.generic_visit(node)

    def visit_Starred(self, node: ast.Starred) -> None:
        self.seen(node.value, "a star shows")
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        if isinstance(node.func, ast.Name) and name in ORDER_BLIND:
            self.blind.update(id(argument) for argument in node.args)
        if name in ORDER_KEEPING:
            for argument in node.args:
                self.seen(argument, f"{name}() keeps")
        if name == "pop" and isinstance(node.func, ast.Attribute) and not node.args:
            self.seen(node.func.value, "pop() follows")
        self.generic_visit(node)

    def visit_comprehension_of(self, node: ast.ListComp | ast.GeneratorExp | ast.DictComp) -> None:
        if id(node) not in self.blind:
            for part in node.generators:
                self.seen(part.iter, "a comprehension keeps")
        self.generic_visit(node)

    visit_ListComp = visit_comprehension_of
    visit_GeneratorExp = visit_comprehension_of
    visit_DictComp = visit_comprehension_of


def _is_set_annotation(node: ast.AST) -> bool:
    outer = node.value if isinstance(node, ast.Subscript) else node
    return bool(SET_ANNOTATION.fullmatch(ast.unparse(outer).split(".")[-1]))


def _is_key_view(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in {"keys", "items"}


def check_set_order(place: str, source: str) -> list[Complaint]:
    if room_of(place) not in PURE_ROOMS:
        return []
    tree = ast.parse(source)
    visitor = _SetOrder(tree)
    visitor.visit(tree)
    return visitor.complaints


def check_stands_alone(place: str, source: str) -> list[Complaint]:
    """``spec/reference.py`` would prove nothing if it shared a line with what it judges."""
    outside = [(line, module.split(".")[0]) for line, module in imports_of(place, source)]
    return [Complaint(line, f"imports {top!r}") for line, top in outside if top not in sys.stdlib_module_names]


# Where people and machines keep checkouts.  The cases below join theirs from parts, so as not to be found themselves.
_ABSOLUTE_PATH = re.compile(r"(?<![\w.\-])(?:/(?:home|root|work|Users|workspace)/|[A-Z]:\\Users\\)[\w.\-]")


def check_no_absolute_path(place: str, text: str) -> list[Complaint]:
    return [
        Complaint(number, f"{place}: a path of one machine: {found[0]!r}")
        for number, line in enumerate(text.splitlines(), 1)
        if (found := _ABSOLUTE_PATH.search(line))
    ]


RULES = (check_floors, check_imports, check_pure_calls, check_floats, check_widths, check_door, check_set_order)

# --- the house --------------------------------------------------------------------------------------------------------


def modules() -> list[str]:
    return sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def tracked_files() -> list[Path]:
    """What git tracks, or would on `git add .`; an unpacked sdist has no git and is walked."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout.decode()
        return [path for name in sorted(listed.split("\0")) if name and (path := ROOT / name).is_file()]
    made = {".venv", "__pycache__", ".pytest_cache", ".mypy_cache", ".ruff_cache", ".hypothesis", "dist"}
    return sorted(path for path in ROOT.rglob("*") if path.is_file() and not made & set(path.relative_to(ROOT).parts))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_module_keeps_the_rule(rule):
    places = modules()
    assert places, f"expected modules in {PACKAGE}"
    complaints = [
        f"detmem/{place}:{found.line}: {found.text}"
        for place in places
        for found in rule(place, (PACKAGE / place).read_text(encoding="utf-8"))
    ]
    assert not complaints, "\n".join(complaints)


def test_every_exception_in_the_tables_still_has_its_file():
    named = {place for places in ONLY_IN.values() for place in places} | set(FLOAT_ROOMS) | WITHOUT_DOOR
    assert sorted(named - set(modules())) == []


def test_the_reference_program_stands_alone():
    source = (ROOT / "spec" / "reference.py").read_text(encoding="utf-8")
    assert check_stands_alone("../spec/reference.py", source) == []


def test_the_verifier_stands_alone():
    source = (PACKAGE / "verifier.py").read_text(encoding="utf-8")
    assert check_stands_alone("verifier.py", source) == []
    importers = [
        place
        for place in modules()
        for _, module in imports_of(place, (PACKAGE / place).read_text(encoding="utf-8"))
        if module == "detmem.verifier"
    ]
    assert importers == []


def test_no_tracked_text_names_a_place_on_one_machine():
    complaints = []
    for path in tracked_files():
        content = path.read_bytes()
        place = path.relative_to(ROOT).as_posix()
        if b"\0" not in content and not place.startswith("tests/fuzz/corpus/"):  # bytes that a fuzzer wrote
            complaints += [
                f"{place}:{found.line}: {found.text}" for found in check_no_absolute_path(place, content.decode())
            ]
    assert not complaints, "\n".join(complaints)


def test_lock_pins_every_dependency_by_hash_and_names_no_registry():
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    # Not the peers of bench/ and the fuzzer: they stand in environments of their own.
    groups = [lines for name, lines in project["dependency-groups"].items() if name not in ("bench", "embed", "fuzz")]
    asked = project["project"]["dependencies"] + [line for lines in groups for line in lines if isinstance(line, str)]
    names = {re.match(r"[\w\-]+", line)[0].lower() for line in asked}
    requirements = [block for block in re.split(r"\n(?=\S)", lock) if not block.startswith("#")]
    assert names <= {block.split("==")[0] for block in requirements}
    assert [block for block in requirements if "--hash=sha256:" not in block] == []
    assert "://" not in lock
    assert "index" not in lock


# --- broken houses: every rule can complain ---------------------------------------------------------------------------

BROKEN = [
    (check_floors, "errors.py", "from detmem.machine import fixed"),
    (check_floors, "machine/state.py", "import detmem"),
    (check_floors, "machine/state.py", "from detmem.journal.disk import Disk"),
    (check_floors, "machine/state.py", "from ..search import reference"),
    (check_floors, "machine/state.py", "from .. import database"),
    (check_floors, "search/planes.py", "def late():\n    from detmem.journal import log"),
    (check_floors, "journal/log.py", "from detmem import proof"),
    (check_floors, "journal/log.py", "from detmem import open as knock"),
    (check_floors, "database.py", "from detmem.cli import main"),
    (check_floors, "collection.py", "from detmem.adapters import langchain"),
    (check_floors, "attic.py", ""),
    (check_imports, "machine/state.py", "import time"),
    (check_imports, "machine/state.py", "import os.path"),
    (check_imports, "machine/state.py", "from random import Random"),
    (check_imports, "machine/state.py", "import numba"),
    (check_imports, "machine/state.py", "import importlib"),
    (check_imports, "search/planes.py", "from numba import njit"),
    (check_imports, "search/kernels.py", "import threading"),
    (check_imports, "search/reference.py", "import logging"),
    (check_imports, "journal/log.py", "import os"),
    (check_imports, "journal/snapshot.py", "import tempfile"),
    (check_imports, "database.py", "import shutil"),
    (check_imports, "cli.py", "import os"),
    (check_imports, "demo.py", "import random"),
    (check_pure_calls, "machine/state.py", "x = hash('a')"),
    (check_pure_calls, "machine/state.py", "rows.sort(key=lambda row: id(row))"),
    (check_pure_calls, "search/planes.py", "open('f')"),
    (check_pure_calls, "search/planes.py", "print(1)"),
    (check_pure_calls, "search/planes.py", "np.random.default_rng()"),
    (check_pure_calls, "machine/fixed.py", "np.rint(x)"),
    (check_pure_calls, "machine/fixed.py", "math.log2(x)"),
    (check_pure_calls, "machine/fixed.py", "from math import isqrt, exp"),
    (check_pure_calls, "search/planes.py", "sys.environ"),
    (check_pure_calls, "machine/fixed.py", "2.0**bits"),
    (check_pure_calls, "machine/fixed.py", "x * 2.0**-bits"),
    (check_floats, "machine/state.py", "x = 0.5"),
    (check_floats, "machine/state.py", "float(3)"),
    (check_floats, "search/reference.py", "rows.astype(np.float64)"),
    (check_floats, "search/reference.py", "rows.astype('<f8')"),
    (check_floats, "search/reference.py", "def f(x: float) -> None: ..."),
    (check_floats, "search/reference.py", "x = a / b"),
    (check_floats, "search/reference.py", "a /= b"),
    (check_widths, "search/planes.py", "x = np.arange(8) // 4"),
    (check_door, "machine/state.py", "__all__ = []"),
    (check_door, "machine/state.py", '"""Why."""\nx = 1'),
    (check_door, "machine/__init__.py", "from detmem.machine.state import State"),
    (check_set_order, "machine/state.py", "for x in {1, 2}: pass"),
    (check_set_order, "machine/state.py", "for x in set(rows): pass"),
    (check_set_order, "machine/state.py", "def f(ids: set[str]):\n    return [x for x in ids]"),
    (check_set_order, "machine/state.py", "def f(ids: frozenset[str]):\n    return list(ids)"),
    (check_set_order, "machine/state.py", "def f():\n    a = set()\n    return tuple(a | {1})"),
    (check_set_order, "machine/state.py", "def f():\n    a = {1}\n    return a.pop()"),
    (
        check_set_order,
        "machine/state.py",
        "class A:\n    ids: set[str]\n    def f(self):\n        return ','.join(self.ids)",
    ),
    (check_set_order, "machine/state.py", "def f(a, b):\n    for x in a.keys() & b.keys(): pass"),
    (check_set_order, "search/planes.py", "def f(a):\n    return {x: 1 for x in frozenset(a)}"),
    (check_set_order, "search/planes.py", "def f(a):\n    return [*set(a)]"),
    (check_stands_alone, "../spec/reference.py", "import numpy"),
    (check_stands_alone, "../spec/reference.py", "from msgpack import packb"),
    (check_stands_alone, "../spec/reference.py", "import detmem.errors"),
    (check_no_absolute_path, "README.md", "see " + "/ho" + "me/ann/notes"),
    (check_no_absolute_path, "Makefile", "cd '" + "/wo" + "rk/main'"),
    (check_no_absolute_path, "a.py", "open('" + "C:" + "\\Users\\ann')"),
]

SOUND = [
    (
        check_floors,
        "machine/state.py",
        "from detmem.errors import UsageError\nfrom detmem import errors\nfrom . import fixed",
    ),
    (check_floors, "database.py", "from detmem.collection import Collection\nfrom detmem.search import reference"),
    (check_floors, "cli.py", "import detmem\nfrom detmem import demo"),
    (check_imports, "journal/disk.py", "import os, shutil, fcntl, socket, time"),
    (check_imports, "search/kernels.py", "import numba\nimport numpy as np"),
    (check_imports, "demo.py", "import signal, subprocess, sys, tempfile"),
    (check_pure_calls, "machine/state.py", "def f(id): return record.id(id), state.log.root()"),
    (check_pure_calls, "journal/disk.py", "open('f')"),
    (check_pure_calls, "machine/fixed.py", "x = (2.0**-20, 2**bits)"),
    (check_floats, "machine/fixed.py", "x = 0.5"),
    (check_floats, "search/reference.py", "x = a // b"),
    (check_widths, "search/planes.py", "x = np.arange(8, dtype=np.int64) // 4"),
    (check_floats, "search/reference.py", "'a sentence about float64'"),
    (check_door, "machine/__init__.py", ""),
    (check_door, "machine/__init__.py", '"""Why."""'),
    (check_door, "machine/state.py", '"""Why."""\n__all__ = ["x"]\nx = 1'),
    (
        check_set_order,
        "machine/state.py",
        "def f(ids: set[str]):\n    for x in sorted(ids): pass\n    return len(ids), 'a' in ids",
    ),
    (
        check_set_order,
        "machine/state.py",
        "def f(ids: set[str]):\n    return sorted(x + 'a' for x in ids), any(x for x in ids)",
    ),
    (check_set_order, "machine/state.py", "def f(ids: set[str], k):\n    for x in k:\n        ids.discard(x)"),
    (check_set_order, "machine/state.py", "def f(index: dict[str, set[int]]):\n    for x in index: pass"),
    (check_stands_alone, "../spec/reference.py", "import hashlib, json, struct"),
    (
        check_no_absolute_path,
        "README.md",
        "net" + "/wo" + "rk/x, a relative design/" + "home/x and state" + "/ro" + "ot/x",
    ),
]


@pytest.mark.parametrize(("rule", "place", "source"), BROKEN, ids=lambda part: getattr(part, "__name__", None))
def test_a_broken_house_is_complained_about(rule, place, source):
    assert rule(place, source), f"{rule.__name__} saw nothing wrong in {place}: {source!r}"


@pytest.mark.parametrize(("rule", "place", "source"), SOUND, ids=lambda part: getattr(part, "__name__", None))
def test_a_sound_house_is_left_alone(rule, place, source):
    assert rule(place, source) == []
