"""Merges 1 GB checkpoints with Modelsmith and with mergekit, by turns, and compares time, memory and weights.

    python merge.py [NAME ...] [--runs K] [--sync] [--list]

Times are those of whole processes. Inputs are in the page cache on both sides (each is read once before). mergekit leaves it
to the system when its output reaches the disk, so ours runs with `--no-sync` unless `--sync` is given. Both must come to the same
weights where the method is deterministic; for DARE, whose masks differ, to weights of the same statistics. Imports nothing heavy
itself: a child's peak memory as the system accounts it includes that of its parent.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(os.environ.get("MODELSMITH_PROGRAM", ROOT / "target" / "release" / "modelsmith")).resolve()
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsmith" / "versus" / "merge"
THREADS = os.environ.get("MODELSMITH_THREADS") or str(len(os.sched_getaffinity(0)))
ENVIRONMENT = os.environ | dict(RAYON_NUM_THREADS=THREADS, OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS, HF_HUB_OFFLINE="1")

TASKS = """base_model: base
models:
  - {model: a, parameters: {weight: 0.5, density: 0.4}}
  - {model: b, parameters: {weight: 0.3, density: 0.4}}
  - {model: c, parameters: {weight: 0.4, density: 0.4}}
dtype: bfloat16
"""
JOBS = {
    "linear": "merge_method: linear\nmodels:\n  - {model: a, parameters: {weight: 0.5}}\n  - {model: b, parameters: {weight: 0.3}}\n"
              "  - {model: c, parameters: {weight: 0.4}}\ndtype: bfloat16\n",
    "ties": "merge_method: ties\n" + TASKS,
    "dare_ties": "merge_method: dare_ties\n" + TASKS,
    "slerp": "merge_method: slerp\nbase_model: a\nmodels:\n  - {model: a}\n  - {model: b}\nparameters: {t: 0.4}\ndtype: bfloat16\n",
}
MEMORY = ("linear", "ties")


def measured(command, folder):
    """Runs a child; its seconds and its peak resident memory in MB."""
    started = time.perf_counter()
    with tempfile.TemporaryFile() as err:
        child = subprocess.Popen([str(word) for word in command], cwd=folder, stdout=subprocess.DEVNULL, stderr=err, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status):
            err.seek(0)
            sys.exit(f"failed: {' '.join(map(str, command))}\n{err.read().decode()[-2000:]}")
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def warm(folder):
    """Reads all inputs once; the seconds say what the disk or the cache gives."""
    started, size = time.perf_counter(), 0
    for file in sorted(folder.glob("*/model*.safetensors")):
        with open(file, "rb", buffering=0) as data:
            while block := data.read(1 << 24):
                size += len(block)
    return size / (time.perf_counter() - started) / 1e9


def compare(name, runs, sync):
    ours, peers = CACHE / "out-ours", CACHE / "out-peer"
    (CACHE / "job.yml").write_text(JOBS[name])
    flags = [] if sync else ["--no-sync"]
    commands = {
        "ours": [PROGRAM, "delta", "merge", "job.yml", "--output", ours, "--quiet", "--memory", "1GB", *flags],
        "peer": [Path(sys.executable).parent / "mergekit-yaml", "job.yml", peers, "--no-write-model-card", "--quiet"],
    }
    found = {side: [] for side in commands}
    for _ in range(runs):
        for side, command in commands.items():
            shutil.rmtree(ours if side == "ours" else peers, ignore_errors=True)
            rate = warm(CACHE)
            found[side].append(measured(command, CACHE))
    same = subprocess.run([sys.executable, HERE / "merge_inputs.py", "compare", ours, peers, name], capture_output=True, text=True)
    seconds = {side: statistics.median(one[0] for one in all) for side, all in found.items()}
    memory = {side: max(one[1] for one in all) for side, all in found.items()}
    read = (3 if name == "linear" else 2 if name == "slerp" else 4) * 1.056
    print(f"{name:10} ours {seconds['ours']:6.2f} s ({(read + 1.056) / seconds['ours']:.2f} GB/s in and out; reading alone {rate:.1f} GB/s), {memory['ours']:5.0f} MB | "
          f"peer {seconds['peer']:6.2f} s, {memory['peer']:5.0f} MB | {same.stdout.strip()}")
    if same.returncode:
        sys.exit(f"{name}: the two did not come to the same weights: {same.stdout}{same.stderr[-500:]}")
    print(f"RATIO {name} {seconds['peer'] / seconds['ours']:.2f}")
    if name in MEMORY:
        print(f"MEM {name}_mem {memory['ours'] / memory['peer']:.3f}")
    sys.stdout.flush()
    for folder in (ours, peers):
        shutil.rmtree(folder, ignore_errors=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--sync", action="store_true")
    parser.add_argument("--list", action="store_true")
    words = parser.parse_args()
    if words.list:
        print("\n".join([*JOBS, *(f"{name}_mem" for name in MEMORY)]))
        return
    wanted = [name.removesuffix("_mem") for name in words.names] or list(JOBS)
    unknown = [name for name in wanted if name not in JOBS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(JOBS)}")
    if not (CACHE / "done").exists():
        subprocess.run([sys.executable, HERE / "merge_inputs.py", "make", CACHE], check=True)
    for name in dict.fromkeys(wanted):
        compare(name, words.runs, words.sync)


main()
