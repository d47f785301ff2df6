#!/usr/bin/env bash
# Edits of facts against the same written out in PyTorch on the same processor.
#
#   bench/versus/edit.sh [NAME ...] [--runs K] [--list]
#
# Ends with `RATIO name value` (the peer's median time an edit over ours) and `MEM name_mem value` (our peak
# memory over the peer's). Needs target/release/modelsmith (MODELSMITH_PROGRAM: another build) and Python 3;
# the peer goes to a virtual environment. The model is assets/house, which knows what is edited.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/bench/venv.sh"
exec "$python" "$root/bench/versus/edit.py" "$@"
