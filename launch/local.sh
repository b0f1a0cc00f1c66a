#!/usr/bin/env bash
# Trains in several processes on this machine, with one GPU each, or sharing the cores of the CPU.
#
#     bash launch/local.sh 2 --config=configs/quickstart.py --workdir=runs/two_processes
#
# The first argument is the number of processes, the others go to `python -m alexnet_jax.main`, with paths relative to
# the folder that you are in. Ctrl-C saves and stops (status 75); a second Ctrl-C stops at once. If one process dies, the
# others stop too. See docs/cluster.md.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
return_to_user

usage="the first argument is the number of processes, for example 'bash launch/local.sh 2 \
--config=configs/quickstart.py --workdir=runs/two_processes'."
case ${1:-} in
    '' | 0* | *[!0-9]*) fail "$usage" ;;
esac
count=$1
shift

on_gpus=
if [ "$accelerator" != cpu ] && [ "${JAX_PLATFORMS:-cuda}" != cpu ]; then
    on_gpus=yes
    gpus=${CUDA_VISIBLE_DEVICES:-$(nvidia-smi --query-gpu=index --format=csv,noheader | paste -s -d , -)}
    num_gpus=$(echo "$gpus" | tr , '\n' | grep -c .)
    [ "$num_gpus" -ge "$count" ] ||
        fail "$count processes need a GPU each, but there are $num_gpus ($gpus); start fewer, or set JAX_PLATFORMS=cpu."
fi

find_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port=$(trap '' INT && "$python" -c "$find_port")
export JAX_COORDINATOR_BIND_ADDRESS="127.0.0.1:$port" # reachable from this machine only

for ((i = 0; i < count; i++)); do
    [ -z "$stopped_by" ] || break
    if [ -n "$on_gpus" ]; then
        CUDA_VISIBLE_DEVICES=$(echo "$gpus" | cut -d , -f $((i + 1)))
        export CUDA_VISIBLE_DEVICES
    fi
    ALEXNET_JAX_PARENT=$$ "$python" -m alexnet_jax.main --coordinator_address="127.0.0.1:$port" \
        --num_processes="$count" --process_id="$i" "$@" &
    pids+=($!)
done
pass_on_stop # a signal that came in between
count=${#pids[@]}

# bash 3.2 can't wait for the first process that ends: check all of them, twice a second.
status=0  # of the first that failed
patience= # half seconds left for the others to stop by themselves
running=$count
ended=()
while [ "$running" -gt 0 ]; do
    for ((i = 0; i < count; i++)); do
        if [ -n "${ended[i]:-}" ] || kill -0 "${pids[i]}" 2>/dev/null; then
            continue
        fi
        ended[i]=yes
        running=$((running - 1))
        this=0
        wait "${pids[i]}" || this=$?
        [ "$this" -ne 0 ] || continue
        # Name the process that was killed, even if the others, which stop because of it, were seen to end first.
        if [ "$this" -gt 128 ] && [ -z "$stopped_by" ]; then
            echo "error: process $i of $count (pid ${pids[i]}) was ended by signal $((this - 128))." >&2
            this=4 # like the processes that it leaves behind
        elif [ "$this" -ne 75 ] && [ "$this" -ne 4 ] && [ "$this" -le 128 ] && [ "$status" -eq 0 ]; then
            echo "error: process $i of $count (pid ${pids[i]}) ended with status $this." >&2
        fi
        if [ "$status" -eq 0 ]; then
            status=$this
            patience=60
        fi
    done
    if [ -n "$patience" ]; then
        case $patience in
            30) kill -TERM "${pids[@]}" 2>/dev/null || true ;;
            0) kill -KILL "${pids[@]}" 2>/dev/null || true ;;
        esac
        patience=$((patience - 1))
    fi
    [ "$running" -eq 0 ] || sleep 0.5 || true # Ctrl-C ends it too
done
[ -z "$stopped_by" ] || [ "$status" -le 128 ] || end_stopped
exit "$status"
