# The virtual environment of the peers, made once outside the repository. To be sourced: sets `python`.
#
# MODELSMITH_VENV names an environment that already has the packages.
# A script that sets `packages` (and `venv_name`) before gets an environment of its own.
default_packages=(torch==2.15.0 transformers==5.23.0 peft==0.21.2 safetensors==0.8.0 numpy==2.4.6)
if [[ -z "${packages[*]:-}" ]]; then
    packages=("${default_packages[@]}")
fi

if [[ -n "${MODELSMITH_VENV:-}" ]]; then
    venv="$MODELSMITH_VENV"
else
    venv="${XDG_CACHE_HOME:-$HOME/.cache}/modelsmith/${venv_name:-venv-peft}"
    # The stamp is written last and names the versions, so a broken or outdated environment is remade.
    if [[ "$(cat "$venv/modelsmith-packages" 2>/dev/null)" != "${packages[*]}" ]]; then
        echo "installing ${packages[*]} into $venv" >&2
        rm -rf "$venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet "${packages[@]}"
        echo "${packages[*]}" >"$venv/modelsmith-packages"
    fi
fi
python="$venv/bin/python"
