"""Compares our logits with PEFT's on the same adapters, trained here or saved by PEFT.

    bench/parity/peft.sh [BASE] [--keep FOLDER] [--only NAME ...]

Prints `OK name difference` or `FAIL name reason` per case; the exit status is 1 where any failed.
The difference is the greatest |ours - theirs| over the greatest |theirs|, and may reach 1e-5. Beside it
stands the same measure between PEFT in f32 and PEFT in f64: what rounding alone makes of this base.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = Path(os.environ.get("MODELSMITH_PROGRAM", ROOT / "target" / "release" / "modelsmith"))
TOLERANCE = 1e-5

# ---- How the program is called: all that depends on its flags -----------------------------------

DEFAULT_BASE = ROOT / "assets" / "house"


def tune_command(base, data, out, settings):
    """Trains an adapter on the text file `data` for a few steps and writes it below `out`."""
    changes = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    return [PROGRAM, "tune", "--host", base, "--data", data, "--set", "data.document=line",
            "--output", out.parent, "--name", out.name, "--steps", "5", "--seed", "1", *changes]


def adapter_folder(out):
    """Where below the run folder the PEFT adapter lies."""
    return out / "adapter"


def dump_command(base, adapter, data, out):
    """Writes `input_ids` [rows, length] and `logits` [rows, length, vocabulary] to the file `out`."""
    return [PROGRAM, "eval", "--host", base, "--adapter", adapter, "--data", data, "--set", "data.document=line",
            "--task", "perplexity", "--dump-logits", out]


# Name -> settings of `tune`.
TRAINED_HERE = {
    "lora": {"method.rank": 4},
    "rslora": {"method.name": "rslora", "method.rank": 4},
    "dora": {"method.name": "dora", "method.rank": 4},
    "all-linear": {"method.rank": 4, "method.target_modules": '"all-linear"'},
    "embedding": {"method.rank": 4, "method.target_modules": '["embed_tokens", "q_proj"]'},
    "adalora": {"method.name": "adalora", "method.init_r": 3, "method.target_r": 1, "method.tinit": 0, "method.tfinal": 2},
    "ia3": {"method.name": "ia3", "train.learning_rate": 0.05},
    "prompt-tuning": {"method.name": "prompt_tuning", "method.virtual_tokens": 4},
    "prefix-tuning": {"method.name": "p_tuning_v2", "method.virtual_tokens": 4},
    # One task: the rows of this check name none.
    "multitask-prompt": {"method.name": "multitask_prompt", "method.virtual_tokens": 4, "method.rank": 2},
}

# ---- The comparison -----------------------------------------------------------------------------



def lora(**settings):
    return peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)


# Name -> PEFT's configuration of the adapters that PEFT makes and the program must read.
MADE_BY_PEFT = {
    "lora": lora(target_modules=["q_proj", "v_proj"]),
    "rslora": lora(target_modules=["q_proj", "v_proj"], use_rslora=True),
    "dora": lora(target_modules=["q_proj", "v_proj"], use_dora=True),
    "all-linear": lora(target_modules="all-linear"),
    "embedding": lora(target_modules=["embed_tokens", "q_proj"]),
    "adalora": peft.AdaLoraConfig(init_r=3, target_r=1, lora_alpha=8, total_step=100, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"),
    "ia3": peft.IA3Config(task_type="CAUSAL_LM"),
    "prompt-tuning": peft.PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "prefix-tuning": peft.PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
    "multitask-prompt": peft.MultitaskPromptTuningConfig(num_virtual_tokens=4, num_tasks=1, num_ranks=2, task_type="CAUSAL_LM"),
}
LINES = [f"{who} {what} {where}." for who in ("The girl", "Tom", "A small dog", "The old man")
         for what in ("was born", "went to play", "saw a red ball", "works") for where in ("in the park", "by the sea", "in the town")]


class Failure(Exception):
    """A case that cannot be compared, with the reason."""


def call(command):
    """Runs the program; its last words become the reason where it fails."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode != 0:
        last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise Failure(f"exit {done.returncode} of `{' '.join(map(str, command[:2]))}`: {last}")


def load_base(base):
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def scaled(found, wanted):
    """The greatest difference over the greatest wanted logit."""
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


