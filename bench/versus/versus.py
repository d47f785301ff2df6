"""Runs the same work in Modelsmith and in its peer, by turns, and compares time, memory and results.

    python versus.py tune|bf16 [NAME ...] [--runs K] [--only ours|peer] [--quick] [--list]

Every measurement is a process of its own; times are medians over its timed steps, then over the runs.
This file imports nothing heavy: a child's peak memory as the system accounts it includes that of the
parent it was forked from.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import math
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
PROGRAM = Path(os.environ.get("MODELSMITH_PROGRAM", ROOT / "target" / "release" / "modelsmith"))
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelsmith" / "versus"
THREADS = os.environ.get("MODELSMITH_THREADS") or str(len(os.sched_getaffinity(0)))
ENVIRONMENT = os.environ | dict(RAYON_NUM_THREADS=THREADS, OMP_NUM_THREADS=THREADS, MKL_NUM_THREADS=THREADS,
                                TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

# ---- The jobs -----------------------------------------------------------------------------------

LORA = dict(rank=8, alpha=16, target_modules="all-linear")
PROMPT = dict(virtual_tokens=20)
# What turns bf16 on in a recipe of ours.
BF16 = {"train.dtype": "bf16"}


@dataclasses.dataclass(frozen=True)
class Train:
    """A training step; `timed` steps of each process count, after `warm` that do not."""
    shape: str
    method: str
    options: dict = dataclasses.field(default_factory=dict)
    batch: int = 8
    length: int = 128
    learning_rate: float = 1e-3
    clip_norm: float = 1.0
    task: str = "tokens"
    dtype: str = "f32"
    peer: str = "transformers"
    warm: int = 3
    timed: int = 6
    memory: bool = False

    def title(self):
        method = f"{self.method} {self.options}" if self.options else self.method
        return f"training step, {self.shape}, {method}, batch {self.batch} x {self.length}, {self.dtype}; peer {self.peer}"


@dataclasses.dataclass(frozen=True)
class Generate:
    """Greedy generation with a key-value cache; seconds of all `tokens` of all rows."""
    shape: str
    batch: int
    tokens: int = 128
    prompt: int = 32
    memory: bool = False

    def title(self):
        return f"generation, {self.shape}, {self.batch} x {self.tokens} tokens after {self.prompt}; peer transformers"


@dataclasses.dataclass(frozen=True)
class Start:
    """Seconds of a whole process that reads a checkpoint and gives one token, files in the cache."""
    shape: str
    memory: bool = False

    def title(self):
        return f"start to the first token, {self.shape}; peer transformers"


long = functools.partial(dataclasses.replace, batch=1, length=512)
lora_15m = Train("15m", "lora", LORA, memory=True)
lora_124m = Train("124m", "lora", LORA, warm=2, timed=3, memory=True)
full_15m = Train("15m", "full", learning_rate=1e-4, memory=True)
full_124m = Train("124m", "full", learning_rate=1e-5, warm=2, timed=3)

JOBS = {
    "tune": {
        "lora_15m": lora_15m,
        "lora_124m": lora_124m,
        "full_15m": full_15m,
        "full_124m": full_124m,
        "full_15m_torch": dataclasses.replace(full_15m, peer="torch", clip_norm=0.0, memory=False),
        "prompt_15m": Train("15m", "prompt_tuning", PROMPT),
        "bert_base": Train("bert", "full", learning_rate=1e-5, task="classes", warm=2, timed=3),
        "generate_b1": Generate("15m", 1),
        "generate_b8": Generate("15m", 8),
        "start_500mb": Start("124m"),
    },
    "bf16": {
        "lora_15m_bf16": dataclasses.replace(lora_15m, dtype="bf16", memory=False),
        "lora_124m_bf16": dataclasses.replace(lora_124m, dtype="bf16", memory=False),
    },
}
# Run when named, or all of them by the name `extra`.
EXTRA = {
    "tune": {
        "lora_15m_long": long(lora_15m),
        "lora_124m_long": long(lora_124m),
        "full_15m_long": long(full_15m),
        "full_124m_long": long(full_124m),
        "generate_124m_b1": Generate("124m", 1),
        "generate_124m_b8": Generate("124m", 8),
    },
    "bf16": {},
}
# Names that the table will have once there are hosts for them.
ABSENT = {
    "tune": {
        "resnet20": "no host for residual networks yet",
        "vit_tiny": "no host for vision transformers yet",
    },
    "bf16": {},
}


class Skip(Exception):
    """A figure that cannot be taken, with the reason."""


class Disagree(Exception):
    """Both sides ran, and did not compute the same thing (or one of them failed)."""


@dataclasses.dataclass
class Ended:
    """A process that is over: its output, its time, its peak resident bytes, and the share of the processor
    that others took meanwhile."""
    text: str
    seconds: float
    memory: int
    others: float


@dataclasses.dataclass
class Measured:
    """What one process gave: seconds a unit of work, and what the other side must agree with."""
    seconds: float
    process: Ended
    found: dict


# ---- Processes ----------------------------------------------------------------------------------

def busy_seconds():
    """Seconds that all processors together have worked since the system started."""
    user, nice, system, _, _, interrupt, soft, steal = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + interrupt + soft + steal) / os.sysconf("SC_CLK_TCK")


def call(command):
    """Runs a process to its end."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        busy, started = busy_seconds(), time.perf_counter()
        child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=err, env=ENVIRONMENT)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - started
        others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
        child.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace").strip())
    if child.returncode != 0:
        lines = texts[1].splitlines() or texts[0].splitlines() or ["no output"]
        errors = [line for line in lines if line.startswith("error")] or lines[-1:]
        raise Disagree(f"exit {child.returncode} of {Path(command[0]).name}: {errors[0]}")
    return Ended(texts[0], seconds, usage.ru_maxrss * 1024, max(0.0, others / seconds / os.cpu_count()))


