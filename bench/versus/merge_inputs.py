"""Makes the checkpoints that merge.py merges, and compares two results.

    python merge_inputs.py make FOLDER
    python merge_inputs.py compare OURS PEER METHOD

528 M parameters in bf16: a Llama of 36 layers, width 1024, MLP 2816, 32,000 words; `a`, `b`, `c` are `base` with normal noise
of a fine-tune's size.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "parity"))
import llama  # noqa: E402

LAYERS, WIDTH, HIDDEN, WORDS = 36, 1024, 2816, 32000
CONFIG = llama.config(LAYERS, WIDTH, HIDDEN, WORDS, heads=16, positions=2048, dtype="bfloat16")


def tensors(number):
    for index, (name, shape) in enumerate(llama.shapes(LAYERS, WIDTH, HIDDEN, WORDS)):
        base = torch.randn(shape, generator=torch.Generator().manual_seed(index)) * 0.02
        if number:
            base += torch.randn(shape, generator=torch.Generator().manual_seed(1000 * number + index)) * 0.001
        yield name, base.to(torch.bfloat16)


def make(folder):
    for number, name in enumerate(["base", "a", "b", "c"]):
        place = folder / name
        place.mkdir(parents=True, exist_ok=True)
        save_file(dict(tensors(number)), place / "model.safetensors", metadata={"format": "pt"})
        (place / "config.json").write_text(json.dumps(CONFIG))
    (folder / "done").write_text("")


def opened(folder):
    """Name -> file that holds it."""
    files = [safe_open(path, "pt") for path in sorted(folder.glob("*.safetensors"))]
    return {name: file for file in files for name in file.keys()}


def compare(ours, peer, method):
    """Largest and root mean square difference relative to the largest weight. The peer computes in bf16, so single weights differ
    by some of its units of the last place (2^-8), for TIES also by entries on the edge of the trimming and by signs of sums that
    rounding decides; for DARE the masks differ, and the root mean squares of both are compared."""
    a, b = opened(ours), opened(peer)
    if a.keys() != b.keys():
        sys.exit(f"names differ: {sorted(a.keys() ^ b.keys())[:5]}")
    square, total, count, sizes = 0.0, 0.0, 0, [0.0, 0.0]
    for name in list(a)[::7]:
        x, y = a[name].get_tensor(name).float(), b[name].get_tensor(name).float()
        square += (x - y).square().sum().item()
        total += y.square().sum().item()
        sizes[0] += x.square().sum().item()
        sizes[1] += y.square().sum().item()
        count += x.numel()
    relative, norms = (square / total) ** 0.5, (sizes[0] / sizes[1]) ** 0.5
    print(f"difference {relative:.2e} of the norm, norms {norms:.5f}")
    limit = 0.1 if method == "dare_ties" else 0.02 if method == "ties" else 0.004
    sys.exit(0 if relative < limit and abs(norms - 1) < 0.01 else 1)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]))
    else:
        compare(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
