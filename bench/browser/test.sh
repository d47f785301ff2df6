#!/usr/bin/env bash
# What people see, in headless Chromium: `report` hovers, zooms, switches curves and goes by keyboard
# through the pages of two short runs; `studio` starts a run from the form, watches its curve move,
# stops and resumes it, compares, generates. Screenshots (light, dark, phone) go to $OUT, or to a
# folder that is printed.
#
#   bench/browser/test.sh [PROGRAM [report|studio]...]
set -euo pipefail
cd "$(dirname "$0")/../.."

program=$(realpath -m "${1:-target/release/modelsmith}")
tests=("${@:2}")
[ "${#tests[@]}" -gt 0 ] || tests=(report studio)
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

npm ci --prefix bench/browser --ignore-scripts --no-audit --no-fund --silent
for test in "${tests[@]}"; do
    timeout 600 node "bench/browser/$test.mjs" "$program" "$out"
done
echo "screenshots are in $out"
