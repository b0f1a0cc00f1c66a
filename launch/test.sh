#!/usr/bin/env bash
# Creates the environment and runs the test suite, without the longer tests (-m slow) and those that break real
# runs (docs/reliability.md). Arguments go to pytest:
#
#     bash launch/test.sh -k checkpoint
#
# JAX_PLATFORMS and JAX_NUM_CPU_DEVICES apply; without an NVIDIA driver the tests run on the CPU.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install_requirements requirements-dev.txt
# Two files at a time: tests mostly compile, which keeps one core busy.
exec .venv/bin/python -m pytest -n 2 --dist loadfile "$@"
