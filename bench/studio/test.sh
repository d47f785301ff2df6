#!/usr/bin/env bash
# The studio in a browser: start a run from the form, watch its curve move, stop and resume it,
# compare, generate. Screenshots (light, dark, phone) go to $OUT, or to a folder that is printed.
#
#   bench/studio/test.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "$0")/../.."

program=$(realpath -m "${1:-target/release/modelsmith}")
out=${OUT:-$(mktemp -d)}
mkdir -p "$out"

missing=()
command -v npm >/dev/null || missing+=(nodejs npm)
[ -n "${CHROMIUM:-}" ] || command -v chromium >/dev/null || missing+=(chromium)
if [ "${#missing[@]}" -gt 0 ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
CHROMIUM=${CHROMIUM:-$(command -v chromium)}
export CHROMIUM

[ -x "$program" ] || cargo build --release -p modelsmith
[ -f assets/house/questions.jsonl ] || "$program" data house assets/house

npm ci --prefix bench/studio --ignore-scripts --no-audit --no-fund --silent
timeout 600 node bench/studio/test.mjs "$program" "$out"
echo "screenshots are in $out"
