"""Makes the edits of a folder of edits again in PyTorch.

    python edit_peer.py FOLDER BATCH

Prints JSON: seconds of the edits, mean steps of the search, and the cosine between both changes of the weights.
"""

import json
import sys
import time
from pathlib import Path

import torch
import transformers as tf
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "parity" / "editors"))
from editing import Host, memit, rome  # noqa: E402


def statements(folder):
    """The facts of all batches, and the sum of the changes by block."""
    facts, changes = [], {}
    for path in sorted((folder / "steps").glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
            facts += json.loads(metadata["entry"])["statements"]
            for number, place in enumerate(json.loads(metadata["changes"])):
                change = file.get_tensor(f"{number:03}.right").double()
                if not place["whole"]:
                    change = file.get_tensor(f"{number:03}.left").double() @ change
                changes[place["layer"]] = changes.get(place["layer"], 0) + change
    return facts, changes


def prompt(tokenizer, template, subject, lookup):
    begin = template.index("{}")
    text = template.replace("{}", subject, 1)
    encoded = tokenizer(text, return_offsets_mapping=True)
    offsets = encoded["offset_mapping"]
    last = max(place for place, (start, end) in enumerate(offsets) if start < end)
    inside = [place for place, (start, end) in enumerate(offsets) if start < end and start < begin + len(subject)]
    return {"ids": encoded["input_ids"][: last + 1], "lookup": last if lookup == "prompt_last" else inside[-1]}


def main():
    tf.utils.logging.disable_progress_bar()
    folder, batch = Path(sys.argv[1]), int(sys.argv[2])
    header = json.loads((folder / "edits.json").read_text())
    options = {key: value for key, value in header["method"].items() if key != "name"}
    name, layers, search = header["method"]["name"], header["layers"], options["search"]
    tokenizer = tf.AutoTokenizer.from_pretrained(header["base"])
    model = tf.AutoModelForCausalLM.from_pretrained(header["base"], dtype=torch.float32)
    host = Host(model)
    written, ours = statements(folder)
    facts = []
    for one in written:
        wrap = [context.replace("{}", one["prompt"], 1) for context in ["{}", *header["contexts"]]]
        facts.append({
            "prompts": [prompt(tokenizer, text, one["subject"], options["lookup"]) for text in wrap],
            "essence": prompt(tokenizer, "{} is a", one["subject"], options["lookup"]),
            "target": tokenizer(" " + one["target"].strip(), add_special_tokens=False)["input_ids"],
        })
    with safe_open(folder / "moments.safetensors", "pt") as file:
        tokens = int(file.metadata()["tokens"])
        moments = {layer: file.get_tensor(str(layer)) / tokens for layer in layers}
    before = {layer: host.weight(layer).clone() for layer in layers}
    memory = {layer: torch.zeros_like(moments[layer]) for layer in layers}
    steps, begun = [], time.perf_counter()
    for start in range(0, len(facts), batch):
        part = facts[start : start + batch]
        if name == "rome":
            steps.append(rome(host, part[0], layers[0], moments[layers[0]], search)[0])
            continue
        # Our weights are multiples of the model's own units, which differ by layer.
        scale = {layer: moments[layer].trace().item() for layer in layers}
        width = len(moments[layers[0]])
        weighted = {layer: moments[layer] * options["moment_weight"] * width / scale[layer]
                    + options["norm_weight"] * scale[layer] * torch.eye(width, dtype=torch.double) for layer in layers}
        steps += memit(host, part, layers, weighted, memory, search, 1.0, 0.0)[0]
    seconds = time.perf_counter() - begun
    theirs = torch.cat([(host.weight(layer) - before[layer]).flatten() for layer in layers])
    both = torch.cat([ours[layer].flatten() for layer in layers])
    cosine = (theirs @ both / theirs.norm() / both.norm()).item()
    print(json.dumps({"seconds": seconds, "steps": sum(steps) / len(steps), "cosine": cosine}))


main()
