#!/usr/bin/env bash
# From nothing to a trained and evaluated net: environment, built-in digits, training, evaluation. Minutes on two cores.
#
#     bash launch/quickstart.sh
#
# Run again it goes on where it was stopped, or says that it is done. Arguments are passed on to the training, for
# example --workdir=runs/other --config.seed=1.
# shellcheck source=launch/environment.sh
. "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

workdir=runs/quickstart
for argument in "$@"; do
    case $argument in
        --workdir=*) workdir=${argument#--workdir=} ;;
    esac
done

.venv/bin/python -m alexnet_jax.main --config=configs/quickstart.py --workdir="$workdir" "$@"
.venv/bin/python -m alexnet_jax.evaluate --workdir="$workdir"

cat <<END

What you can do next:
  cat $workdir/metrics.jsonl                       the run's records, one JSON object a line
  .venv/bin/python -m alexnet_jax.evaluate --workdir=$workdir --views=10
                                                        evaluate on ten views of each image, as the paper does
  .venv/bin/python -m alexnet_jax.main --config=configs/quickstart.py --workdir=runs/two_towers \\
      --config.mesh.tower=2                             one tower on each of two devices (JAX_NUM_CPU_DEVICES=2
                                                        in front of it simulates them)
  bash launch/test.sh                                   the whole test suite
  configs/imagenet.py                                   the recipe for ImageNet
END
