"""The whole campaign: each kind of file in a process of its own, one after the other; a Markdown table at the end."""

import argparse
import multiprocessing
import platform
import sys
import tempfile
from pathlib import Path

import jax

from fuzzing.campaign import Result, fuzz
from fuzzing.kinds import KINDS


def main() -> int:
    """Run the campaign; return 1 if anything crashed."""
    parser = argparse.ArgumentParser(prog="PYTHONPATH=tests python -m fuzzing", description=__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of files in all")
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other files")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), choices=list(KINDS), help="only these")
    parser.add_argument("--keep", type=Path, help="a folder for one input of each crash")
    arguments = parser.parse_args()
    results = []
    for kind in arguments.kinds:
        inputs = max(1, round(KINDS[kind].share * arguments.inputs))
        result = in_a_process(kind, inputs, arguments.seed, arguments.keep and arguments.keep / kind)
        results.append(result)
        print(row(result), flush=True)
        for crash, count in result.crashes.items():
            print(f"    {count:,} x {crash}", flush=True)
    print(f"\n| {' | '.join(HEADER)} |\n|{' --- |' * len(HEADER)}")
    for result in (*results, total(results)):
        print(row(result))
    print(f"\nSeed {arguments.seed}; Python {platform.python_version()}, jax {jax.__version__}.")
    return int(any(result.crashes for result in results))


def total(results: list[Result]) -> Result:
    """Return the sums of all kinds, and the highest peak."""
    crashes = sum(sum(result.crashes.values()) for result in results)
    _, inputs, accepted, refused, _, seconds, peaks = zip(*results, strict=True)
    return Result("all", sum(inputs), sum(accepted), sum(refused), {"": crashes}, sum(seconds), max(peaks))


HEADER = ("file", "inputs", "read", "refused", "crashes", "seconds", "peak memory (MB)")


def row(result: Result) -> str:
    """Return a line of the table."""
    crashes = sum(result.crashes.values())
    numbers = (result.inputs, result.accepted, result.refused, crashes, result.seconds, result.peak / 1e6)
    return f"| {result.kind} | {' | '.join(f'{number:,.0f}' for number in numbers)} |"


def in_a_process(kind: str, inputs: int, seed: int, keep: Path | None) -> Result:
    """Fuzz one kind in a process forked before JAX has threads; if it dies, name the folder with the fatal file."""
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    folder = Path(tempfile.mkdtemp(prefix="fuzzing-"))

    def work() -> None:
        queue.put(fuzz(kind, KINDS[kind].subject(folder), inputs, seed, keep))

    process = context.Process(target=work)
    process.start()
    process.join()
    if process.exitcode == 0:
        return queue.get()
    return Result(kind, inputs, 0, 0, {f"the process died ({process.exitcode}); see {folder}": 1}, 0.0, 0)


if __name__ == "__main__":
    sys.exit(main())
