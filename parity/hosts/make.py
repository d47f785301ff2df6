"""Makes `parity/hosts/<case>/`: tiny random checkpoints and what `transformers` computes on them.

    python parity/hosts/make.py [CASE ...]
    python parity/hosts/make.py --stories FOLDER     # a real small Llama; its weights are not copied

`expected.safetensors` of a decoder holds
  input_ids, attention_mask     [2, 12], the second row padded on the right
  logits, hidden_states.i       at positions 0.. of each row; compare where attention_mask is 1
                                hidden_states.0 is the embedding, the last is after the final norm
                                (opt_350m_style: after project_out, so narrower than the others)
  left_*                        the same with the padding on the left; left_position_ids is what
                                `generate` passes (cumulated mask - 1, 0 or 1 where masked)
  prompt [1, 5], greedy [64]    greedy continuation; no token is the eos; the best token leads by
                                `greedy_margin` logits at least, so the comparison is not a coin toss
  batch_greedy [2, 16]          greedy continuation of the left-padded rows, as one batch
  long_*, greedy_uncached       scaled RoPE only: 40 tokens, and the greedy path without a cache
`expected.safetensors` of an encoder with a decoder (`t5*`, `mt5`) holds
  input_ids, attention_mask     [2, 12], what the encoder reads, the second row padded on the right
  labels, decoder_input_ids     [2, 9], the second row of labels ends in -100, which counts nowhere
  logits, loss                  for these; decoder_states.i and encoder_states.i as hidden_states.i
  prompt [1, 12], greedy [32]   the greedy answer to a text, the same with and without a cache
  batch_greedy [2, 16]          the greedy answers to the padded rows
`buckets.json` has the bucket of every distance -300..300 by numbers of buckets and longest distance.
`config.json` of these families is in the spelling before transformers 5 too, which tells by
`tie_word_embeddings` whether the state is scaled before the head.
`config.json` of the RoPE families is in the spelling of checkpoints before transformers 5
(`rope_theta`, `rope_scaling`), `config.new.json` in that of transformers 5 (`rope_parameters`,
`layer_types`); both are checked to give the same logits. `*_hub_names` carry the tensor names and
surplus buffers of old checkpoints.
"""

import copy
import json
import sys
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import check_size, fresh, randomise, save_json, save_tensors, start, write_versions  # noqa: E402

HERE = Path(__file__).resolve().parent
VOCAB, LENGTH, SHORT, NEW = 80, 12, 8, 64
SPECIAL = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0)
MARGIN, DISTINCT, TRIES = 2e-3, 8, 400

LLAMA = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=4, max_position_embeddings=128, rms_norm_eps=1e-5, tie_word_embeddings=False, **SPECIAL)
BERT = dict(vocab_size=VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=40, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
ROBERTA = dict(BERT, type_vocab_size=1, bos_token_id=0, pad_token_id=1, eos_token_id=2, layer_norm_eps=1e-5)
GPT2 = dict(vocab_size=VOCAB, n_embd=16, n_layer=2, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2,
            resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0)
OPT = dict(vocab_size=VOCAB, hidden_size=16, ffn_dim=32, num_hidden_layers=2, num_attention_heads=4,
           max_position_embeddings=128, dropout=0.0, bos_token_id=2, eos_token_id=2, pad_token_id=1)


T5 = dict(vocab_size=VOCAB, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, relative_attention_num_buckets=8,
          relative_attention_max_distance=20, dropout_rate=0.0, decoder_start_token_id=0, eos_token_id=1, pad_token_id=0)


def llama(**changes):
    return tf.LlamaForCausalLM, tf.LlamaConfig(**{**LLAMA, **changes})


def rope(kind, theta=10000.0, **keys):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **keys))


def qwen2(**changes):
    return tf.Qwen2ForCausalLM, tf.Qwen2Config(**{**LLAMA, "num_key_value_heads": 2, "rms_norm_eps": 1e-6, **rope("default", 1e6), **changes})


