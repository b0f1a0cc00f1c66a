"""One contender in a process of its own: builds its work, warms up, then runs one timed repeat per request.

    python -m benchmarks.worker '{"task": "benchmarks.ours:train_step", "arguments": {...}, "tuned": true, ...}'

A task builds `Work`; then every line on the standard input names a piece of it, and every answer is a line of JSON.
Settings such as the allocator's hold for a whole process, so contenders that differ in them, or in their framework,
can only take turns this way.
"""

import importlib
import json
import math
import os
import sys
import time

from benchmarks.work import Piece, Work


def main() -> None:
    """Answer {"calls", "notes"} once warm, then {"seconds"} of one call to each line that names a piece."""
    request = json.loads(sys.argv[1])
    if request["tuned"]:
        from alexnet_jax import runtime

        runtime.use_huge_pages()  # restarts this process, as it does for `python -m alexnet_jax.main`
        runtime.use_compilation_cache()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not an answer

    module, _, function = request["task"].partition(":")
    work: Work | dict = getattr(importlib.import_module(module), function)(**request["arguments"])
    if not isinstance(work, Work):  # the task has measured by itself, once
        print(json.dumps(work), file=answers, flush=True)
        return
    calls = {name: _warm_up(piece, request["seconds"]) for name, piece in work.pieces.items()}
    print(json.dumps({"calls": calls, "notes": work.notes}), file=answers, flush=True)
    for line in sys.stdin:
        name = line.strip()
        print(json.dumps({"seconds": _seconds(work.pieces[name], calls[name])}), file=answers, flush=True)


def _warm_up(piece: Piece, seconds: float) -> int:
    """Run `piece` until it is compiled and steady; return how many calls a repeat of at least `seconds` needs."""
    piece(1)
    piece(1)
    calls = max(1, math.ceil(seconds / _seconds(piece, 1)))
    return max(1, math.ceil(seconds / _seconds(piece, calls)))


def _seconds(piece: Piece, calls: int) -> float:
    start = time.perf_counter()
    piece(calls)
    return (time.perf_counter() - start) / calls


if __name__ == "__main__":
    main()
