"""Read the table of classes in a development kit's `meta.mat`, in a separate process.

SciPy's reader of the MATLAB format crashes on some damaged files (SIGSEGV; SciPy 1.17, found by fuzzing) or allocates
all memory. A user with a damaged file must get an error message all the same.
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys

_LIMITS = ((resource.RLIMIT_AS, 2 << 30), (resource.RLIMIT_CPU, 20))  # bytes, seconds; a real table needs 1 % of that


def read_synsets(meta: bytes, year: int) -> dict[int, tuple[str, str]]:
    """Return WordNet id and English names by the kit's numbers; ValueError with the reason if there is no table."""
    one_thread = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # on large machines, memory for its threads would count
    command = [sys.executable, __file__, str(year)]
    reader = subprocess.run(command, input=meta, env=one_thread, capture_output=True, check=False)
    if reader.returncode != 0:
        last_line = reader.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise ValueError(last_line if reader.returncode > 0 else f"its reader ended with signal {-reader.returncode}")
    return {number: (wordnet_id, words) for number, wordnet_id, words in json.loads(reader.stdout)}


def _main(year: str) -> None:
    for limit, maximum in _LIMITS:
        with contextlib.suppress(ValueError):  # macOS has no limit on memory
            resource.setrlimit(limit, (maximum, resource.getrlimit(limit)[1]))
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
    json.dump([(int(row[f"ILSVRC{year}_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets], sys.stdout)


if __name__ == "__main__":
    _main(sys.argv[1])
