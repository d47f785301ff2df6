"""Shared parts of the fixture makers: seeds, random parameters, files, versions.

Every maker in this folder writes small safetensors files that the Rust tests read. A maker is
re-runnable: the same versions of the packages (`VERSIONS.json`) and the same seeds give the same
numbers up to the last bits of the linear algebra of the machine.
"""

import importlib.metadata
import json
import platform
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parent
FOLDER_LIMIT = 120 * 1024  # bytes in one case: fixtures live in the repository
PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy")


def start():
    """One thread and eager f32 arithmetic: the same sums in the same order on each run."""
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.set_grad_enabled(False)
    transformers.utils.logging.disable_progress_bar()


def randomise(model, seed, spread=0.35):
    """Sets every parameter, norms and biases too, to its usual centre plus normal noise.

    Fresh models have unit norms and zero biases, which hide a forgotten bias or a swapped norm.
    Norm weights are centred on 1; matrices get `spread`, vectors 0.2.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.named_parameters()):
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() == 1:
            is_scale = name.endswith("weight") and "norm" in name.lower() or ".ln_" in name and name.endswith("weight")
            tensor.data.copy_(noise * 0.2 + (1.0 if is_scale else 0.0))
        else:
            tensor.data.copy_(noise * spread)
    model.tie_weights()
    return model.eval()


def fresh(folder):
    """An empty folder in the place of whatever an earlier run left."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def save_tensors(path, tensors, metadata=None):
    """Writes tensors contiguous and unshared, in sorted order."""
    plain = {k: v.detach().clone().contiguous() for k, v in sorted(tensors.items())}
    save_file(plain, str(path), metadata=metadata)
    path.chmod(0o644)


def save_json(path, value):
    """Writes readable JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def write_versions(folder, made_by):
    """Records what made the fixtures of `folder`."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    save_json(folder / "VERSIONS.json", {"made_by": made_by, "python": platform.python_version(), **found})


def check_size(folder):
    """The bytes of a case; too large a case is an error here, not in review."""
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    if size > FOLDER_LIMIT:
        raise SystemExit(f"{folder.name}: {size} bytes, at most {FOLDER_LIMIT} wanted")
    return size
