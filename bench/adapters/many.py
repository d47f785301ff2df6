"""Loads copies of a LoRA adapter of rank 8 on all linear layers onto one host, and prints what they take.

    python many.py [SHAPE ...]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MODELSMITH_PROGRAM", ROOT / "target" / "release" / "modelsmith"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsmith" / "versus"
SHAPES = ("house", "15m", "124m")
COUNTS = (0, 100, 400)


def host(shape):
    if shape == "house":
        return ROOT / "assets" / "house"
    folder = CACHE / shape
    if not (folder / "config.json").is_file():
        subprocess.run([sys.executable, ROOT / "bench" / "versus" / "shapes.py", shape, folder], check=True)
    return folder


def adapter(folder, model):
    """A LoRA adapter after one step; its weights do not matter."""
    rows = folder / "rows.jsonl"
    rows.write_text('{"text": "w1 w2 w3 w4"}\n' * 4)
    options = ["method.rank=8", 'method.target_modules="all-linear"', "output.samples=0", "data.batch_size=2", "data.append_eos=false"]
    words = [PROGRAM, "tune", "--host", model, "--data", rows, "--method", "lora", "--steps", "1", "--quiet"]
    words += ["--output", folder, "--name", "lora"] + [word for option in options for word in ("--set", option)]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return folder / "lora" / "adapter"


def resident(folder, model, adapter, count):
    """Resident bytes of the process with `count` adapters, and the adapters' own."""
    loads = [json.dumps({"load": str(number), "folder": str(adapter)}) for number in range(count)]
    requests = folder / "requests.jsonl"
    requests.write_text("\n".join(loads + ['{"costs": true}']) + "\n")
    words = [PROGRAM, "serve", "--host", model, "--requests", requests, "--quiet"]
    lines = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    costs = json.loads(lines[-1])
    assert len(costs["costs"]) == count, lines[-1][:500]
    return costs["resident_bytes"], sum(cost["bytes"] for cost in costs["costs"])


def main(shapes):
    print("| host | adapters | resident | grown | own bytes | grown / own |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for shape in shapes or SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            folder, model = Path(folder), host(shape)
            made = adapter(folder, model)
            alone = None
            for count in COUNTS:
                total, own = resident(folder, model, made, count)
                alone = total if alone is None else alone
                grown = total - alone
                rest = f"{grown / 1e6:.1f} MB | {own / 1e6:.1f} MB | {grown / own:.2f}" if count else "| |"
                print(f"| {shape} | {count} | {total / 1e6:.1f} MB | {rest} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
