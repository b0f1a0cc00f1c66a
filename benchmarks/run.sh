#!/usr/bin/env bash
# Runs the benchmarks of steps, operations, start-up and checkpoints, and writes their results into README.md, which lists
# the other benchmarks too. Takes about 70 minutes on two cores of an idle machine:
#
#     bash benchmarks/run.sh
#
# Arguments, such as --platform=gpu or --repeats=5, go to every benchmark.
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
