"""Makes `parity/adapters/<case>/`: AdaLoRA and IA3 adapters saved by PEFT on the hosts of `parity/hosts`.

    python parity/adapters/make.py [CASE ...]

A case holds what those of `parity/lora` hold; see `parity/lora/make.py`.
`adalora_budget/` holds a whole training: six weights, ranks 3 to 1 over twelve AdamW steps with a cut every
second step, and PEFT's allocator called after each step with numbers from 1:
  initial.<key>              the tensors before the first step
  losses [12]                task loss with the orthogonality term, as PEFT returns it
  ranks [12]                 triplets left after each step, in all
  final.<key>                the tensors after the last step, not cut
The adapter in the folder is the trained one as PEFT saves it, cut; logits are its own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lora import make as shared  # noqa: E402  first: it keeps PEFT from asking the hub
import peft  # noqa: E402
import torch  # noqa: E402
from fixtures import check_size, fresh, save_tensors, start, write_versions  # noqa: E402
from lora.make_train import batch  # noqa: E402

HERE = Path(__file__).resolve().parent
STEPS = 12


def adalora(**keys):
    return peft.AdaLoraConfig(**{"init_r": 3, "target_r": 1, "lora_alpha": 8, "total_step": 100, "task_type": "CAUSAL_LM", **keys})


def ia3(**keys):
    return peft.IA3Config(**{"task_type": "CAUSAL_LM", **keys})


def cases():
    """Name -> (host, config, modules whose merged weight is kept)."""
    down = "model.layers.1.mlp.down_proj"
    llama, gpt2, bert = shared.GQA, shared.GPT2, shared.BERT
    return {
        "adalora": (llama, adalora(target_modules=["q_proj", "down_proj"]), [shared.FIRST_Q, down]),
        "adalora_gpt2": (gpt2, adalora(target_modules=["c_attn", "c_fc"], fan_in_fan_out=True), ["transformer.h.0.attn.c_attn"]),
        "adalora_classifier": (bert, adalora(target_modules=["query", "value"], task_type="SEQ_CLS"), ["bert.encoder.layer.0.attention.self.query"]),
        "ia3": (llama, ia3(), ["model.layers.0.self_attn.k_proj", down]),
        "ia3_gpt2": (gpt2, ia3(fan_in_fan_out=True), ["transformer.h.0.attn.c_attn", "transformer.h.1.mlp.c_proj"]),
        "ia3_classifier": (bert, ia3(task_type="SEQ_CLS"), ["bert.encoder.layer.0.attention.self.key", "bert.encoder.layer.1.output.dense"]),
        "ia3_t5": (shared.T5, ia3(task_type="SEQ_2_SEQ_LM"), ["encoder.block.1.layer.1.DenseReluDense.wo", "decoder.block.0.layer.1.EncDecAttention.k"]),
        "adalora_t5": (shared.T5, adalora(target_modules=["q", "wi_1"], task_type="SEQ_2_SEQ_LM"), ["encoder.block.0.layer.0.SelfAttention.q"]),
        "ia3_outputs": (llama, ia3(target_modules=["q_proj", "up_proj"], feedforward_modules=[]), [shared.FIRST_Q]),
    }


def trained(model):
    """The trained tensors by the keys under which PEFT saves them."""
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}


def left(model):
    return sum(int((p != 0).sum()) for n, p in model.named_parameters() if "lora_E" in n)


def make_budget():
    """Twelve steps with PEFT's own allocator."""
    folder = fresh(HERE / "adalora_budget")
    config = adalora(target_modules=["q_proj", "v_proj", "down_proj"], tinit=2, tfinal=4, deltaT=2, total_step=STEPS, orth_reg_weight=0.1)
    model, inputs = shared.wrapped(shared.GQA, config)
    shared.disturb(model, seed=7)
    rows, losses, ranks = batch(inputs), [], []
    expected = {f"initial.{k}": p.detach().clone() for k, p in trained(model).items()}
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for step in range(STEPS):
        with torch.enable_grad():
            loss = model(**rows).loss
            loss.backward()
        losses.append(loss.item())
        optimizer.step()
        model.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
        ranks.append(left(model))
    expected.update({f"final.{k}": p.detach().clone() for k, p in trained(model).items()}, **rows)
    expected.update(losses=torch.tensor(losses), ranks=torch.tensor(ranks, dtype=torch.float32), logits=model(**inputs).logits)
    model.save_pretrained(folder)
    shared.tidy(folder)
    again = peft.PeftModel.from_pretrained(shared.host(shared.GQA)[0], folder).eval()(**inputs).logits
    assert torch.allclose(again, expected["logits"], atol=1e-5)
    expected["merged_logits"] = model.merge_and_unload()(**inputs).logits
    save_tensors(folder / "expected.safetensors", expected)
    print(f"adalora_budget: ranks {ranks}, {config.rank_pattern}, {check_size(folder)} bytes")


def main(arguments):
    start()
    known = cases()
    for case in arguments or [*known, "adalora_budget"]:
        with torch.no_grad():
            make_budget() if case == "adalora_budget" else shared.make(case, *known[case], root=HERE)
    write_versions(HERE, "parity/adapters/make.py")


if __name__ == "__main__":
    main(sys.argv[1:])
