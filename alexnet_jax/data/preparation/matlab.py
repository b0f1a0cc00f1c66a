"""The table of classes in a development kit's `meta.mat`, read in a process of its own.

SciPy's reader of MATLAB's format dies of some damaged files (SIGSEGV; SciPy 1.17, found by fuzzing), and what is a
damaged file to the user must not end without a word.
"""

import io
import json
import subprocess
import sys


def read_synsets(meta: bytes, year: int) -> list[tuple[int, str, str]]:
    """Number, WordNet id and words of each class; ValueError, which says why, if there is no such table."""
    reader = subprocess.run([sys.executable, __file__, str(year)], input=meta, capture_output=True, check=False)
    if reader.returncode != 0:
        said = reader.stderr.decode(errors="replace").strip().split("\n")[-1]
        raise ValueError(said if reader.returncode > 0 else f"its reader ended with signal {-reader.returncode}")
    return [(number, wordnet_id, words) for number, wordnet_id, words in json.loads(reader.stdout)]


if __name__ == "__main__":
    from scipy.io import loadmat

    synsets = loadmat(io.BytesIO(sys.stdin.buffer.read()), squeeze_me=True)["synsets"]
    json.dump(
        [(int(row[f"ILSVRC{sys.argv[1]}_ID"]), str(row["WNID"]), str(row["words"])) for row in synsets], sys.stdout
    )
