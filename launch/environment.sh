#!/usr/bin/env bash
# Creates the Python environment in .venv/ at the root of the repository once, and reuses it.
#
# The other scripts source this one, which leaves them at the root, with .venv/bin/python ready. It can also run alone.
# ALEXNET_JAX_ACCELERATOR=cpu|cuda12|cuda13 chooses the build of JAX; otherwise the NVIDIA driver decides.
# ALEXNET_JAX_LOCKED=1 first installs the versions pinned in requirements-lock.txt, as .ci/run does.
set -eu
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD

fail() {
    echo "error: $1" >&2
    exit 2
}

# Goes back to the user's folder, to which paths in arguments are relative. $python finds the package from there too.
return_to_user() {
    cd "$here"
    # shellcheck disable=SC2034 # the other scripts use it
    python=$root/.venv/bin/python
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONSAFEPATH=1 # 1: modules in the user's folder hide none
}

# Signals that ask this script to stop are passed on to the commands in `pids` as SIGTERM. Those end before it does.
pids=()
stopped_by=
on_stop() {
    if [ -n "$stopped_by" ] && [ "$1" = INT ]; then # schedulers and launchers send the others more than once
        disown -a # else bash reports that they were killed
        [ ${#pids[@]} -eq 0 ] || kill -KILL "${pids[@]}" 2>/dev/null || true
        end_stopped "stopped at once by another SIGINT; the same command resumes from what is saved."
    fi
    stopped_by=${stopped_by:-$1}
    [ ${#pids[@]} -gt 0 ] || end_stopped
    pass_on_stop
}

pass_on_stop() {
    [ -z "$stopped_by" ] || kill -TERM "${pids[@]}" 2>/dev/null || true
}

end_stopped() {
    echo "error: ${1:-stopped by SIG$stopped_by with nothing to save; run the same command again.}" >&2 || true
    exit $((128 + $(kill -l "$stopped_by")))
}

for signal in INT TERM HUP USR1; do
    # shellcheck disable=SC2064 # expanded now
    trap "on_stop $signal" "$signal"
done

# stoppable COMMAND...: runs a command and returns its status; ends this script if that was asked to stop meanwhile.
#
# It runs in the background: there it does not get Ctrl-C, which would find Python starting, nor can it outlive the
# script, whose process id it gets.
stoppable() {
    ALEXNET_JAX_PARENT=$$ "$@" &
    pids=($!)
    pass_on_stop # a signal that came in between
    while kill -0 "${pids[0]}" 2>/dev/null; do # a trap interrupts `wait`
        wait "${pids[0]}" || true
    done
    local status=0
    wait "${pids[0]}" 2>/dev/null || status=$?
    pids=()
    [ -z "$stopped_by" ] || [ "$status" -eq 75 ] || end_stopped
    return "$status"
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
        *) fail "ALEXNET_JAX_ACCELERATOR is '$ALEXNET_JAX_ACCELERATOR'; it must be cpu, cuda12 or cuda13." ;;
    esac
    # nvidia-smi prints the newest CUDA version that the driver supports; without a driver it prints none.
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

# Prints the name of a Python for which the requirements have builds.
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

# install_requirements LIST: installs a list of requirements, unless the same list is installed already.
install_requirements() {
    local jax="jax[$accelerator]"
    [ "$accelerator" != cpu ] || jax=jax
    sed "s/^jax\[cuda12\]/$jax/" "$1" >.venv/wanted.txt
    if ! cmp -s .venv/wanted.txt ".venv/$1"; then
        echo "Installing $1 for $accelerator into .venv, once; this takes a few minutes."
        stoppable .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check \
            -r .venv/wanted.txt ||
            fail "$1 could not be installed (see above); fix that and run the same command again."
        mv .venv/wanted.txt ".venv/$1"
    fi
}

# install_locked: installs the versions in requirements-lock.txt, and checks each file against its hashes.
#
# If the index lacks one of them, or has no build for this Python, the version ranges of the other lists apply. A file
# with another hash is an error.
install_locked() {
    cmp -s requirements-lock.txt .venv/requirements-lock.txt && return
    echo "Installing requirements-lock.txt into .venv, once; hashes are checked."
    if .venv/bin/python -m pip install --quiet --no-input --disable-pip-version-check --require-hashes \
        -r requirements-lock.txt 2>.venv/locked.log; then
        cp requirements-lock.txt .venv/
    elif grep -q "DO NOT MATCH THE HASHES" .venv/locked.log; then
        cat .venv/locked.log >&2
        fail "a package differs from the one in requirements-lock.txt (see above); find out why before you continue."
    else
        grep "^ERROR" .venv/locked.log >&2 || true
        echo "warning: can't install requirements-lock.txt (see above); using the ranges of requirements.txt." >&2
    fi
}

# Installing JAX for one CUDA version does not remove its build for another.
is_for_another_cuda() {
    grep -q '^jax\[cuda' .venv/requirements.txt 2>/dev/null && ! grep -qF "jax[$accelerator]" .venv/requirements.txt
}

accelerator=$(find_accelerator)
if ! [ -x .venv/bin/pip ] || ! is_suitable .venv/bin/python || is_for_another_cuda; then
    python=$(find_python)
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "$python lacks the venv module; install it, on Debian and Ubuntu with 'apt-get install python3-venv'."
    echo "Creating the environment in .venv with $("$python" --version)."
    stoppable "$python" -m venv --clear .venv
fi
[ -z "${ALEXNET_JAX_LOCKED:-}" ] || install_locked
install_requirements requirements.txt
if [ "$accelerator" = cpu ]; then
    export JAX_PLATFORMS="${JAX_PLATFORMS:-cpu}"
fi