def last_json(text):
    return json.loads(text.splitlines()[-1])


@functools.cache
def model(shape):
    """The folder of a shape, made where it is absent or was made by another version of its script."""
    folder = CACHE / shape
    stamp = f"{(HERE / 'shapes.py').read_text()}\n{importlib.metadata.version('transformers')}"
    if not (folder / "stamp").exists() or (folder / "stamp").read_text() != stamp:
        print(f"making {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        call([sys.executable, HERE / "shapes.py", shape, folder])
        (folder / "stamp").write_text(stamp)
    return folder


def prompts(job):
    """Texts of the generation: the first words of the data's rows."""
    rows = (json.loads(line) for line in (model(job.shape) / "tokens-128.jsonl").open())
    count, length = getattr(job, "batch", 1), getattr(job, "prompt", 32)
    return [" ".join(f"w{token}" for token in next(rows)["input_ids"][:length]) for _ in range(count)]


def data(job):
    folder = model(job.shape)
    return folder / ("classes.jsonl" if job.task == "classes" else f"tokens-{job.length}.jsonl")


# ---- Ours ---------------------------------------------------------------------------------------

def tune(job, folder, name, steps, learning_rate):
    """Trains in the run folder `folder/name`. Nothing but steps while they are timed."""
    settings = {f"method.{key}": value for key, value in job.options.items()}
    settings |= {"data.shuffle": False, "data.append_eos": False, "train.schedule": "constant",
                 "train.clip_norm": job.clip_norm, "train.save_every": 1_000_000}
    if job.task == "classes":
        settings |= {"data.format": "classification", "data.classes": ["0", "1"]}
    if job.dtype == "bf16":
        settings |= BF16
    # What JSON writes of these is TOML too.
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    command = [PROGRAM, "tune", "--quiet", "--host", model(job.shape), "--data", data(job), "--method", job.method,
               "--output", folder, "--name", name, "--steps", steps, "--seed", 1, "--batch-size", job.batch,
               "--lr", learning_rate, *changes]
    return call(command)


def known_methods():
    listed = last_json(call([PROGRAM, "methods", "--json"]).text)
    return {method["id"] for method in listed["methods"]}


def ours_train(job, folder):
    steps = job.warm + job.timed
    process = tune(job, folder, "ours", steps, job.learning_rate)
    records = [json.loads(line) for line in (folder / "ours" / "metrics.jsonl").open()]
    shutil.rmtree(folder / "ours")
    records = [record for record in records if record["kind"] == "train"]
    if len(records) != steps:
        raise Disagree(f"{len(records)} steps in metrics.jsonl, expected {steps}")
    seconds = [job.batch * job.length / record["tokens_per_second"] for record in records[job.warm:]]
    found = dict(losses=[record["loss"] for record in records], gradient_norm=records[0]["gradient_norm"])
    return Measured(statistics.median(seconds), process, found)


def ours_text(job, folder, tokens):
    """One call of `generate`; the texts without the prompts."""
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts(job)))
    command = [PROGRAM, "generate", "--host", model(job.shape), "--prompts", file, "--max-tokens", tokens, "--json"]
    process = call(command)
    return last_json(process.text), process