def causal_cases():
    """Name -> (class, config, old-style rope_scaling or None)."""
    llama3 = dict(factor=8.0, high_freq_factor=4.0, low_freq_factor=1.0, original_max_position_embeddings=64)
    yarn = dict(factor=4.0, original_max_position_embeddings=32)
    gqa = dict(num_key_value_heads=2)
    return {
        "llama_mha_tied": llama(tie_word_embeddings=True),
        "llama_gqa_untied": llama(**gqa, attention_bias=True, mlp_bias=True, **rope("default", 500000.0)),
        "llama_rope_linear": llama(**gqa, **rope("linear", factor=2.0)),
        "llama_rope_dynamic": llama(**gqa, max_position_embeddings=16, **rope("dynamic", factor=2.0)),
        "llama_rope_llama3": llama(**gqa, head_dim=16, **rope("llama3", 500000.0, **llama3)),
        "llama_rope_yarn": llama(**gqa, head_dim=16, **rope("yarn", **yarn)),
        "llama_head_dim": llama(**gqa, head_dim=6),
        "llama_sharded": llama(num_hidden_layers=3),
        "llama_bf16": llama(**gqa),
        "llama_f16": llama(**gqa, tie_word_embeddings=True),
        "mistral": (tf.MistralForCausalLM, tf.MistralConfig(**{**LLAMA, "num_key_value_heads": 2}, sliding_window=4)),
        "qwen2": qwen2(tie_word_embeddings=True),
        "qwen2_sliding": qwen2(use_sliding_window=True, sliding_window=4, max_window_layers=1, num_hidden_layers=3),
        "qwen3": (tf.Qwen3ForCausalLM, tf.Qwen3Config(**{**LLAMA, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}, head_dim=8, **rope("default", 1e6))),
        "gpt2": (tf.GPT2LMHeadModel, tf.GPT2Config(**GPT2)),
        "gpt2_inverse_layer": (tf.GPT2LMHeadModel, tf.GPT2Config(**GPT2, scale_attn_by_inverse_layer_idx=True)),
        "opt": (tf.OPTForCausalLM, tf.OPTConfig(**OPT, word_embed_proj_dim=16, do_layer_norm_before=True)),
        "opt_350m_style": (tf.OPTForCausalLM, tf.OPTConfig(**OPT, word_embed_proj_dim=12, do_layer_norm_before=False)),
    }


def head_cases():
    """Name -> (class, config) of the models that are no generators."""
    labels = dict(num_labels=3)
    return {
        "bert_mlm": (tf.BertForMaskedLM, tf.BertConfig(**BERT)),
        "bert_seqcls": (tf.BertForSequenceClassification, tf.BertConfig(**BERT, **labels)),
        "bert_tokencls": (tf.BertForTokenClassification, tf.BertConfig(**BERT, **labels)),
        "bert_pooler": (tf.BertModel, tf.BertConfig(**BERT)),
        "bert_embedding": (tf.BertModel, tf.BertConfig(**BERT)),
        "bert_mlm_hub_names": (tf.BertForMaskedLM, tf.BertConfig(**BERT)),
        "gpt2_hub_names": (tf.GPT2LMHeadModel, tf.GPT2Config(**{**GPT2, "n_positions": 32})),
        "roberta_mlm": (tf.RobertaForMaskedLM, tf.RobertaConfig(**ROBERTA)),
        "xlm_roberta_mlm": (tf.XLMRobertaForMaskedLM, tf.XLMRobertaConfig(**ROBERTA)),
        "roberta_seqcls": (tf.RobertaForSequenceClassification, tf.RobertaConfig(**ROBERTA, **labels)),
        "roberta_tokencls": (tf.RobertaForTokenClassification, tf.RobertaConfig(**ROBERTA, **labels)),
        "llama_seqcls": (tf.LlamaForSequenceClassification, llama(num_key_value_heads=2, **labels)[1]),
    }


def seq2seq_cases():
    """Name -> (class, config) of the encoders with a decoder."""
    return {
        "t5": (tf.T5ForConditionalGeneration, tf.T5Config(**T5)),
        "t5_gated": (tf.T5ForConditionalGeneration, tf.T5Config(**{**T5, "d_kv": 6, "num_layers": 3}, num_decoder_layers=2, feed_forward_proj="gated-gelu", tie_word_embeddings=False)),
        "mt5": (tf.MT5ForConditionalGeneration, tf.MT5Config(**{**T5, "d_kv": 3})),
    }


# Cases whose head has a weight of its own, as T5 1.1 and Flan-T5 have.
OWN_HEAD = {"t5_gated", "mt5"}


