#!/usr/bin/env bash
# Measures all that is to be known of a GPU, in nine minutes, the most valuable first (benchmarks/on_gpu.py):
#
#     bash benchmarks/on_gpu.sh
#
# Arguments, such as --short, --parts or --results, go to it. On a machine without network, bring bundle/
# (benchmarks/gpu_bundle.py): its wheels complete the machine's own python3, and its images are prepared once.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-.venv/bin/python}
if [ -d bundle/wheels ]; then
    python=${PYTHON:-python3}
    [ -d bundle/site ] || "$python" -m pip install --quiet --no-index --no-deps --target bundle/site bundle/wheels/*.whl
    export PYTHONPATH="$PWD/bundle/site${PYTHONPATH:+:$PYTHONPATH}"
fi
if [ -f bundle/imagenette128.tgz ] && ! [ -d data/on_gpu/imagenette128 ]; then
    JAX_PLATFORMS=cpu "$python" -m alexnet_jax.prepare --dataset=folder --name=imagenette128 \
        --source=bundle/imagenette128.tgz --data_dir=data/on_gpu ||
        echo "warning: without images; parts that train are left out." >&2
fi
pieces=(bundle/cifar10.*-of-*) # they may come one by one
if [ "${#pieces[@]}" = "${pieces[0]##*-}" ] && ! [ -d data/on_gpu/cifar10 ]; then
    mkdir -p data/on_gpu
    cat "${pieces[@]}" | tar -x -C data/on_gpu
fi
exec "$python" -m "benchmarks.${ALEXNET_JAX_ON_GPU:-on_gpu}" --seconds=$((540 - SECONDS)) "$@"
