#!/usr/bin/env bash
# What many LoRA adapters on one host take in memory, as `modelsmith serve` counts it.
#
#   bench/adapters/many.sh [SHAPE ...]          house, 15m, 124m; all by default
#
# Needs target/release/modelsmith (MODELSMITH_PROGRAM: another build); the larger hosts are made once, as for bench/versus.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
source "$root/bench/venv.sh"
exec "$python" "$root/bench/adapters/many.py" "$@"
