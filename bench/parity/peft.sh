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
packages=(torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy==2.4.6)

if [[ -n "${MODELSMITH_VENV:-}" ]]; then
    venv="$MODELSMITH_VENV"
else
    venv="${XDG_CACHE_HOME:-$HOME/.cache}/modelsmith/venv-peft"
    # The stamp is written last and names the versions, so a broken or outdated environment is remade.
    if [[ "$(cat "$venv/modelsmith-packages" 2>/dev/null)" != "${packages[*]}" ]]; then
        echo "installing ${packages[*]} into $venv" >&2
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet "${packages[@]}"
        echo "${packages[*]}" >"$venv/modelsmith-packages"
    fi
fi

exec "$venv/bin/python" "$root/bench/parity/peft_check.py" "$@"
