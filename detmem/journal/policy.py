"""When a commit is acknowledged: the durability policies (spec/log.md, "Durability").

| policy | acknowledged after | a crash of the process | a power cut |
|---|---|---|---|
| ``paranoid`` | sync of log and HEAD | all kept | all kept, any later loss detected |
| ``always`` | sync of the log; HEAD follows lazily | all kept | all kept; detection may trail by the last commits |
| ``group:ms`` | one sync shared by concurrent writers | all kept | all kept |
| ``interval:ms`` | the write | all kept | at most the interval is lost, always a prefix is left |
| ``os`` | the write | all kept | a prefix is left |
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from detmem.errors import UsageError, shown

__all__ = ["Policy", "parse_policy"]

_WITH_TIME = re.compile(r"(group|interval):([0-9]{1,5}(?:\.[0-9]{1,3})?)")
_EXPECTED = (
    "paranoid, always, group:MS, interval:MS or os, "
    "with MS milliseconds above 0 and below 100000, of at most three decimals"
)


@dataclass(frozen=True)
class Policy:
    """``kind`` is the policy's name, ``seconds`` its time (0 where it has none)."""

    kind: str
    seconds: float = 0.0

    @cached_property
    def before_publishing(self) -> bool:
        """Whether a commit is synced before anyone can read it."""
        return self.kind in ("paranoid", "always")

    @cached_property
    def acknowledges_durable(self) -> bool:
        """Whether a call returns only once its commit has reached the disk."""
        return self.kind in ("paranoid", "always", "group")


def parse_policy(durability: object) -> Policy:
    """The policy that ``durability`` names; ``UsageError``."""
    if not isinstance(durability, str):
        raise UsageError(f"durability: expected {_EXPECTED}; found {shown(durability)}")
    if durability in ("paranoid", "always", "os"):
        return Policy(durability)
    match = _WITH_TIME.fullmatch(durability)
    if match is None or float(match[2]) == 0:
        raise UsageError(f"durability: expected {_EXPECTED}; found {shown(durability)}")
    return Policy(match[1], float(match[2]) / 1000)