def rows(seed, pad, left=False):
    """Two token rows, the second shorter, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCAB, (2, LENGTH), generator=generator)
    mask = torch.ones_like(ids)
    cut = slice(0, LENGTH - SHORT) if left else slice(SHORT, LENGTH)
    mask[1, cut] = 0
    if left:
        ids[1] = ids[1].roll(LENGTH - SHORT)
    return ids.masked_fill(mask == 0, pad), mask


def run(model, **inputs):
    """A forward pass on a copy: dynamic RoPE keeps the longest length it has seen."""
    return copy.deepcopy(model)(**inputs, output_hidden_states=True)


def greedy(model, ids, mask, new, use_cache=True):
    """Greedy tokens [batch, new] and the smallest lead of the best logit over the second."""
    model = copy.deepcopy(model)
    pad = model.config.pad_token_id or 0
    model.generation_config = tf.GenerationConfig(do_sample=False, max_new_tokens=new, use_cache=use_cache, pad_token_id=pad)
    model.generation_config.eos_token_id = None
    model.generation_config.decoder_start_token_id = getattr(model.config, "decoder_start_token_id", None)
    model.config.eos_token_id = None
    out = model.generate(ids, attention_mask=mask, return_dict_in_generate=True, output_logits=True)
    lead = min((t[:, 0] - t[:, 1]).min().item() for t in (step.topk(2).values for step in out.logits))
    tokens = out.sequences[:, 1 if model.config.is_encoder_decoder else ids.shape[1]:]
    assert tokens.shape[1] == new, tokens.shape
    return tokens, lead


def causal_expected(model):
    """All that is expected of a decoder, or None where the greedy path is too close a call."""
    pad = model.config.pad_token_id or 0
    prompt = torch.randint(3, VOCAB, (1, 5), generator=torch.Generator().manual_seed(5))
    tokens, lead = greedy(model, prompt, torch.ones_like(prompt), NEW)
    left, left_mask = rows(7, pad, left=True)
    batch, batch_lead = greedy(model, left, left_mask, 16)
    eos = model.config.eos_token_id
    if min(lead, batch_lead) < MARGIN or len(set(tokens[0].tolist())) < DISTINCT or eos in tokens or eos in batch:
        return None
    ids, mask = rows(7, pad)
    out = run(model, input_ids=ids, attention_mask=mask)
    positions = (left_mask.cumsum(-1) - 1).masked_fill(left_mask == 0, 0)
    left_out = run(model, input_ids=left, attention_mask=left_mask, position_ids=positions)
    found = dict(input_ids=ids, attention_mask=mask, logits=out.logits, prompt=prompt, greedy=tokens[0],
                 greedy_margin=torch.tensor([min(lead, batch_lead)]), left_input_ids=left, left_attention_mask=left_mask,
                 left_position_ids=positions, left_logits=left_out.logits, batch_greedy=batch)
    found.update({f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)})
    if getattr(model.config, "rope_parameters", None) and model.config.rope_parameters["rope_type"] != "default":
        found.update(beyond_the_original_length(model, prompt))
    return found


def beyond_the_original_length(model, prompt):
    """Scaled RoPE past the length it was trained on, and the greedy path without a cache.

    Dynamic scaling changes all angles as the text grows; with a cache `transformers` leaves the
    keys already rotated as they are, without one it rotates all anew, so the two paths differ.
    """
    ids = torch.randint(3, VOCAB, (1, 40), generator=torch.Generator().manual_seed(11))
    plain, lead = greedy(model, prompt, torch.ones_like(prompt), NEW, use_cache=False)
    return dict(long_input_ids=ids, long_logits=run(model, input_ids=ids).logits, greedy_uncached=plain[0],
                greedy_uncached_margin=torch.tensor([lead]))


def head_expected(model, name):
    """Logits or states of an encoder, or of a decoder with a classification head."""
    ids, mask = rows(7, model.config.pad_token_id or 0)
    inputs = dict(input_ids=ids, attention_mask=mask)
    if model.config.model_type == "bert":
        inputs["token_type_ids"] = torch.tensor([[0] * 5 + [1] * 7, [0] * 3 + [1] * 5 + [0] * 4])
    out = run(model, **inputs)
    found = dict(inputs)
    for key in ("logits", "last_hidden_state", "pooler_output"):
        if getattr(out, key, None) is not None:
            found[key] = getattr(out, key)
    found.update({f"hidden_states.{i}": h for i, h in enumerate(out.hidden_states)})
    if name == "bert_embedding":
        weight = mask.unsqueeze(-1).float()
        mean = (out.last_hidden_state * weight).sum(1) / weight.sum(1)
        found.update(embedding=mean, embedding_normalised=torch.nn.functional.normalize(mean, dim=-1))
    return found


def seq2seq_expected(model):
    """All that is expected of an encoder with a decoder, or None where the greedy path is too close a call."""
    prompt = torch.randint(3, VOCAB, (1, LENGTH), generator=torch.Generator().manual_seed(5))
    tokens, lead = greedy(model, prompt, torch.ones_like(prompt), 32)
    ids, mask = rows(7, 0)
    batch, batch_lead = greedy(model, ids, mask, 16)
    eos = model.config.eos_token_id
    if min(lead, batch_lead) < MARGIN or len(set(tokens[0].tolist())) < DISTINCT or eos in tokens or eos in batch:
        return None
    plain, _ = greedy(model, prompt, torch.ones_like(prompt), 32, use_cache=False)
    assert torch.equal(plain, tokens)
    labels = torch.randint(3, VOCAB, (2, 9), generator=torch.Generator().manual_seed(13))
    labels[1, 5:] = -100
    out = run(model, input_ids=ids, attention_mask=mask, labels=labels)
    found = dict(input_ids=ids, attention_mask=mask, labels=labels, decoder_input_ids=model._shift_right(labels), logits=out.logits,
                 loss=out.loss.reshape(1), prompt=prompt, greedy=tokens[0], batch_greedy=batch, greedy_margin=torch.tensor([min(lead, batch_lead)]))
    found.update({f"decoder_states.{i}": h for i, h in enumerate(out.decoder_hidden_states)})
    found.update({f"encoder_states.{i}": h for i, h in enumerate(out.encoder_hidden_states)})
    return found


def make_buckets():
    """The bucket of every distance, for keys on both sides and for those before the query only."""
    of = tf.models.t5.modeling_t5.T5Attention._relative_position_bucket
    distances, found = torch.arange(-300, 301), {}
    for count, longest in ((8, 20), (32, 128), (16, 100)):
        for name, both in (("both", True), ("back", False)):
            found[f"{count} {longest} {name}"] = of(distances, both, count, longest).tolist()
    (HERE / "buckets.json").write_text(json.dumps(found, sort_keys=True).replace("], ", "],\n") + "\n")


def old_seq2seq(new):
    """A T5's saved config as checkpoints before transformers 5 spell it."""
    derived = ("scale_decoder_outputs", "dense_act_fn", "is_gated_act", "dtype", "is_decoder")
    old = {k: v for k, v in new.items() if k not in derived}
    tied = new.get("scale_decoder_outputs", False)
    return dict(old, tie_word_embeddings=tied, torch_dtype=new["dtype"], n_positions=512, output_past=True, transformers_version="4.43.0")


