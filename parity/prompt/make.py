"""Makes `parity/prompt/<case>/`: prompts saved by PEFT on the hosts of `parity/hosts`.

    python parity/prompt/make.py [CASE ...]

A case holds `adapter_config.json` (its base_model_name_or_path leads to the host, from the case's
folder), `adapter_model.safetensors` and `expected.safetensors`:
  input_ids, attention_mask, [token_type_ids], [decoder_input_ids]   the host's own rows
  logits                      of the text's tokens, those of virtual tokens cut off (a prefix has none); compare where
                              attention_mask is 1 (one row a text for sequence classifiers)
  generated                   language models: greedy tokens after the first row, prompt in front
  [task_ids]                  of prompts for several tasks: the task of each row
`train` is the start of three AdamW steps; its expected.safetensors holds
  input_ids, attention_mask, labels [2, 12]   labels hold -100 where no loss is taken
  losses [4]                                  before each of the three steps and after the last
  grad.<key>, final.<key>                     the first gradients and the final prompt
The loss is the mean over the labelled tokens of both rows, each predicted from the token before it.
AdamW: lr 1e-1, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
"""

import json
import os
import sys
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import peft  # noqa: E402
import torch  # noqa: E402
import transformers as tf  # noqa: E402
from safetensors.torch import load_file  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import check_size, fresh, save_json, save_tensors, start, write_versions  # noqa: E402

HERE = Path(__file__).resolve().parent
HOSTS = HERE.parent / "hosts"
STEPS, NEW_TOKENS = 3, 6
CLASSES = {
    "CAUSAL_LM": tf.AutoModelForCausalLM,
    "SEQ_2_SEQ_LM": tf.AutoModelForSeq2SeqLM,
    "SEQ_CLS": tf.AutoModelForSequenceClassification,
    "TOKEN_CLS": tf.AutoModelForTokenClassification,
    "FEATURE_EXTRACTION": tf.AutoModelForMaskedLM,
}
# Name -> (host, task, virtual tokens). Sequence classifiers of encoders are absent: there PEFT reads
# the first virtual token, not the first token of the text.
CASES = {
    "llama": ("llama_gqa_untied", "CAUSAL_LM", 5),
    "llama_yarn": ("llama_rope_yarn", "CAUSAL_LM", 3),
    "gpt2": ("gpt2", "CAUSAL_LM", 4),
    "opt_projected": ("opt_350m_style", "CAUSAL_LM", 3),
    "sliding": ("mistral", "CAUSAL_LM", 5),
    "bert_mlm": ("bert_mlm", "FEATURE_EXTRACTION", 4),
    "roberta_mlm": ("roberta_mlm", "FEATURE_EXTRACTION", 4),
    "bert_tokencls": ("bert_tokencls", "TOKEN_CLS", 4),
    "llama_seqcls": ("llama_seqcls", "SEQ_CLS", 5),
    # In front of the encoder's text; PEFT's default puts vectors in front of the answer too.
    "t5": ("t5", "SEQ_2_SEQ_LM", 4),
    # Prefixes; PEFT's need a cache, which models that look both ways have no more.
    "prefix_llama": ("llama_gqa_untied", "CAUSAL_LM", 5),
    "prefix_gpt2": ("gpt2", "CAUSAL_LM", 4),
    "prefix_qwen3": ("qwen3", "CAUSAL_LM", 3),
    "prefix_opt": ("opt", "CAUSAL_LM", 3),
    "prefix_seqcls": ("llama_seqcls", "SEQ_CLS", 5),
    # Two tasks of rank 2, each row of another one.
    "multitask_llama": ("llama_gqa_untied", "CAUSAL_LM", 5),
    "multitask_seqcls": ("llama_seqcls", "SEQ_CLS", 4),
}


def is_prefix(case):
    return case.startswith("prefix_")


def is_multitask(case):
    return case.startswith("multitask_")


