#!/usr/bin/env bash
# Makes the Python environment in .venv/ at the root of the repository, once, and re-uses it.
#
# The other scripts source it; it leaves them at the root, with .venv/bin/python ready. Run alone it only prepares.
# ALEXNET_JAX_ACCELERATOR=cpu|cuda12|cuda13 chooses the build of JAX; without it the NVIDIA driver decides.
# ALEXNET_JAX_LOCKED=1 installs what requirements-lock.txt pins first, as .ci/run does.
set -eu
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
    echo "error: $1" >&2
    exit 2
}

# Prints cpu, cuda12 or cuda13.
find_accelerator() {
    local cuda
    case ${ALEXNET_JAX_ACCELERATOR:-} in
        cpu | cuda12 | cuda13)
            echo "$ALEXNET_JAX_ACCELERATOR"
            return
            ;;
        '') ;;
        *) fail "ALEXNET_JAX_ACCELERATOR is '$ALEXNET_JAX_ACCELERATOR'; it can be cpu, cuda12 or cuda13." ;;
    esac
    # The newest CUDA version that the driver serves stands in the first lines of nvidia-smi; without a driver, nothing.
    cuda=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA[A-Za-z ]* Version: *\([0-9][0-9]*\).*/\1/p' | sed q)
    if [ "${cuda:-0}" -ge 13 ]; then
        echo cuda13
    elif [ "${cuda:-0}" -ge 12 ]; then
        echo cuda12
    else
        echo cpu
    fi
}

is_suitable() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1
}

# Prints the name of a Python that the requirements have builds for.
find_python() {
    local candidate
    for candidate in python3 python3.14 python3.13 python3.12 python3.11; do
        if is_suitable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11 to 3.14 was found; install one, for example with 'apt-get install python3.12 python3.12-venv' \
or 'brew install python@3.12', and run this again."
}

# install_requirements LIST: installs a list of requirements, unless just this list was installed before.
install_requirements() {
    local jax="jax[$accelerator]"
    [ "$accelerator" != cpu ] || jax=jax
    sed "s/^jax\[cuda12\]/$jax/" "$1" >.venv/wanted.txt
    if ! cmp -s .venv/wanted.txt ".venv/$1"; then
        echo "Installing $1 for $accelerator into .venv, once; this takes a few minutes."
        .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check -r .venv/wanted.txt ||
            fail "$1 could not be installed (see above); mend that and run the same command again."
        mv .venv/wanted.txt ".venv/$1"
    fi
}

# install_locked: the versions of requirements-lock.txt, each file checked against its hashes.
#
# An index that lacks one of them, or a Python without a build of it, is no reason to check nothing: then the ranges of
# the other lists decide. A file that is not the lock's ends everything.
install_locked() {
    cmp -s requirements-lock.txt .venv/requirements-lock.txt && return
    echo "Installing requirements-lock.txt into .venv, once; hashes are checked."
    if .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
        -r requirements-lock.txt 2>.venv/locked.log; then
        cp requirements-lock.txt .venv/
    elif grep -q "DO NOT MATCH THE HASHES" .venv/locked.log; then
        cat .venv/locked.log >&2
        fail "a package is not the one that requirements-lock.txt was made of (see above); find out why before you go on."
    else
        grep "^ERROR" .venv/locked.log >&2 || true
        echo "warning: requirements-lock.txt can't be installed here (see above); the ranges of requirements.txt are." >&2
    fi
}

# A build of JAX for one CUDA does not go away when another is installed over it.
is_for_another_cuda() {
    grep -q '^jax\[cuda' .venv/requirements.txt 2>/dev/null && ! grep -qF "jax[$accelerator]" .venv/requirements.txt
}

accelerator=$(find_accelerator)
if ! [ -x .venv/bin/pip ] || ! is_suitable .venv/bin/python || is_for_another_cuda; then
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python lacks the venv module; on Debian and Ubuntu 'apt-get install python3-venv' brings it."
    echo "Making the environment in .venv with $("$python" --version)."
    "$python" -m venv --clear .venv
fi
[ -z "${ALEXNET_JAX_LOCKED:-}" ] || install_locked
install_requirements requirements.txt
if [ "$accelerator" = cpu ]; then
    export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
fi
