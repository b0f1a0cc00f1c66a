"""Pickles from strangers, looked through before anything is built from them.

A pickle is a program. What it may name is up to its reader (`find_class`); here is what it may do beside that.
"""

import pickle
import pickletools
from typing import BinaryIO

# Steps of protocol 5 that no file of ours has: bytes that can be changed, while (CPython 3.11) they are being read.
_FORBIDDEN = ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER")
_REMEMBERING = ("PUT", "BINPUT", "LONG_BINPUT")


def check(file: BinaryIO) -> None:
    """Reads the pickle that begins here and goes back to its beginning; UnpicklingError if it is not to be trusted.

    It may not number what it remembers higher than it has steps: CPython 3.11 to 3.13 make room for all numbers below
    (python/cpython#115952), 34 GB for a flipped bit.
    """
    start = file.tell()
    highest = steps = 0
    try:
        for opcode, argument, _ in pickletools.genops(file):
            steps += 1
            if opcode.name in _FORBIDDEN:
                raise pickle.UnpicklingError(f"it does {opcode.name}, which no array needs")
            if opcode.name in _REMEMBERING:
                highest = max(highest, int(argument or 0))
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error
    if highest > steps:
        raise pickle.UnpicklingError(f"it numbers a thing {highest:,} in {steps:,} steps")
    file.seek(start)
