"""The journal: the only rooms that touch a disk.

``disk`` is the narrow protocol every byte goes through; ``frame`` and ``head`` are formats; ``snapshot`` streams a
state; ``log`` keeps segments and HEAD in step, and ``recovery`` opens them.
"""
