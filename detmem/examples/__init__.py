"""Memory systems on detmem: short programs that run offline on the shipped sample.

``python -m detmem.examples.engram``, ``memory_r1`` and ``memtree``; ``--keep DIR`` leaves the stores.

They use nothing but ``import detmem``, as an application would, and each ends by replaying its log into a second store
that must hold, and answer, the same.  README.md says what each shows and whose idea it follows.
"""