def old_style(new):
    """A saved config as checkpoints before transformers 5 spell it, or None where nothing differs."""
    if new["model_type"] in ("t5", "mt5"):
        return old_seq2seq(new)
    if "rope_parameters" not in new:
        return None
    old = {k: v for k, v in new.items() if k not in ("rope_parameters", "layer_types", "dtype")}
    scaling = dict(new["rope_parameters"])
    old["torch_dtype"], old["rope_theta"] = new["dtype"], scaling.pop("rope_theta")
    kind = scaling.pop("rope_type")
    # Linear, dynamic and yarn checkpoints of the hub mostly write `type`, llama3 ones `rope_type`.
    label = "rope_type" if kind == "llama3" else "type"
    old["rope_scaling"] = None if kind == "default" else {label: kind, **scaling}
    old["transformers_version"] = "4.43.0"
    return old


def save_checkpoint(model, folder, name):
    """The checkpoint in Hugging Face layout; RoPE families get the config in both spellings."""
    shards = {"max_shard_size": "8KB"} if name == "llama_sharded" else {}
    model.save_pretrained(folder, **shards)
    new = json.loads((folder / "config.json").read_text())
    old = old_style(new)
    if old is not None:
        save_json(folder / "config.new.json", new)
        save_json(folder / "config.json", old)
    if name in HUB_NAMES:
        as_on_the_hub(folder / "model.safetensors", *HUB_NAMES[name])


def as_on_the_hub(path, renames, extra):
    """Renames tensors as old, much used checkpoints spell them, and adds the buffers they carry."""
    renamed = {}
    for key, tensor in load_file(path).items():
        for old, new in renames:
            key = key.replace(old, new)
        renamed[key] = tensor
    save_tensors(path, {**renamed, **extra(renamed)}, {"format": "pt"})


