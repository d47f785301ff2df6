#!/usr/bin/env bash
# Training, generation and start in f32 against PyTorch, transformers and PEFT on the same processor.
#
#   bench/versus/tune.sh [NAME ...] [--runs K] [--only ours|peer] [--quick] [--list]
#
# Ends with `RATIO name value` (the peer's median time over ours) and `MEM name_mem value` (our peak memory
# over the peer's). Needs target/release/modelsmith (MODELSMITH_PROGRAM: another build) and Python 3; the
# peers go to a virtual environment, models and data to ~/.cache/modelsmith/versus, each made once.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/bench/venv.sh"
exec "$python" "$root/bench/versus/versus.py" tune "$@"
