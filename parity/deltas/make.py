"""Merges of tiny checkpoints by mergekit, as fixtures for our tests.

    python parity/deltas/make.py          # in an environment with mergekit==0.1.5, peft==0.21.2

Writes the models (`base`, `a`, `b`, `c`: Llama names, two layers, f32), the configurations, and what mergekit made of
them; for random methods, whose masks differ, nothing. `peft.safetensors` holds task vectors and what
`peft.utils.merge_utils` makes of them.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import llama  # noqa: E402

HERE = Path(__file__).resolve().parent
LAYERS, WIDTH, HIDDEN, WORDS = 2, 8, 12, 16
CONFIG = llama.config(LAYERS, WIDTH, HIDDEN, WORDS, heads=2, positions=32, dtype="float32")


def models():
    generator = torch.Generator().manual_seed(16)
    base = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in llama.shapes(LAYERS, WIDTH, HIDDEN, WORDS)}
    yield "base", base
    for name in "abc":
        yield name, {key: value + torch.randn(value.shape, generator=generator) * 0.02 for key, value in base.items()}


TASKS = """models:
  - model: base
  - model: a
    parameters: {weight: 0.7, density: 0.5}
  - model: b
    parameters: {weight: [0.2, 0.9], density: [0.3, 0.8]}
  - model: c
    parameters:
      density: 0.4
      weight:
        - {filter: mlp, value: 0.5}
        - {value: -0.3}
base_model: base
"""
THREE = "models: [{model: a}, {model: b}, {model: c}]\n"
CASES = {
    "linear": "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 0.3}}\n  - {model: b, parameters: {weight: [0.2, 1.0]}}\n",
    "linear_sum": "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 0.3}}\n  - {model: b, parameters: {weight: 0.4}}\nparameters: {normalize: false}\n",
    "task_arithmetic": "merge_method: task_arithmetic\n" + TASKS + "parameters: {lambda: 0.8}\n",
    "ties": "merge_method: ties\n" + TASKS,
    "ties_sum": "merge_method: ties\n" + TASKS + "parameters: {normalize: false, lambda: 1.5, int8_mask: true}\n",
    "breadcrumbs": "merge_method: breadcrumbs\n" + TASKS + "parameters: {gamma: 0.1}\n",
    "breadcrumbs_ties": "merge_method: breadcrumbs_ties\n" + TASKS + "parameters: {gamma: 0.2, normalize: true}\n",
    "slerp": "merge_method: slerp\nbase_model: a\nslices:\n  - sources:\n      - {model: a, layer_range: [0, 2]}\n      - {model: b, layer_range: [0, 2]}\n"
             "parameters:\n  t:\n    - {filter: self_attn, value: [0, 0.7]}\n    - {filter: mlp, value: [1, 0.4]}\n    - {value: 0.5}\n",
    "nuslerp": "merge_method: nuslerp\nmodels:\n  - {model: a, parameters: {weight: 0.3}}\n  - {model: b, parameters: {weight: 0.9}}\n",
    "nuslerp_base": "merge_method: nuslerp\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 0.3}}\n  - {model: b, parameters: {weight: 0.9}}\n",
    "multislerp": "merge_method: multislerp\nmodels:\n  - {model: a, parameters: {weight: 0.3}}\n  - {model: b, parameters: {weight: 0.9}}\n  - {model: c, parameters: {weight: 0.4}}\n",
    "multislerp_base": "merge_method: multislerp\nbase_model: base\nmodels:\n  - {model: a, parameters: {weight: 0.3}}\n  - {model: b, parameters: {weight: 0.9}}\n",
    "karcher": "merge_method: karcher\n" + THREE,
    "model_stock": "merge_method: model_stock\nbase_model: base\n" + THREE,
    "passthrough": "merge_method: passthrough\nslices:\n  - sources: [{model: a, layer_range: [0, 2]}]\n  - sources:\n      - model: b\n        layer_range: [1, 2]\n        parameters:\n"
                   "          scale:\n            - {filter: o_proj, value: 0.5}\n            - {value: 1.0}\n  - sources: [{model: b, layer_range: [0, 1]}]\n",
    "slices": "merge_method: linear\nslices:\n  - sources:\n      - {model: a, layer_range: [0, 1], parameters: {weight: [0.1, 0.9]}}\n      - {model: b, layer_range: [1, 2], parameters: {weight: 0.5}}\n"
              "  - sources:\n      - {model: b, layer_range: [0, 2], parameters: {weight: [0.3, 0.9]}}\n      - {model: c, layer_range: [0, 2], parameters: {weight: 0.5}}\n",
}


def merge(folder, name, text):
    (folder / f"{name}.yml").write_text(text + "dtype: float32\n")
    command = [Path(sys.executable).parent / "mergekit-yaml", f"{name}.yml", f"out-{name}", "--no-write-model-card"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | dict(HF_HUB_OFFLINE="1"))
    found = folder / f"out-{name}" / "model.safetensors"
    if done.returncode or not found.exists():
        print(f"{name}: {done.stderr[-800:]}", file=sys.stderr)
        return None
    return load_file(found)


def peft():
    from peft.utils import merge_utils

    generator = torch.Generator().manual_seed(5)
    tasks = [torch.randn(12, 10, generator=generator) for _ in range(3)]
    weights = torch.tensor([0.7, 0.4, 1.2])
    out = {f"task_{i}": task for i, task in enumerate(tasks)}
    out["weights"] = weights
    out["ties"] = merge_utils.ties(tasks, weights, density=0.4)
    out["magnitude_prune"] = merge_utils.magnitude_prune(tasks, weights, density=0.4)
    out["task_arithmetic"] = merge_utils.task_arithmetic(tasks, weights)
    save_file({name: value.contiguous() for name, value in out.items()}, HERE / "peft.safetensors")


def main():
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        stored = {}
        for name, tensors in models():
            (folder / name).mkdir()
            save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
            (folder / name / "config.json").write_text(json.dumps(CONFIG))
            stored |= {f"{name}/{key}": value for key, value in tensors.items()}
        expected = {}
        for name, text in CASES.items():
            found = merge(folder, name, text)
            if found is not None:
                expected |= {f"{name}/{key}": value.float() for key, value in found.items()}
                print(name, len(found))
    save_file(stored, HERE / "models.safetensors")
    save_file(expected, HERE / "mergekit.safetensors")
    versions = {name: importlib.metadata.version(name) for name in ("mergekit", "peft", "torch", "safetensors")}
    (HERE / "cases.json").write_text(json.dumps(dict(versions=versions, config=CONFIG, cases={n: t + "dtype: float32\n" for n, t in CASES.items()}), indent=1) + "\n")
    peft()


main()
