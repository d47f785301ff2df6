#!/usr/bin/env bash
# Merges of checkpoints against mergekit on the same processor and disk.
#
#   bench/versus/merge.sh [NAME ...] [--runs K] [--sync] [--list]
#
# Ends with `RATIO name value` (the peer's median time over ours) and `MEM name_mem value` (our peak resident memory over
# the peer's). Needs target/release/modelsmith (MODELSMITH_PROGRAM: another build), Python 3 and 7 GB of disk; the peer goes to
# a virtual environment of its own, and four checkpoints of 1 GB in bf16 to the cache folder.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
packages=(mergekit==0.1.5 torch==2.15.0 transformers==5.24.0 safetensors==0.8.0 peft==0.21.2)
venv_name=venv-mergekit
source "$root/bench/venv.sh"
exec "$python" "$root/bench/versus/merge.py" "$@"
