"""Makes `parity/lora/<case>/`: adapters saved by PEFT on the hosts of `parity/hosts`.

    python parity/lora/make.py [CASE ...]

A case holds `adapter_config.json` (its base_model_name_or_path leads to the host, from the case's
folder), `adapter_model.safetensors` and `expected.safetensors`:
  input_ids, attention_mask, [token_type_ids], [decoder_input_ids]   the host's own rows
  logits                         with the adapter active; compare where attention_mask is 1
  merged_logits                  after merge_and_unload
  merged.<module>.weight         the merged weight of one or two modules, by the host's names
  labels, loss, grad.<key>       t5: the host's labels, the loss and its gradients
  init.*                         pissa and olora: what PEFT's init makes of one module; the signs of
                                 singular vectors are free, so compare init.lora_B @ init.lora_A
In `embedding_tied` PEFT leaves the output layer at the base's weight while the adapter is active,
but merging changes the tensor both share: merged_logits is far from logits there, by design of PEFT.
In `t5_embedding` both stacks have a change of their own of the one table, which no merge keeps apart.
`embedding` also stores the frozen base embedding (`embed_tokens.base_layer.weight`).
`combined/` holds the adapters `first` and `second` and the logits of PEFT's ways to use both.
"""

import json
import os
import sys
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
GQA, TIED, GPT2, BERT, T5 = "llama_gqa_untied", "llama_mha_tied", "gpt2", "bert_seqcls", "t5_gated"
ATTENTION = ["q_proj", "v_proj"]
FIRST_Q = "model.layers.0.self_attn.q_proj"


# `save_embedding_layers` of save_pretrained; "auto" also stores the frozen embedding of the base.
SAVE_EMBEDDING = {"embedding": "auto"}


def lora(**keys):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "task_type": "CAUSAL_LM", **keys})


