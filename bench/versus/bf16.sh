#!/usr/bin/env bash
# LoRA steps in bf16 against PEFT under `torch.autocast("cpu", bfloat16)`; options as in tune.sh.
#
#   bench/versus/bf16.sh [NAME ...] [--runs K] [--only ours|peer] [--quick] [--list]
#
# Ends with `RATIO name value` (the peer's median time over ours) and `MEM name_mem value` (our peak memory
# over the peer's). Needs target/release/modelsmith (MODELSMITH_PROGRAM: another build) and Python 3; the
# peers go to a virtual environment, models and data to ~/.cache/modelsmith/versus, each made once.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/bench/venv.sh"
exec "$python" "$root/bench/versus/versus.py" bf16 "$@"
