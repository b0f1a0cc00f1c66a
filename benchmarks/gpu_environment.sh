#!/usr/bin/env bash
# Makes .venv-cuda at the root of the repository: what requirements.txt lists, with the CUDA 12 build of JAX, to compile
# for a GPU without having one (benchmarks/gpu_program.py). About 6 GB; reused if it is there.
#
#     bash benchmarks/gpu_environment.sh
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=$(command -v .venv/bin/python || command -v python3)
[ -x .venv-cuda/bin/pip ] || "$python" -m venv --clear .venv-cuda
.venv-cuda/bin/python -m pip install --quiet --no-input --disable-pip-version-check -r requirements.txt
echo "Compile with: .venv-cuda/bin/python -m benchmarks.gpu_program"
