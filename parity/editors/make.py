"""Makes `parity/editors/<host>.json`: edits of the random hosts of `parity/hosts` by `editing.py`.

    python parity/editors/make.py

A file holds the facts in tokens and the options, and for every case the target activations, steps,
losses, and the changes of the edited weights (to 7 digits). The moment is a formula: see `moment`.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers as tf

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
from editing import Host, grace_value, memit, rome, search  # noqa: E402
from fixtures import start  # noqa: E402

OPTIONS = {
    "steps": 12,
    "learning_rate": 0.1,
    "weight_decay": 0.5,
    "kl_factor": 0.0625,
    "clamp": 4.0,
    "loss_stop": 0.05,
    "patience": 0,
}


# A search that is free enough to reach its answers, and stops there.
PATIENT = {"steps": 60, "learning_rate": 1.0, "clamp": 100.0, "weight_decay": 0.0, "patience": 2}


def facts(generator, count, contexts, behind=4):
    """Random facts: subjects of one to three tokens, some at the very start, answers of one to three.

    Fewer than `behind` tokens stand behind a subject. With 1 the answer is predicted where the fact is looked up, so
    that it depends on the last block too; where it does not, Adam follows rounding errors.
    """
    draw = lambda low, high: int(torch.randint(low, high, (1,), generator=generator))
    tokens = lambda count: [draw(3, 80) for _ in range(count)]
    prefixes = [tokens(draw(2, 6)) for _ in range(contexts)]
    found = []
    for number in range(count):
        before, subject, after = tokens(number % 3), tokens(draw(1, 4)), tokens(draw(0, behind))
        lookup = len(before) + len(subject) - 1
        prompt = before + subject + after
        prompts = [{"ids": prompt, "lookup": lookup}]
        prompts += [{"ids": prefix + prompt, "lookup": len(prefix) + lookup} for prefix in prefixes]
        essence = {"ids": subject + tokens(2), "lookup": len(subject) - 1}
        found.append({"prompts": prompts, "essence": essence, "target": tokens(draw(1, 4))})
    return found


def moment(width):
    """A second moment without a random number: diagonal of 1 to 2, and neighbours that go together."""
    places = torch.arange(width, dtype=torch.double)
    matrix = torch.diag(1 + places / width)
    matrix += 0.25 * (torch.diag(torch.ones(width - 1, dtype=torch.double), 1) + torch.diag(torch.ones(width - 1, dtype=torch.double), -1))
    return matrix


def digits(tensor):
    return [float(f"{value:.7g}") for value in tensor.flatten().tolist()]


def changes(before, after, layers):
    return {str(layer): digits(after.weight(layer) - before.weight(layer)) for layer in layers}


def case(model, name):
    generator = torch.Generator().manual_seed(5)
    batch = facts(generator, 4, 3)
    ends = facts(generator, 4, 3, 1)
    base = Host(model)
    width = base.mlps[0].weight.shape[0 if base.transposed else 1]
    square = moment(width)
    patient = {**OPTIONS, **PATIENT}
    out = {"options": OPTIONS, "patient": patient, "facts": batch, "ends": ends, "searches": {}, "edits": {}}
    for reference in ("block", "mlp", "attention_and_mlp"):
        rows = [search(base, fact, 0, reference, OPTIONS) for fact in batch]
        out["searches"][reference] = [{"value": digits(value), "steps": steps, "loss": loss} for value, steps, loss in rows]
    rows = [search(base, fact, 0, "block", patient) for fact in batch]
    out["searches"]["patient"] = [{"value": digits(value), "steps": steps, "loss": loss} for value, steps, loss in rows]
    size = base.weight(0).shape[0]
    begun = torch.linspace(0, 1, size)
    value, losses = grace_value(base, batch[0], 0, begun, 100, 1.0)
    out["grace"] = {"value": digits(value), "losses": losses[:10]}
    for key, consistent in (("rome", False), ("c_rome", True)):
        host = Host(copy.deepcopy(model))
        rome(host, ends[1], 0, square, OPTIONS, consistent)
        out["edits"][key] = changes(base, host, [0])
    for key, ridge, reference in (("memit", 0.0, "block"), ("encore", 1.5, "block"), ("pmet", 0.0, "attention_and_mlp")):
        host = Host(copy.deepcopy(model))
        memory = {layer: torch.zeros_like(square) for layer in (0, 1)}
        moments = {0: square, 1: square}
        for begin in (0, 2):
            memit(host, ends[begin : begin + 2], [0, 1], moments, memory, OPTIONS, 0.7, ridge, reference)
        out["edits"][key] = changes(base, host, [0, 1])
    text = json.dumps(out, separators=(",", ":"))
    (HERE / f"{name}.json").write_text(text + "\n")
    print(name, len(text))


def main():
    start()
    for name in ("gpt2", "llama_gqa_untied"):
        model = tf.AutoModelForCausalLM.from_pretrained(HERE.parent / "hosts" / name, dtype=torch.float32, attn_implementation="eager")
        case(model, name)


main()
