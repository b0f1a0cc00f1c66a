#!/usr/bin/env bash
# Every benchmark that needs nothing but this checkout, one after the other, then the table in README.md. It takes about
# 70 minutes on two cores, on a machine that does nothing else:
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