def texts(found):
    return dict(texts=[one["text"].strip() for one in found["completions"]])


def ours_generate(job, folder):
    found, process = ours_text(job, folder, job.tokens)
    # All prompts are one batch, and each tells the seconds of its batch.
    return Measured(found["completions"][0]["seconds"], process, texts(found))


def ours_start(job, folder):
    found, process = ours_text(job, folder, 1)
    return Measured(process.seconds, process, texts(found))


# ---- The peer -----------------------------------------------------------------------------------

def peer(job, **asked):
    """One call of peer.py."""
    asked |= dataclasses.asdict(job) | dict(kind=type(job).__name__.lower(), model=str(model(job.shape)))
    process = call([sys.executable, HERE / "peer.py", json.dumps(asked)])
    return last_json(process.text), process


def peer_train(job, folder):
    start = str(folder / "start" / "adapter")
    found, process = peer(job, data=str(data(job)), steps=job.warm + job.timed, start=start)
    return Measured(statistics.median(found.pop("seconds")[job.warm:]), process, found)


def peer_generate(job, folder):
    found, process = peer(job, prompts=prompts(job))
    return Measured(*found.pop("seconds"), process, found)


def peer_start(job, folder):
    found, process = peer(job, prompts=prompts(job))
    return Measured(process.seconds, process, found)


SIDES = {
    Train: dict(ours=ours_train, peer=peer_train),
    Generate: dict(ours=ours_generate, peer=peer_generate),
    Start: dict(ours=ours_start, peer=peer_start),
}


def prepare(job, folder, sides):
    """What must be there before anything is measured."""
    model(job.shape)
    if isinstance(job, Start):
        # Brings files into the cache of the system.
        for side in sides:
            SIDES[Start][side](job, folder)
    if not isinstance(job, Train) or (job.method == "full" and job.task != "classes"):
        return
    if job.method not in known_methods():
        raise Skip(f"this build has no method `{job.method}`")
    # One step at a rate that hardly moves anything: both sides then start from the values that ours draws.
    plain = dataclasses.replace(job, dtype="f32")
    tune(plain, folder, "start", 1, 1e-9)
    if job.dtype == "bf16":
        try:
            tune(job, folder, "probe", 1, 1e-9)
        except Disagree as error:
            raise Skip(f"this build does not train in bf16 ({error})") from error


# ---- Do both compute the same thing? ------------------------------------------------------------

def far(ours, theirs, tolerance):
    return not math.isclose(ours, theirs, rel_tol=tolerance, abs_tol=0.0)


def compare(job, ours, theirs):
    """Raises where results differ: tokens must be equal, losses close."""
    if "texts" in ours:
        if ours["texts"] != theirs["texts"]:
            raise Disagree("tokens differ")
        return
    loss, norm = (1e-4, 1e-3) if job.dtype == "f32" else (1e-2, 1e-1)
    for step, (a, b) in enumerate(zip(ours["losses"], theirs["losses"], strict=True)):
        if far(a, b, loss):
            raise Disagree(f"losses disagree: step {step + 1}, ours {a:.6f}, peer {b:.6f}")
    if far(ours["gradient_norm"], theirs["gradient_norm"], norm):
        raise Disagree(f"gradient norms disagree: ours {ours['gradient_norm']:.6f}, peer {theirs['gradient_norm']:.6f}")


# ---- The report ---------------------------------------------------------------------------------

def megabytes(value):
    return f"{value / 1e6:.0f} MB"


