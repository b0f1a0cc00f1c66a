"""Check an untrusted pickle before anything is built from it.

A pickle is a program for a machine with a stack and a memo. The reader decides which names it may use (`find_class`);
this module limits what else it may do.
"""

import pickle
import pickletools
from typing import BinaryIO

# What unpickling damaged data may raise: the documentation of `pickle` says any of these.
DAMAGE = (
    *(pickle.UnpicklingError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OverflowError),
    *(MemoryError, RuntimeError),
)
MAX_OBJECTS = 1_000_000  # of some hundred bytes each; a batch of CIFAR-10 has tens of thousands
# Opcodes of protocol 5 that our files don't use: bytes that can change while (CPython 3.11) they are being read.
_FORBIDDEN = ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER")
_MEMO_WRITES = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")
_MEMO_READS = ("GET", "BINGET", "LONG_BINGET")

_Stack = list[int | None]  # for each object the number of objects that it was made of; None for a mark


def check(file: BinaryIO) -> None:
    """Read the pickle at the position of `file`, and go back to where it begins.

    A memo index must not exceed the number of opcodes so far: CPython 3.11 to 3.13 allocate all lower ones too
    (python/cpython#115952), 34 GB for one flipped bit. There may be at most MAX_OBJECTS objects, and as many inside
    each of them, counted as often as they are used: a pair of twice a pair of twice a pair ... is short to write, but
    takes forever to hash. UnpicklingError if the pickle breaks one of these rules, or is damaged.
    """
    start = file.tell()
    stack: _Stack = []
    memo: dict[int, int | None] = {}
    try:
        for step, (opcode, argument, _) in enumerate(pickletools.genops(file), 1):
            if opcode.name in _FORBIDDEN:
                raise pickle.UnpicklingError(f"it has the opcode {opcode.name}, which no array needs")
            if opcode.name in _MEMO_WRITES:
                index = len(memo) if argument is None else int(argument)
                if index > step:
                    raise pickle.UnpicklingError(f"it has the memo index {index:,} after {step:,} opcodes")
                memo[index] = stack[-1]
            elif opcode.name in _MEMO_READS:
                stack.append(memo[int(argument or 0)])
            else:
                _simulate(opcode, stack)
            if max(step, stack[-1] or 0 if stack else 0) > MAX_OBJECTS:
                raise pickle.UnpicklingError(f"it has more than {MAX_OBJECTS:,} objects")
    except ValueError as error:
        raise pickle.UnpicklingError(str(error)) from error
    except (IndexError, KeyError) as error:
        raise pickle.UnpicklingError("its opcodes don't fit together") from error
    file.seek(start)


def _simulate(opcode: pickletools.OpcodeInfo, stack: _Stack) -> None:
    """Apply an opcode to the stack of object counts, as `pickletools.dis` applies it to a stack of types."""
    before = opcode.stack_before
    count = len(before)
    popped: list[int] = []
    if pickletools.markobject in before or (opcode.name == "POP" and stack[-1] is None):
        while (objects := stack.pop()) is not None:
            popped.append(objects)
        count = before.index(pickletools.markobject) if pickletools.markobject in before else 0
    popped += [objects for _ in range(count) if (objects := stack.pop()) is not None]
    if opcode.name == "MARK":
        stack.append(None)
    elif opcode.name == "DUP":
        stack += 2 * popped
    else:
        stack += [1 + sum(popped)] * len(opcode.stack_after)
