"""The table of classes in a development kit's `meta.mat`, read in a process of its own.

SciPy's reader of MATLAB's format dies of some damaged files (SIGSEGV; SciPy 1.17, found by fuzzing) or asks for all
memory, and what is a damaged file to the user must not end without a word.
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys

_LIMITS = ((resource.RLIMIT_AS, 2 << 30), (resource.RLIMIT_CPU, 20))  # bytes, seconds; a real table takes a hundredth


def read_synsets(meta: bytes, year: int) -> list[tuple[int, str, str]]:
    """Number, WordNet id and words of each class; ValueError, which says why, if there is no such table."""
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # its threads' memory would count on large machines
    command = [sys.executable, __file__, str(year)]
    reader = subprocess.run(command, input=meta, env=one_thread, capture_output=True, check=False)
    if reader.returncode != 0:
        said = reader.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise ValueError(said if reader.returncode > 0 else f"its reader ended with signal {-reader.returncode}")
    return [(number, wordnet_id, words) for number, wordnet_id, words in json.loads(reader.stdout)]


def _main(year: str) -> None:
    for limit, most in _LIMITS:
        with contextlib.suppress(ValueError):  # macOS has none for memory
            resource.setrlimit(limit, (most, resource.getrlimit(limit)[1]))
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
    json.dump([(int(row[f"ILSVRC{year}_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets], sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1])
