#!/usr/bin/env bash
# From nothing to a trained and evaluated net: environment, built-in digits, training, evaluation. Minutes on two cores.
#
#     bash launch/quickstart.sh
#
# Ctrl-C saves and stops (status 75). A second run resumes there, or says that it is done. Arguments are passed to the
# training, for example --workdir=runs/other --config.seed=1. Paths are relative to the folder that you are in.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

return_to_user

workdir=runs/quickstart
previous=
for argument in "$@"; do
    case $argument in
        --workdir=* | -workdir=*) workdir=${argument#*=} ;;
        *) case $previous in --workdir | -workdir) workdir=$argument ;; esac ;;
    esac
    previous=$argument
done
case $previous in --workdir | -workdir) fail "$previous is the last argument; give a folder after it." ;; esac

# --workdir comes last, so that both commands have the same, wherever else (--flagfile) another one is given.
stoppable "$python" -m alexnet_jax.main --config="$root/configs/quickstart.py" "$@" --workdir="$workdir"
stoppable "$python" -m alexnet_jax.evaluate --workdir="$workdir"

if [ "$here" != "$root" ]; then
    case $workdir in /*) ;; *) workdir=$here/$workdir ;; esac
fi
cat <<END

What you can do next, in $root (the records of this run are in $workdir/metrics.jsonl):

  evaluate on several views of each image: the paper's ten, here five because digits are not mirrored
    .venv/bin/python -m alexnet_jax.evaluate --workdir=$workdir --views=10

  train with one tower on each of two simulated devices
    JAX_NUM_CPU_DEVICES=2 bash launch/quickstart.sh --config.mesh.tower=2 --workdir=runs/two_towers

  run the tests
    bash launch/test.sh

  train on ImageNet, once it is prepared (docs/prepare.md)
    .venv/bin/python -m alexnet_jax.main --config=configs/original.py --workdir=runs/original --config.data.dir=DIR
END
