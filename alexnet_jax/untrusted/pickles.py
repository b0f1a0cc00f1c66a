"""Pickles from strangers, looked through before anything is built from them.

A pickle is a program for a machine with a stack and a memory. What it may name is up to its reader (`find_class`); here
is what it may do beside that.
"""

import pickle
import pickletools
from typing import BinaryIO

MAX_THINGS = 1_000_000  # of some hundred bytes each; a batch of CIFAR-10 has tens of thousands
# Steps of protocol 5 that no file of ours has: bytes that can be changed, while (CPython 3.11) they are being read.
_FORBIDDEN = ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER")
_REMEMBERING = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_RECALLING = ("GET", "BINGET", "LONG_BINGET")

_Stack = list[int | None]  # for each thing the number of things that it was made of; None for a mark


def check(file: BinaryIO) -> None:
    """Reads the pickle that begins here and goes back to its beginning; UnpicklingError if it is not to be trusted.

    It may not number what it remembers higher than it has steps: CPython 3.11 to 3.13 make room for all numbers below
    (python/cpython#115952), 34 GB for a flipped bit. It may not have more than MAX_THINGS, nor one of more, which
    count as often as they are used: a pair of twice a pair of twice a pair ... is soon said, but as a key it takes for
    ever.
    """
    start = file.tell()
    stack: _Stack = []
    memory: dict[int, int | None] = {}
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file), 1):
            if opcode.name in _FORBIDDEN:
                raise pickle.UnpicklingError(f"it does {opcode.name}, which no array needs")
            if opcode.name in _REMEMBERING:
                number = len(memory) if argument is None else int(argument)
                if number > step:
                    raise pickle.UnpicklingError(f"it numbers a thing {number:,} in {step:,} steps")
                memory[number] = stack[-1]
            elif opcode.name in _RECALLING:
                stack.append(memory[int(argument or 0)])
            else:
                _do(opcode, stack)
            if max(step, stack[-1] or 0 if stack else 0) > MAX_THINGS:
                raise pickle.UnpicklingError(f"it has more than {MAX_THINGS:,} things")
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error
    except (IndexError, KeyError) as error:
        raise pickle.UnpicklingError("its steps don't fit together") from error
    file.seek(start)


def _do(opcode: pickletools.OpcodeInfo, stack: _Stack) -> None:
    """A step, on a stack of numbers of things, as `pickletools.dis` does it on one of types."""
    before = opcode.stack_before
    count = len(before)
    taken: list[int] = []
    if pickletools.markobject in before or (opcode.name == "POP" and stack[-1] is None):
        while (things := stack.pop()) is not None:
            taken.append(things)
        count = before.index(pickletools.markobject) if pickletools.markobject in before else 0
    taken += [things for _ in range(count) if (things := stack.pop()) is not None]
    if opcode.name == "MARK":
        stack.append(None)
    elif opcode.name == "DUP":
        stack += 2 * taken
    else:
        stack += [1 + sum(taken)] * len(opcode.stack_after)
