#!/usr/bin/env bash
# The test suite, environment included; 43 longer tests, of faults, run by themselves (docs/reliability.md). Arguments
# are passed on to pytest:
#
#     bash launch/test.sh -k checkpoint
#
# JAX_PLATFORMS and JAX_NUM_CPU_DEVICES are respected; without an NVIDIA driver the tests run on the CPU.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements-dev.txt
# Two files at a time: most of a test is compiling, which keeps one core busy.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
