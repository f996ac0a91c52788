"""No changed proof is accepted: a few thousand here, a million with ``make audit``."""

from __future__ import annotations

from tests.proof import forging


def test_nothing_that_was_changed_is_accepted() -> None:
    tried, _, accepted = forging.run(6_000, seed=20_251_125)
    assert accepted == []
    assert len(tried) >= 12
