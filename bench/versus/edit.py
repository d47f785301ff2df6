"""Edits the house model with Modelsmith and with PyTorch, by turns, and compares time, memory and changes.

    python edit.py [NAME ...] [--runs K] [--list]

Both edit the same facts in the same tokens with the same contexts and moments (the peer takes them from our
folder of edits), and must come to nearly the same change of the weights. Times are those of the edits
alone: loading, contexts and moments are left out on both sides. Imports nothing heavy: a child's peak memory as
the system accounts it includes that of its parent.
"""

import argparse
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PROGRAM = Path(os.environ.get("MODELSMITH_PROGRAM", ROOT / "target" / "release" / "modelsmith"))
HOUSE = ROOT / "assets" / "house"
THREADS = os.environ.get("MODELSMITH_THREADS") or str(len(os.sched_getaffinity(0)))
ENVIRONMENT = os.environ | dict(RAYON_NUM_THREADS=THREADS, OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS,
                                TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")


@dataclasses.dataclass(frozen=True)
class Job:
    method: str
    facts: int
    batch: int
    runs: int
    memory: bool = False


JOBS = {
    "rome_1": Job("rome", 12, 1, 3),
    "memit_1": Job("memit", 12, 1, 3),
    "encore_1": Job("encore", 12, 1, 3),
    "memit_1000": Job("memit", 1000, 1000, 1, memory=True),
    "encore_1000": Job("encore", 1000, 1000, 1),
}
# Where the house model keeps its facts: at the last token of the prompt, in the middle blocks.
OPTIONS = {
    "rome": ['method.lookup="prompt_last"', "method.layers=[2]"],
    "memit": ['method.lookup="prompt_last"', "method.layers=[1,2]"],
    "encore": ['method.lookup="prompt_last"', "method.layers=[1,2]"],
}


def measured(command):
    """Runs a child; its last line as JSON, with its peak memory in MB."""
    with tempfile.TemporaryFile() as out:
        child = subprocess.Popen([str(word) for word in command], stdout=out, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        if os.waitstatus_to_exitcode(status):
            sys.exit(f"failed: {' '.join(map(str, command))}")
        out.seek(0)
        found = json.loads(out.read().decode())
    return found | {"peak_mb": usage.ru_maxrss / 1024}


def requests(folder, count):
    """Facts of the house, each with another object than the true one, as a file."""
    subprocess.run([PROGRAM, "data", "house", HOUSE, "--quiet"], check=True, stdout=subprocess.DEVNULL)
    path = folder / "requests.jsonl"
    with open(HOUSE / "facts.jsonl") as facts, open(path, "w") as out:
        for number, line in zip(range(count), facts):
            fact = json.loads(line)
            keys = dict(id=str(number), prompt=fact["templates"][0], subject=fact["subject"], target_new=fact["target_new"])
            out.write(json.dumps(keys) + "\n")
    return path


def ours(job, facts, folder):
    shutil.rmtree(folder, ignore_errors=True)
    flags = [word for option in OPTIONS[job.method] for word in ("--set", option)]
    command = [PROGRAM, "edit", "--host", HOUSE, "--requests", facts, "--output", folder, "--method", job.method,
               "--batch", job.batch, "--corpus", HOUSE / "corpus.jsonl", "--corpus-limit", 2000, "--guard", "off", "--json", "--quiet", *flags]
    return measured(command)


def peer(job, folder):
    return measured([sys.executable, HERE / "edit_peer.py", folder, job.batch])


def compare(name, job, runs):
    with tempfile.TemporaryDirectory() as temporary:
        temporary = Path(temporary)
        facts, folder = requests(temporary, job.facts), temporary / "edits"
        times, memory = ([], []), ([], [])
        for _ in range(runs or job.runs):
            a = ours(job, facts, folder)
            b = peer(job, folder)
            for side, found in enumerate((a, b)):
                times[side].append(found["seconds"] / job.facts)
                memory[side].append(found["peak_mb"])
    here, there = map(statistics.median, times)
    print(f"{name:12} ours {here * 1e3:8.1f} ms an edit, {a['steps']:.1f} steps, {max(memory[0]):6.0f} MB | "
          f"peer {there * 1e3:8.1f} ms, {b['steps']:.1f} steps, {max(memory[1]):6.0f} MB | cosine of the changes {b['cosine']:.5f}")
    if b["cosine"] < 0.98:
        sys.exit(f"{name}: the two did not make the same change of the weights")
    print(f"RATIO {name} {there / here:.2f}")
    if job.memory:
        print(f"MEM {name}_mem {max(memory[0]) / max(memory[1]):.3f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--runs", type=int)
    parser.add_argument("--list", action="store_true")
    words = parser.parse_args()
    if words.list:
        print("\n".join([*JOBS, *(f"{name}_mem" for name, job in JOBS.items() if job.memory)]))
        return
    wanted = [name.removesuffix("_mem") for name in words.names] or list(JOBS)
    unknown = [name for name in wanted if name not in JOBS]
    if unknown:
        sys.exit(f"unknown: {', '.join(unknown)}; known: {', '.join(JOBS)}")
    for name in dict.fromkeys(wanted):
        compare(name, JOBS[name], words.runs)


main()
