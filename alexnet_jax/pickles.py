"""Check an untrusted pickle before anything is built from it, and read one of plain arrays.

A pickle is a program for a machine with a stack and a memo. The reader decides which names it may use (`find_class`);
`check` limits what else it may do.
"""

import io
import pickle
import pickletools
import re
from typing import Any, BinaryIO

import numpy as np

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


class PickledArray:
    """An array, as described by a pickle. NumPy's own reconstruction crashes on damaged ones (SIGSEGV).

    array: of numbers; the list of its objects if it holds objects.
    """

    array: Any = np.empty(0, np.uint8)  # where a damaged pickle sets no state

    def __init__(self, *_: Any):
        """Ignore the arguments; the state has everything."""

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, fortran, data = state
        if not isinstance(dtype, _DType):
            raise pickle.UnpicklingError("an array has no data type")
        if dtype.name.startswith("O"):
            self.array = list(data)
            return
        if not re.fullmatch(r"[iu][1248]|f[248]", dtype.name):
            raise pickle.UnpicklingError(f"an array is of {dtype.name!r}, not of numbers")
        numbers = np.frombuffer(_to_bytes(data), dtype.byte_order + dtype.name)
        self.array = numbers.reshape(shape, order="F" if fortran else "C")


class _DType:
    """The data type of an array. name: as NumPy writes it, "f4"."""

    byte_order = "<"

    def __init__(self, name: Any, *_: Any):
        self.name = name.decode() if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: Any) -> None:
        if state[1] in (">", b">"):
            self.byte_order = ">"


def _to_bytes(data: bytes | str, encoding: str = "latin-1") -> bytes:
    """Return the bytes that text stands for where Python 2 wrote the pickle, or Python 3 by an old protocol."""
    return data.encode("latin-1") if isinstance(data, str) else data


class _ArraysOnly(pickle.Unpickler):
    """Refuses to import anything but the parts of a NumPy array, and replaces those by its own classes."""

    _ALLOWED = {  # noqa: RUF012
        ("numpy.core.multiarray", "_reconstruct"): PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): PickledArray,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _DType,
        ("_codecs", "encode"): _to_bytes,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array of numbers needs")
        return self._ALLOWED[module, name]


def load_arrays(data: bytes, encoding: str) -> Any:
    """Load a pickle of arrays, as PickledArray, in dictionaries and lists, and run nothing in it.

    `encoding` is what Python 2's text becomes: "bytes", or "latin-1" for text. An error of any type if it is damaged or
    asks for anything else.
    """
    check(io.BytesIO(data))
    return _ArraysOnly(io.BytesIO(data), encoding=encoding).load()
