#!/usr/bin/env bash
# From nothing to a trained and evaluated net: environment, built-in digits, training, evaluation. Minutes on two cores.
#
#     bash launch/quickstart.sh
#
# Ctrl-C saves and stops (status 75). A second run resumes there, or says that it is done. Arguments are passed to the training, for
# example --workdir=runs/other --config.seed=1.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

workdir=runs/quickstart
for argument in "$@"; do
    case $argument in
        --workdir=*) workdir=${argument#--workdir=} ;;
    esac
done

stoppable .venv/bin/python -m alexnet_jax.main --config=configs/quickstart.py --workdir="$workdir" "$@"
stoppable .venv/bin/python -m alexnet_jax.evaluate --workdir="$workdir"

cat <<END

What you can do next (the records of this run are in $workdir/metrics.jsonl):

  evaluate on ten views of each image, as the paper does
    .venv/bin/python -m alexnet_jax.evaluate --workdir=$workdir --views=10

  train with one tower on each of two simulated devices
    JAX_NUM_CPU_DEVICES=2 bash launch/quickstart.sh --config.mesh.tower=2 --workdir=runs/two_towers

  run the tests
    bash launch/test.sh

  train on ImageNet, once it is prepared (docs/prepare.md)
    .venv/bin/python -m alexnet_jax.main --config=configs/original.py --workdir=runs/original --config.data.dir=DIR
END