def line(job, side, runs):
    """One side's figures for people."""
    seconds = [run.seconds for run in runs]
    text = f"  {side}  {statistics.median(seconds):.4f} s ({min(seconds):.4f} to {max(seconds):.4f})"
    if isinstance(job, Generate):
        text += f", {job.batch * job.tokens / statistics.median(seconds):.1f} tokens/s"
    text += f", peak {megabytes(statistics.median(run.process.memory for run in runs))}"
    found = runs[0].found
    if "losses" in found:
        losses = found["losses"]
        text += f", losses {losses[0]:.5f} {losses[1]:.5f} .. {losses[-1]:.5f}, gradient norm {found['gradient_norm']:.5f}"
    else:
        text += f", text {' '.join(found['texts'][0].split()[:4])}"
    return text


def run(name, job, rounds, sides):
    """Measures a job by turns; gives its figures as lines."""
    print(f"{name}: {job.title()}", flush=True)
    runs = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        prepare(job, folder, sides)
        for _ in range(rounds):
            for side in sides:
                runs[side].append(SIDES[type(job)][side](job, folder))
    for side in sides:
        print(line(job, side, runs[side]), flush=True)
    if len(sides) < 2:
        return []
    for ours, theirs in zip(runs["ours"], runs["peer"]):
        compare(job, ours.found, theirs.found)
    median = {side: statistics.median(run.seconds for run in runs[side]) for side in sides}
    memory = {side: statistics.median(run.process.memory for run in runs[side]) for side in sides}
    others = statistics.mean(run.process.others for side in sides for run in runs[side])
    if others > 0.05:
        print(f"  warning: other processes took {others:.0%} of the processor meanwhile; these times mean little")
    figures = [f"RATIO {name} {median['peer'] / median['ours']:.3f}"]
    if job.memory:
        figures.append(f"MEM {name}_mem {memory['ours'] / memory['peer']:.3f}")
    return figures


def surroundings():
    """Machine and versions, in lines."""
    cpu = next((text.split(":")[1].strip() for text in Path("/proc/cpuinfo").read_text().splitlines()
                if text.startswith("model name")), "unknown processor")
    packages = " ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers", "peft"))
    print(f"# {cpu}, {THREADS} threads\n# {call([PROGRAM, '--version']).text}; {packages}", flush=True)


def chosen(options, parser):
    """The jobs that were asked for, and the absent ones."""
    jobs, extra, absent = JOBS[options.table], EXTRA[options.table], ABSENT[options.table]
    if options.list:
        print("\n".join([*jobs, *(f"{name} (extra)" for name in extra)]))
        sys.exit()
    if not options.names:
        return jobs, absent
    known = jobs | extra
    wanted = {}
    for name in options.names:
        if name == "extra":
            wanted |= extra
        elif name in absent:
            continue
        elif name.removesuffix("_mem") in known:
            wanted[name.removesuffix("_mem")] = known[name.removesuffix("_mem")]
        else:
            parser.error(f"no job is called {name}; known: {' '.join(known)}")
    return wanted, {name: reason for name, reason in absent.items() if name in options.names}


def quick(job):
    """The job with as few steps as show whether both sides agree."""
    fewer = dict(warm=1, timed=2) if isinstance(job, Train) else dict(tokens=16) if isinstance(job, Generate) else {}
    return dataclasses.replace(job, **fewer)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help="jobs (default: all but the extra ones)")
    parser.add_argument("--runs", type=int, default=5, metavar="K", help="processes of each side (default 5)")
    parser.add_argument("--only", choices=("ours", "peer"), help="measure one side; gives no ratio")
    parser.add_argument("--quick", action="store_true", help="one run of a few steps: do both sides agree?")
    parser.add_argument("--list", action="store_true", help="print the names of the jobs")
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    jobs, absent = chosen(options, parser)
    if options.quick:
        options.runs = 1
        jobs = {name: quick(job) for name, job in jobs.items()}
    if not PROGRAM.exists():
        parser.error(f"{PROGRAM} is missing: cargo build --release")
    surroundings()
    sides = [options.only] if options.only else ["ours", "peer"]
    figures, failed = [], False
    for name, job in jobs.items():
        try:
            figures += run(name, job, options.runs, sides)
        except (Skip, Disagree) as reason:
            failed |= isinstance(reason, Disagree)
            figures += [f"SKIP {figure} {reason}" for figure in [name, *[f"{name}_mem"] * job.memory]]
    figures += [f"SKIP {name} {reason}" for name, reason in absent.items()]
    print("\n".join(figures))
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
