#!/bin/sh
# Measures training and generation on one GPU in one run of at most nine minutes, and writes
# benchmarks/results/DATE-HARDWARE-gpu.json; see benchmarks/gpu.py. `--tiny` tries it on a CPU.
set -eu
cd "$(dirname "$0")/.."
PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" \
PYTORCH_CUDA_ALLOC_CONF="${PYTORCH_CUDA_ALLOC_CONF:-expandable_segments:True}" \
HF_HUB_OFFLINE=1 exec timeout 540 "${PYTHON:-python3}" benchmarks/gpu.py "$@"
