#!/usr/bin/env bash
# Trains what small data sets can test of the paper at full length, nine minutes at a time (benchmarks/on_gpu_runs.py):
#
#     bash benchmarks/on_gpu_runs.sh
#
# CIFAR-10 is needed in data/on_gpu, or in pieces in bundle/ (benchmarks/gpu_bundle.py). Arguments go to the module.
ALEXNET_JAX_ON_GPU=on_gpu_runs exec bash "$(dirname "${BASH_SOURCE[0]}")/on_gpu.sh" "$@"
