"""Llama checkpoints as names, shapes and configuration, for scripts that write weights without a model."""


def config(layers, width, hidden, words, heads, positions, dtype):
    return dict(architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers,
                num_attention_heads=heads, num_key_value_heads=heads, vocab_size=words, torch_dtype=dtype, max_position_embeddings=positions,
                rms_norm_eps=1e-5, tie_word_embeddings=False, hidden_act="silu")


def shapes(layers, width, hidden, words):
    yield "model.embed_tokens.weight", (words, width)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        for name in "qkvo":
            yield f"{at}self_attn.{name}_proj.weight", (width, width)
        yield f"{at}mlp.gate_proj.weight", (hidden, width)
        yield f"{at}mlp.up_proj.weight", (hidden, width)
        yield f"{at}mlp.down_proj.weight", (width, hidden)
        yield f"{at}input_layernorm.weight", (width,)
        yield f"{at}post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (words, width)