def peft_logits(base, adapter, ids, mask):
    """Logits at the unmasked places: without the adapter, with it, and with it in f64."""
    model = load_base(base)

    def logits(model):
        config = getattr(model, "active_peft_config", None)
        tasks = {"task_ids": torch.zeros(len(ids), dtype=torch.long)} if hasattr(config, "num_tasks") else {}
        # A prompt's own columns stand before those of the tokens.
        return model(input_ids=ids, attention_mask=mask, **tasks).logits[:, -ids.shape[1]:][mask.bool()]

    with torch.no_grad():
        plain = logits(model)
        model = peft.PeftModel.from_pretrained(model, adapter).eval()
        return plain, logits(model), logits(model.double())


def difference(base, adapter, dump):
    """Ours against PEFT's, and PEFT's own rounding, on the dumped token ids."""
    ours = load_file(dump)
    ids, logits = ours["input_ids"].long(), ours["logits"].float()
    mask = ours.get("attention_mask", torch.ones_like(ids)).long()
    plain, single, double = peft_logits(base, adapter, ids, mask)
    if logits.shape[:2] != ids.shape or logits.shape[-1] != single.shape[-1]:
        raise Failure(f"logits are {list(logits.shape)} for ids {list(ids.shape)} and {single.shape[-1]} tokens")
    logits = logits[mask.bool()]
    if not torch.isfinite(logits).all():
        raise Failure("logits are not finite")
    if torch.allclose(single, plain, atol=1e-3):
        raise Failure("the adapter changes nothing, so equal logits prove nothing")
    return scaled(logits, single), scaled(single.double(), double)


def trained_here(name, base, data, folder):
    """An adapter that our program trains, in PEFT."""
    out = folder / f"ours-{name}"
    call(tune_command(base, data, out, TRAINED_HERE[name]))
    return adapter_folder(out)


def made_by_peft(name, base, data, folder):
    """A random adapter that PEFT saves, in our program."""
    out = folder / f"peft-{name}"
    model = peft.get_peft_model(load_base(base), MADE_BY_PEFT[name])
    generator = torch.Generator().manual_seed(1)
    for _, tensor in sorted(model.named_parameters()):
        if tensor.requires_grad:
            noise = torch.randn(tensor.shape, generator=generator) * 0.1
            tensor.data.add_(noise * tensor.data.abs().mean().clamp(min=0.2))
    model.save_pretrained(out)
    return out


def compare(label, make, name, base, data, folder):
    """One case; true where the logits agree."""
    dump = folder / f"{label}.safetensors"
    try:
        adapter = make(name, base, data, folder)
        call(dump_command(base, adapter, data, dump))
        if not dump.exists():
            raise Failure(f"the program ended well but wrote no {dump.name}")
        found, rounding = difference(base, adapter, dump)
    except (Failure, OSError, ValueError, KeyError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        print(f"FAIL {label} {reason[0]}", flush=True)
        return False
    print(f"{'OK' if found <= TOLERANCE else 'FAIL'} {label} {found:.2e} (PEFT f32 to f64: {rounding:.2e})", flush=True)
    return found <= TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("base", nargs="?", type=Path, default=DEFAULT_BASE, help="checkpoint folder with a tokenizer")
    parser.add_argument("--keep", type=Path, help="leave adapters and logits in this folder")
    parser.add_argument("--only", nargs="+", help="labels to run, as printed")
    options = parser.parse_args()
    if not PROGRAM.exists():
        parser.error(f"{PROGRAM} is missing: cargo build --release")
    if not (options.base / "config.json").exists():
        parser.error(f"{options.base}: no config.json; give a checkpoint folder")
    torch.set_num_threads(1)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cases = [(f"ours-to-peft-{name}", trained_here, name) for name in TRAINED_HERE]
    cases += [(f"peft-to-ours-{name}", made_by_peft, name) for name in MADE_BY_PEFT]
    if options.only:
        cases = [case for case in cases if case[0] in options.only]
    if not cases:
        parser.error("--only names no case")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        data = folder / "text.txt"
        data.write_text("\n".join(LINES) + "\n")
        passed = [compare(label, make, name, options.base.resolve(), data, folder) for label, make, name in cases]
    print(f"{sum(passed)} of {len(passed)} agree")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
