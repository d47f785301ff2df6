#!/usr/bin/env bash
# Do adapters cross between Modelsmith and PEFT, both ways, with equal logits?
#
#   bench/parity/peft.sh [BASE]
#
# BASE is a checkpoint folder with a tokenizer (default: the house model). Needs target/release/modelsmith
# and Python 3; the packages go to a virtual environment that is made once. Set MODELSMITH_VENV to use
# an environment that already has them, MODELSMITH_PROGRAM to test another build.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/bench/venv.sh"
exec "$python" "$root/bench/parity/peft_check.py" "$@"
