"""The journal: the only rooms that touch a disk.

``disk`` is the narrow protocol every byte goes through; ``frame`` and ``head`` are formats; ``snapshot`` streams a
state; ``log`` keeps segments and HEAD in step as its ``policy`` says, and ``recovery`` opens them.  ``files`` names
what lies there, ``audit`` reads it all again, ``copies`` backs up and mends, ``erasure`` gives payloads up,
``archive`` moves them out.
"""