def wrapped(name, task, count, prefix=False, multitask=False):
    """PEFT's model around the host `name`, its prompt drawn, and the host's own rows."""
    path = HOSTS / name
    base = CLASSES[task].from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()
    rows = load_file(path / "expected.safetensors")
    inputs = {k: rows[k] for k in ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids") if k in rows}
    width = base.get_input_embeddings().weight.shape[1]  # PEFT assumes the width of the blocks
    if prefix:
        config = peft.PrefixTuningConfig(task_type=task, num_virtual_tokens=count)
    elif multitask:
        config = peft.MultitaskPromptTuningConfig(task_type=task, num_virtual_tokens=count, token_dim=width,
                                                  num_transformer_submodules=1, num_tasks=2, num_ranks=2)
    else:
        config = peft.PromptTuningConfig(task_type=task, num_virtual_tokens=count, token_dim=width, num_transformer_submodules=1)
    model = peft.get_peft_model(base, config).eval()
    model.peft_config["default"].base_model_name_or_path = f"../../hosts/{name}"
    generator = torch.Generator().manual_seed(count)
    for tensor_name, tensor in sorted(model.named_parameters()):
        if tensor.requires_grad:
            noise = torch.randn(tensor.shape, generator=generator)
            is_prompt = "prompt" in tensor_name
            tensor.data.copy_(noise * 0.5 if is_prompt else tensor.data + noise * 0.1)
    return model, inputs


def save(model, folder):
    """The adapter's two files, the configuration with its keys in order."""
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    save_json(folder / "adapter_config.json", config)
    (folder / "adapter_model.safetensors").chmod(0o644)


def greedy(model, inputs, tasks):
    """Greedy tokens after the real tokens of the first row."""
    length = int(inputs["attention_mask"][0].sum())
    row = inputs["input_ids"][:1, :length]
    model.base_model.generation_config.decoder_start_token_id = getattr(model.base_model.config, "decoder_start_token_id", None)
    out = model.generate(input_ids=row, attention_mask=torch.ones_like(row), max_new_tokens=NEW_TOKENS,
                         min_new_tokens=NEW_TOKENS, do_sample=False, **tasks)
    return out[:, -NEW_TOKENS:]


def make(case):
    name, task, count = CASES[case]
    folder = fresh(HERE / case)
    model, inputs = wrapped(name, task, count, is_prefix(case), is_multitask(case))
    if task == "FEATURE_EXTRACTION":  # PEFT leaves them out there
        inputs.pop("token_type_ids", None)
    if task == "SEQ_CLS":  # PEFT reads the last column, so that padding would be read too
        inputs = {k: v[:, : int(inputs["attention_mask"].sum(1).min())] for k, v in inputs.items()}
    tasks = {"task_ids": torch.tensor([1, 0])} if is_multitask(case) else {}
    logits = model(**inputs, **tasks).logits
    if task not in ("SEQ_CLS", "SEQ_2_SEQ_LM") and not is_prefix(case):
        assert logits.shape[1] == inputs["input_ids"].shape[1] + count, logits.shape
        logits = logits[:, count:]
    expected = {**inputs, **tasks, "logits": logits}
    if task in ("CAUSAL_LM", "SEQ_2_SEQ_LM"):
        expected["generated"] = greedy(model, inputs, {key: ids[:1] for key, ids in tasks.items()})
    save(model, folder)
    save_tensors(folder / "expected.safetensors", expected)
    print(f"{case}: {sorted(load_file(folder / 'adapter_model.safetensors'))}, {check_size(folder)} bytes")


def labels_of(inputs):
    """Labels on the second part of each row only."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, :5] = -100
    labels[1, :3] = -100
    labels[0, 8] = -100
    return labels


def make_train():
    folder = fresh(HERE / "train")
    model, inputs = wrapped(*CASES["llama"])
    save(model, folder)
    rows, losses, expected = {**inputs, "labels": labels_of(inputs)}, [], {}
    prompt = model.prompt_encoder["default"].embedding.weight
    trained = [p for p in model.parameters() if p.requires_grad]
    assert len(trained) == 1 and trained[0] is prompt
    optimizer = torch.optim.AdamW(trained, lr=1e-1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for step in range(STEPS):
        with torch.enable_grad():
            loss = model(**rows).loss
            loss.backward()
        losses.append(loss.item())
        if step == 0:
            expected["grad.prompt_embeddings"] = prompt.grad.clone()
        optimizer.step()
        optimizer.zero_grad()
    losses.append(model(**rows).loss.item())
    expected.update({"final.prompt_embeddings": prompt, **rows, "losses": torch.tensor(losses)})
    save_tensors(folder / "expected.safetensors", expected)
    print(f"train: losses {losses}, {check_size(folder)} bytes")


def make_residual():
    """A residual branch in torch: `Linear, ReLU, Linear, LayerNorm` around five vectors of width 8.

    vectors [5, 8] under `outer` [5, 8]; grad.<name> of every trained tensor, <name> its value.
    """
    folder = fresh(HERE / "residual_branch")
    generator = torch.Generator().manual_seed(26)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    parts = {"prompt": draw(5, 8), "down": draw(4, 8), "down_bias": draw(4), "up": draw(8, 4), "up_bias": draw(8), "gain": draw(8), "shift": draw(8)}
    outer = draw(5, 8)
    with torch.enable_grad():
        leaves = {name: value.clone().requires_grad_() for name, value in parts.items()}
        hidden = torch.relu(torch.nn.functional.linear(leaves["prompt"], leaves["down"], leaves["down_bias"]))
        up = torch.nn.functional.linear(hidden, leaves["up"], leaves["up_bias"])
        vectors = leaves["prompt"] + torch.nn.functional.layer_norm(up, (8,), leaves["gain"], leaves["shift"], 1e-5)
        (vectors * outer).sum().backward()
    expected = {"outer": outer, "vectors": vectors, **parts}
    expected.update({f"grad.{name}": leaf.grad for name, leaf in leaves.items()})
    save_tensors(folder / "expected.safetensors", expected)
    print(f"residual_branch: {check_size(folder)} bytes")


MAKERS = {"train": make_train, "residual_branch": make_residual}


def main():
    start()
    warnings.filterwarnings("ignore", category=UserWarning, module="peft")
    for case in sys.argv[1:] or [*CASES, *MAKERS]:
        MAKERS.get(case, lambda: make(case))()
    write_versions(HERE, "parity/prompt/make.py")


if __name__ == "__main__":
    main()
