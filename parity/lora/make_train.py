"""Makes `parity/lora/train/`: three AdamW steps on a LoRA adapter, as PEFT and torch take them.

    python parity/lora/make_train.py

The folder is the initial adapter (B is not zero, so that A has a gradient from the first step) and
  input_ids, attention_mask, labels [2, 12]   labels hold -100 where no loss is taken
  losses [4]                                  before each of the three steps and after the last
  grad.<key>, final.<key>                     the first gradients and the final adapter, by the keys
                                              of adapter_model.safetensors
The loss is the mean over the labelled tokens of both rows after the shift by one, as the model
computes it from `labels`. AdamW: lr 1e-2, betas 0.9 and 0.999, eps 1e-8, weight decay 0.01.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from lora import make  # noqa: E402  first: it keeps PEFT from asking the hub
import torch  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from fixtures import check_size, fresh, save_tensors, start  # noqa: E402

STEPS = 3


def batch(inputs):
    """The host's rows with labels on the second part of each row only."""
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    labels[0, :5] = -100
    labels[1, :3] = -100
    labels[0, 8] = -100
    return {**inputs, "labels": labels}


def trained(model):
    """The trained tensors by the keys under which PEFT saves them."""
    return {n.replace(".default", ""): p for n, p in model.named_parameters() if p.requires_grad}


def main():
    start()
    folder = fresh(make.HERE / "train")
    model, inputs = make.wrapped(make.GQA, make.lora(target_modules=make.ATTENTION))
    make.disturb(model, seed=3)
    model.save_pretrained(folder)
    make.tidy(folder)
    rows, expected, losses = batch(inputs), {}, []
    optimizer = torch.optim.AdamW(trained(model).values(), lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for step in range(STEPS):
        with torch.enable_grad():
            loss = model(**rows).loss
            loss.backward()
        losses.append(loss.item())
        if step == 0:
            expected.update({f"grad.{k}": p.grad for k, p in trained(model).items()})
            expected = {k: v.clone() for k, v in expected.items()}
        optimizer.step()
        optimizer.zero_grad()
    losses.append(model(**rows).loss.item())
    expected.update({f"final.{k}": p for k, p in trained(model).items()}, **rows, losses=torch.tensor(losses))
    saved = load_file(folder / "adapter_model.safetensors")
    assert sorted(saved) == sorted(trained(model)), sorted(saved)
    save_tensors(folder / "expected.safetensors", expected)
    print(f"train: losses {losses}, {check_size(folder)} bytes")


if __name__ == "__main__":
    main()
