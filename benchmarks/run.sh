#!/usr/bin/env bash
# The benchmarks of a step, its operations, start-up and checkpoints, one after the other, then their results in
# README.md, which names the others too. It takes about 70 minutes on two cores, on a machine that does nothing else:
#
#     bash benchmarks/run.sh
#
# Arguments go to every benchmark: --platform=gpu, --repeats=5.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/../launch/environment.sh"
install_requirements requirements-dev.txt

measure() {
    local name=$1
    shift
    .venv/bin/python -m "benchmarks.$name" "$@"
}

for batch in 64 128; do
    measure step --variant=paper --batch=$batch "$@"
    measure step --variant=paper --batch=$batch --what=inference --modes eager compiled frozen "$@"
    measure startup --variant=paper --batch=$batch "$@"
done
measure pooling --batch=64 "$@"
measure lrn --batch=64 "$@"
measure layers --batch=64 "$@"
measure kernels --variant=paper --batch=64 "$@"
measure checkpoint --variant=paper --batch=128 "$@"
.venv/bin/python -m benchmarks.table
