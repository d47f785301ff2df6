"""One measurement of a peer, in a process of its own: reads a job as JSON, prints what it found as JSON.

    python peer.py '{"kind": "train", "model": FOLDER, "method": "lora", ...}'
"""

import contextlib
import json
import os
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def read_rows(job):
    path = Path(job["data"])
    rows = [json.loads(line) for line in path.open()]
    return rows[: job["batch"] * job["steps"]]


def batches(job):
    """The batches of the steps, in the order of the file, as a model's arguments."""
    rows = read_rows(job)
    parts = [rows[at : at + job["batch"]] for at in range(0, len(rows), job["batch"])]
    for part in parts:
        if "input_ids" in part[0]:
            ids = torch.tensor([row["input_ids"] for row in part])
            # PEFT would have the first token predicted from a soft prompt; here it is given.
            labels = ids.clone()
            labels[:, 0] = -100
            yield dict(input_ids=ids, labels=labels)
        else:
            ids = torch.tensor([[int(word[1:]) for word in row["text"].split()] for row in part])
            yield dict(input_ids=ids, labels=torch.tensor([int(row["label"]) for row in part]))


def load(job, automatic):
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return getattr(transformers, automatic).from_pretrained(job["model"], dtype=torch.float32)


def adapted(model, job):
    """The model under PEFT, with the starting values that our program drew."""
    import peft
    if job["method"] == "prompt_tuning":
        config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=job["options"]["virtual_tokens"])
    else:
        options = job["options"]
        config = peft.LoraConfig(task_type="CAUSAL_LM", r=options["rank"], lora_alpha=options["alpha"],
                                 target_modules=options["target_modules"])
    model = peft.get_peft_model(model, config)
    start = peft.load_peft_weights(job["start"], device="cpu")
    # The step that wrote them moved B off zero, by little; but Adam makes great steps of little gradients.
    start = {name: value * (0.0 if "lora_B" in name else 1.0) for name, value in start.items()}
    peft.set_peft_model_state_dict(model, start)
    return model


def take_head(model, job):
    """A classifier is fresh in each training: both sides take the one that our program drew."""
    from safetensors import safe_open
    with safe_open(Path(job["start"]) / "adapter_model.safetensors", "pt") as start:
        for name, value in model.classifier.named_parameters():
            value.data.copy_(start.get_tensor(f"base_model.model.classifier.{name}"))


def loss_function(job):
    """What is trained, and the loss of a batch."""
    if job["peer"] == "torch":
        import llama
        model = llama.load(Path(job["model"]))
        return model, lambda batch: model(batch["input_ids"])
    classes = job["task"] == "classes"
    model = load(job, "AutoModelForSequenceClassification" if classes else "AutoModelForCausalLM")
    if classes:
        take_head(model, job)
    if job["method"] != "full":
        model = adapted(model, job)
    return model, lambda batch: model(**batch).loss


def train(job):
    """Steps as transformers' Trainer takes them: forward, backward, clip, fused AdamW, zero_grad."""
    model, loss_of = loss_function(job)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job["learning_rate"], weight_decay=0.0, fused=True)
    bf16 = job["dtype"] == "bf16"
    losses, seconds, norm = [], [], None
    for step, batch in enumerate(batches(job)):
        started = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = loss_of(batch)
        loss.backward()
        # The first step is not timed, so that its norm may be taken for the check also without clipping.
        if job["clip_norm"] or step == 0:
            found = torch.nn.utils.clip_grad_norm_(trained, job["clip_norm"] or float("inf"))
            norm = found.item() if step == 0 else norm
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    return dict(seconds=seconds, losses=losses, gradient_norm=norm)


def generate(job):
    """Greedy text from the words of the prompts, after a short one that is not timed."""
    model = load(job, "AutoModelForCausalLM").eval()
    ids = torch.tensor([[int(word[1:]) for word in prompt.split()] for prompt in job["prompts"]])

    def run(count):
        with torch.no_grad():
            return model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0,
                                  min_new_tokens=count, max_new_tokens=count)

    run(4)
    started = time.perf_counter()
    found = run(job["tokens"])
    seconds = time.perf_counter() - started
    texts = [" ".join(f"w{token}" for token in row[ids.shape[1]:].tolist()) for row in found]
    return dict(seconds=[seconds], texts=texts)


def start(job):
    """From nothing to the first token; the process as a whole is timed."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    model = load(job, "AutoModelForCausalLM").eval()
    ids = tokenizer(job["prompts"][0], return_tensors="pt").input_ids
    with torch.no_grad():
        token = model(ids).logits[0, -1].argmax().item()
    return dict(texts=[tokenizer.decode([token])])


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"train": train, "generate": generate, "start": start}[asked["kind"]](asked)))
