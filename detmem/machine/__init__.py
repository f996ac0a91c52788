"""The pure core: numbers, encoding, commands, state, filters, commitment.

Rule 1  A function of its arguments: no file, clock, random number, thread, environment, ``hash()`` or set order.
Rule 2  Floats end in ``fixed``; above that door every number is an integer (float64 metadata values are data).
Rule 3  ``check`` refuses, ``apply`` cannot fail; a raised error means that nothing happened.
"""
