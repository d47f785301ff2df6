#!/usr/bin/env bash
# A thousand facts in sequence, editor by editor: what holds, and what else moves.
#
#   bench/edits/sequence.sh [--quick] [FOLDER]
#
# Pretrains a house model of 400 people (minutes, once), edits half of its personal facts with every editor, and
# writes FOLDER/curves.html, whose charts have all editors, and a table. FOLDER is ~/.cache/modelsmith/edits by
# default; what is there is kept. --quick is the same in small: does everything run? Its figures say nothing.
# Needs target/release/modelsmith (MODELSMITH_PROGRAM: another build) and Python 3.
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
program="${MODELSMITH_PROGRAM:-$root/target/release/modelsmith}"
cache="${XDG_CACHE_HOME:-$HOME/.cache}/modelsmith"
people=400 steps=3000 facts=1000 every=100 default="$cache/edits"
if [[ "${1:-}" == --quick ]]; then
    people=20 steps=30 facts=20 every=10 default="$cache/edits-quick"
    shift
fi
folder="${1:-$default}"
world="$folder/world"
model="$folder/runs/town/model"
mkdir -p "$folder"

if [[ ! -f "$model/model.safetensors" ]]; then
    "$program" data house "$world" --people "$people"
    "$program" pretrain "$root/recipes/house.toml" --fresh "$world" --data "$world/corpus.jsonl" --steps "$steps" \
        --output "$folder/runs" --name town
    cp "$world/house.json" "$model/"
fi
"$program" data edits "$world" --count "$facts" --seed 1 >"$folder/requests.jsonl"
# Fifty statements of facts that are not edited.
python3 - "$world/facts.jsonl" "$folder/requests.jsonl" >"$folder/texts.jsonl" <<'EOF'
import json, random, sys
edited = {json.loads(line)["id"] for line in open(sys.argv[2])}
facts = [json.loads(line) for line in open(sys.argv[1])]
rest = [fact for fact in facts if f"house-{fact['id']}" not in edited]
random.Random(0).shuffle(rest)
for number, fact in enumerate(rest[:50]):
    prompt = fact["prompts"][number % len(fact["prompts"])]
    print(json.dumps({"text": f"{prompt} {fact['object']}."}))
EOF

# Where this model answers, found on a hundred other facts: the last token of the prompt, the middle blocks.
last='method.lookup="prompt_last"'
edit() { # NAME METHOD BATCH OPTION...
    local name=$1 method=$2 batch=$3
    shift 3
    local set=()
    for option in "$@"; do set+=(--set "$option"); done
    "$program" edit --host "$model" --requests "$folder/requests.jsonl" --method "$method" --batch "$batch" \
        --corpus "$world/corpus.jsonl" --corpus-limit 3000 --guard off --output "$folder/$name" --quiet "${set[@]}"
    names+=("$folder/$name")
}
names=()
edit rome rome 1 "$last" 'method.layers=[2]'
edit r_rome r_rome 1 "$last" 'method.layers=[2]'
edit memit memit 10 "$last" 'method.layers=[1,2]'
edit memit-forgetful memit 10 "$last" 'method.layers=[1,2]' method.memory=false
edit encore encore 10 "$last" 'method.layers=[1,2]'
edit alphaedit alphaedit 10 "$last" 'method.layers=[1,2]' method.threshold=0.3 method.norm_weight=0.02
edit emmet emmet 10 "$last" 'method.layers=[2]'
edit ft ft 1 'method.layers=[2]' method.learning_rate=0.005
edit ft_l ft_l 1 'method.layers=[2]' method.learning_rate=0.005 method.clamp=0.01
if [[ ! -d "$folder/grace" ]]; then
    "$program" edit grace --host "$model" --requests "$folder/requests.jsonl" --output "$folder/grace" \
        --set 'method.module="model.layers.2.mlp.down_proj"' --every "$every" --most 100 --texts "$folder/texts.jsonl" --quiet
fi
names+=("$folder/grace")
"$program" edit eval "${names[@]}" --requests "$folder/requests.jsonl" --texts "$folder/texts.jsonl" --every "$every" --most 100 \
    --report "$folder/curves.html" --quiet