def gpt2_buffers(tensors):
    """The causal masks and mask values that GPT-2 checkpoints store."""
    mask = torch.ones(32, 32).tril().view(1, 1, 32, 32)
    return {f"h.{i}.attn.bias": mask for i in range(2)}


def bert_buffers(tensors):
    """The position numbers and the second copies of tied tensors."""
    return {"bert.embeddings.position_ids": torch.arange(40).unsqueeze(0),
            "cls.predictions.decoder.weight": tensors["bert.embeddings.word_embeddings.weight"],
            "cls.predictions.decoder.bias": tensors["cls.predictions.bias"]}


HUB_NAMES = {
    "gpt2_hub_names": ([("transformer.", "")], gpt2_buffers),
    "bert_mlm_hub_names": ([("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta")], bert_buffers),
}


def check_reload(cls, folder, expected):
    """Both spellings of the config must give, through from_pretrained, the same logits."""
    for name in ("config.json", "config.new.json"):
        if not (folder / name).exists():
            continue
        config = tf.AutoConfig.from_pretrained(folder / name)
        model = cls.from_pretrained(folder, config=config, dtype=torch.float32, attn_implementation="eager").eval()
        inputs = {k: expected[k] for k in ("input_ids", "attention_mask", "token_type_ids", "decoder_input_ids") if k in expected}
        out = run(model, **inputs)
        key = "logits" if "logits" in expected else "last_hidden_state"
        difference = (getattr(out, key) - expected[key]).abs().max().item()
        assert difference < 1e-5, (folder.name, name, difference)


def build(cls, config, seed, dtype, own_head=False):
    """A random model in f32 whose weights survived a round trip through `dtype`."""
    config._attn_implementation = "eager"
    model = randomise(cls(copy.deepcopy(config)), seed)
    if own_head:
        noise = torch.randn(model.lm_head.weight.shape, generator=torch.Generator().manual_seed(seed + 1000))
        model.lm_head.weight = torch.nn.Parameter(noise * 0.35)
    for tensor in model.parameters():  # not `model.to`, which would round the RoPE frequencies too
        tensor.data.copy_(tensor.data.to(dtype))
    return model


def make(name, cls, config, expect):
    """One case: tries seeds until `expect` is content, saves, reloads, compares."""
    dtype = {"llama_bf16": torch.bfloat16, "llama_f16": torch.float16}.get(name, torch.float32)
    for seed in range(1, TRIES):
        model = build(cls, config, seed, dtype, name in OWN_HEAD)
        expected = expect(model)
        if expected is not None:
            break
    else:
        raise SystemExit(f"{name}: no seed below {TRIES} gives a clear greedy path")
    folder = fresh(HERE / name)
    save_checkpoint(model.to(dtype), folder, name)
    save_tensors(folder / "expected.safetensors", expected, {"seed": str(seed)})
    check_reload(cls, folder, expected)
    print(f"{name:20} seed {seed:3} {check_size(folder):7} bytes", flush=True)


def make_stories(source):
    """Expected numbers of a real checkpoint at `source`."""
    model = tf.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    tokenizer = tf.AutoTokenizer.from_pretrained(source)
    found = {}
    for i, text in enumerate(("Once upon a time, there was a little girl named Lily.", "The dog ran to the")):
        ids = torch.tensor([tokenizer(text).input_ids])
        tokens, lead = greedy(model, ids, torch.ones_like(ids), NEW)
        out = run(model, input_ids=ids)
        found.update({f"{i}.input_ids": ids, f"{i}.logits": out.logits, f"{i}.greedy": tokens[0], f"{i}.greedy_margin": torch.tensor([lead])})
        print(f"stories260k {i}: {ids.tolist()} margin {lead:.4f}: {tokenizer.decode(tokens[0])!r}")
    folder = fresh(HERE / "stories260k")
    save_tensors(folder / "expected.safetensors", found)
    check_size(folder)


def main(arguments):
    start()
    if arguments[:1] == ["--stories"]:
        return make_stories(arguments[1])
    causal, heads, seq2seq = causal_cases(), head_cases(), seq2seq_cases()
    for name in arguments or [*causal, *heads, *seq2seq]:
        if name in causal:
            make(name, *causal[name], causal_expected)
        elif name in seq2seq:
            make(name, *seq2seq[name], seq2seq_expected)
        else:
            make(name, *heads[name], lambda model, name=name: head_expected(model, name))
    make_buckets()
    write_versions(HERE, "parity/hosts/make.py")


if __name__ == "__main__":
    main(sys.argv[1:])