def cases():
    """Name -> (host, config, modules whose merged weight is kept)."""
    every_linear = "model.layers.1.mlp.down_proj"
    pattern = dict(rank_pattern={"layers.1.self_attn.q_proj": 2, "v_proj": 3}, alpha_pattern={"layers.0.self_attn.q_proj": 16, "v_proj": 5})
    return {
        "plain": (GQA, lora(target_modules=ATTENTION), [FIRST_Q]),
        "rslora": (GQA, lora(target_modules=ATTENTION, use_rslora=True), [FIRST_Q]),
        "dora": (GQA, lora(target_modules=ATTENTION, use_dora=True), [FIRST_Q]),
        "dora_gpt2": (GPT2, lora(target_modules=["c_attn"], use_dora=True, fan_in_fan_out=True), ["transformer.h.0.attn.c_attn"]),
        "all_linear": (GQA, lora(target_modules="all-linear"), [FIRST_Q, every_linear]),
        "embedding": (GQA, lora(target_modules=["embed_tokens", "q_proj"]), [FIRST_Q, "model.embed_tokens"]),
        "embedding_lean": (GQA, lora(target_modules=["embed_tokens"]), ["model.embed_tokens"]),
        "embedding_dora": (GQA, lora(target_modules=["embed_tokens", "q_proj"], use_dora=True), [FIRST_Q, "model.embed_tokens"]),
        "embedding_tied": (TIED, lora(target_modules=["embed_tokens"]), ["model.embed_tokens"]),
        "gpt2": (GPT2, lora(target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True), ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"]),
        "patterns": (GQA, lora(target_modules=ATTENTION, **pattern), [FIRST_Q, "model.layers.1.self_attn.v_proj"]),
        "regex": (GQA, lora(target_modules=r".*\.layers\.\d+\.(self_attn\.[qk]|mlp\.up)_proj"), [FIRST_Q]),
        "layers": (GQA, lora(target_modules=ATTENTION, layers_to_transform=[1], layers_pattern="layers"), ["model.layers.1.self_attn.q_proj"]),
        "exclude": (GQA, lora(target_modules="all-linear", exclude_modules=["down_proj", "k_proj"]), [FIRST_Q]),
        "bias_all": (GQA, lora(target_modules=ATTENTION, bias="all"), [FIRST_Q]),
        "bias_lora_only": (GQA, lora(target_modules=ATTENTION, bias="lora_only"), [FIRST_Q]),
        "save_lm_head": (GQA, lora(target_modules=ATTENTION, modules_to_save=["lm_head"]), [FIRST_Q, "lm_head"]),
        "bert_classifier": (BERT, lora(target_modules=["query", "value"], task_type="SEQ_CLS", modules_to_save=["classifier"]), ["bert.encoder.layer.0.attention.self.query", "classifier"]),
        "t5": (T5, lora(task_type="SEQ_2_SEQ_LM"), ["encoder.block.2.layer.0.SelfAttention.q", "decoder.block.1.layer.1.EncDecAttention.v"]),
        "t5_embedding": (T5, lora(task_type="SEQ_2_SEQ_LM", target_modules=["embed_tokens", "q"]), []),
        "pissa": (GQA, lora(target_modules=ATTENTION, init_lora_weights="pissa"), [FIRST_Q]),
        "olora": (GQA, lora(target_modules=ATTENTION, init_lora_weights="olora"), [FIRST_Q]),
    }


def host(name):
    """The host in f32 with plain attention, and its input rows."""
    cls = {BERT: tf.AutoModelForSequenceClassification, T5: tf.AutoModelForSeq2SeqLM}.get(name, tf.AutoModelForCausalLM)
    model = cls.from_pretrained(HOSTS / name, dtype=torch.float32, attn_implementation="eager").eval()
    rows = load_file(HOSTS / name / "expected.safetensors")
    return model, {k: rows[k] for k in ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids") if k in rows}


def disturb(model, seed):
    """Moves every trained tensor by noise: a fresh adapter adds nothing and would prove nothing."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in sorted(model.named_parameters()):
        if tensor.requires_grad:
            spread = 0.1 if "magnitude" in name else 0.25
            tensor.data.add_(torch.randn(tensor.shape, generator=generator) * spread)


def wrapped(name, config, adapter="default"):
    """PEFT's model around the host `name`, and the inputs."""
    base, inputs = host(name)
    torch.manual_seed(1)  # PEFT draws lora_A from the global stream
    model = peft.get_peft_model(base, config, adapter_name=adapter).eval()
    model.peft_config[adapter].base_model_name_or_path = f"../../hosts/{name}"
    return model, inputs


def initial(model, config):
    """The first query projection as PEFT's init left it, for inits that change the base weight."""
    if getattr(config, "init_lora_weights", True) is True:
        return {}
    layer = model.base_model.model.get_submodule(FIRST_Q)
    return {"init.lora_A": layer.lora_A["default"].weight.clone(), "init.lora_B": layer.lora_B["default"].weight.clone(),
            "init.base_weight": layer.base_layer.weight.clone()}


def answered(model, inputs):
    """The loss of the host's labels, and its gradients by the keys under which PEFT saves them."""
    labels = load_file(HOSTS / T5 / "expected.safetensors")["labels"]
    with torch.enable_grad():
        loss = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=labels).loss
        loss.backward()
    grads = {f"grad.{n.replace('.default', '')}": p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {"labels": labels, "loss": loss.reshape(1), **grads}


def tidy(folder):
    """Drops the model card and sorts what PEFT keeps as a set, whose order changes between runs."""
    (folder / "README.md").unlink(missing_ok=True)
    for path in folder.rglob("adapter_config.json"):
        config = json.loads(path.read_text())
        for key, value in config.items():
            config[key] = sorted(value) if isinstance(value, list) else value
        save_json(path, config)
    for path in folder.rglob("adapter_model.safetensors"):
        path.chmod(0o644)


def make(case, name, config, kept, root=HERE):
    """One adapter: saved, loaded again, compared, merged."""
    folder = fresh(root / case)
    model, inputs = wrapped(name, config)
    expected = {**inputs, **initial(model, config)}
    disturb(model, seed=sum(map(ord, case)))
    expected["logits"] = model(**inputs).logits
    if name == T5:
        expected.update(answered(model, inputs))
    model.save_pretrained(folder, save_embedding_layers=SAVE_EMBEDDING.get(case, False))
    tidy(folder)
    again = peft.PeftModel.from_pretrained(host(name)[0], folder).eval()(**inputs).logits
    assert torch.allclose(again, expected["logits"], atol=1e-5), (case, (again - expected["logits"]).abs().max())
    if kept:
        merged = model.merge_and_unload()
        expected["merged_logits"] = merged(**inputs).logits
        expected.update({f"merged.{m}.weight": merged.get_submodule(m).weight for m in kept})
    save_tensors(folder / "expected.safetensors", expected)
    report(case, folder, expected, host(name)[0](**inputs).logits)


def report(case, folder, expected, base):
    """One line: how far the adapter moves the logits and how far merging is from it."""
    moved = (expected["logits"] - base).abs().max()
    merge = (expected.get("merged_logits", expected["logits"]) - expected["logits"]).abs().max()
    print(f"{case:16} moves {moved:.2f}, merged within {merge:.1e}, {check_size(folder)} bytes", flush=True)


def make_combined():
    """Two adapters on one host: both active, and the three usual weighted mixtures."""
    folder = fresh(HERE / "combined")
    model, inputs = wrapped(GQA, lora(target_modules=ATTENTION), "first")
    second = lora(target_modules=ATTENTION, lora_alpha=6)
    model.add_adapter("second", second)
    model.peft_config["second"].base_model_name_or_path = f"../../hosts/{GQA}"
    for name in ("first", "second"):
        model.set_adapter(name)
        disturb(model, seed=len(name))
    model.save_pretrained(folder)
    tidy(folder)
    expected = dict(inputs)
    for name in ("first", "second"):
        model.set_adapter(name)
        expected[f"logits.{name}"] = model(**inputs).logits
    model.base_model.set_adapter(["first", "second"])
    expected["logits.both"] = model(**inputs).logits
    for kind, extra in (("linear", {}), ("cat", {}), ("svd", dict(svd_rank=3))):
        model.add_weighted_adapter(["first", "second"], [0.7, 0.4], kind, combination_type=kind, **extra)
        model.set_adapter(kind)
        layer = model.base_model.model.get_submodule(FIRST_Q)
        expected[f"logits.{kind}"] = model(**inputs).logits
        expected[f"delta.{kind}.{FIRST_Q}"] = layer.get_delta_weight(kind)
    save_tensors(folder / "expected.safetensors", expected, {"weights": "0.7,0.4", "svd_rank": "3"})
    print(f"combined: {check_size(folder)} bytes")


def main(arguments):
    start()
    known = cases()
    for case in arguments or [*known, "combined"]:
        with torch.no_grad():
            make_combined() if case == "combined" else make(case, *known[case])
    write_versions(HERE, "parity/lora/make.py")


if __name__ == "__main__":
    main(sys.argv[1:])
