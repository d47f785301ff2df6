"""Editors written out in PyTorch as their papers state them: the yardstick for numbers and for time.

ROME (Meng et al. 2022), C-ROME (Yang et al. 2024), MEMIT (Meng et al. 2023), ENCORE (Gupta et al. 2025), PMET's
target (Li et al. 2024), the value of an entry of GRACE (Hartvigsen et al. 2023). Facts come in tokens:

    {"prompts": [{"ids": [...], "lookup": 3}, ...],   the bare prompt first, then those behind contexts
     "essence": {"ids": [...], "lookup": 1},          "{subject} is a"
     "target": [...]}

Nothing is clever here: every step of the search runs the whole model on whole texts, a fact at a time.
"""

import torch
from torch.nn.functional import cross_entropy


class Host:
    """A causal language model of transformers with its blocks by what they do."""

    def __init__(self, model):
        self.model = model.eval().requires_grad_(False)
        if hasattr(model, "transformer"):
            self.blocks = list(model.transformer.h)
            self.mlps = [block.mlp.c_proj for block in self.blocks]
            self.attentions = [block.attn.c_proj for block in self.blocks]
            self.transposed = True
        else:
            self.blocks = list(model.model.layers)
            self.mlps = [block.mlp.down_proj for block in self.blocks]
            self.attentions = [block.self_attn.o_proj for block in self.blocks]
            self.transposed = False

    def weight(self, layer):
        """[outputs, inputs], f64."""
        weight = self.mlps[layer].weight
        return (weight.T if self.transposed else weight).double()

    def add(self, layer, change):
        """Adds a change [outputs, inputs]."""
        weight = self.mlps[layer].weight
        new = self.weight(layer) + change
        weight.data.copy_((new.T if self.transposed else new).to(weight.dtype))


class Stop(Exception):
    """Ends a pass that has shown what was wanted."""


def pad(rows):
    """Rows of ids, filled up on the right, with their mask."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    return ids, mask


def first(output):
    return output[0] if isinstance(output, tuple) else output


@torch.no_grad()
def read(host, module, prompts, side, batch=128):
    """Inputs or outputs of a module at the lookup tokens, [prompts, width]."""
    found = []
    for begin in range(0, len(prompts), batch):
        part = prompts[begin : begin + batch]
        seen = []

        def keep(_, inputs, output):
            seen.append(inputs[0] if side == "input" else first(output))
            raise Stop

        handle = module.register_forward_hook(keep)
        ids, mask = pad([prompt["ids"][: prompt["lookup"] + 1] for prompt in part])
        try:
            host.model(input_ids=ids, attention_mask=mask)
        except Stop:
            pass
        handle.remove()
        rows = torch.arange(len(part))
        found.append(seen[0][rows, torch.tensor([prompt["lookup"] for prompt in part])])
    return torch.cat(found)


def adder(delta, rows, places):
    def add(_, inputs, output):
        x = first(output).clone()
        x[rows, places] = x[rows, places] + delta
        return (x, *output[1:]) if isinstance(output, tuple) else x

    return add


def search(host, fact, layer, reference, options):
    """The target activation, the steps taken, and the last loss."""
    target = fact["target"]
    texts = [prompt["ids"] + target[:-1] for prompt in fact["prompts"]]
    essence = fact["essence"]
    rows = len(texts)
    ids, mask = pad(texts + [essence["ids"]])
    lookups = torch.tensor([prompt["lookup"] for prompt in fact["prompts"]] + [essence["lookup"]])
    every = torch.arange(rows + 1)
    modules = {
        "block": [host.blocks[layer]],
        "mlp": [host.mlps[layer]],
        "attention_and_mlp": [host.attentions[layer], host.mlps[layer]],
    }[reference]
    begun = [read(host, module, fact["prompts"][:1], "output")[0] for module in modules]
    deltas = [torch.zeros_like(value, requires_grad=True) for value in begun]
    optimizer = torch.optim.Adam(deltas, lr=options["learning_rate"])
    before, hits = None, 0
    for step in range(options["steps"]):
        with torch.enable_grad():
            optimizer.zero_grad()
            handles = [module.register_forward_hook(adder(delta, every, lookups)) for module, delta in zip(modules, deltas)]
            logits = host.model(input_ids=ids, attention_mask=mask).logits
            for handle in handles:
                handle.remove()
            logs = torch.log_softmax(logits, dim=2)
            losses, right = [], []
            for row, prompt in enumerate(fact["prompts"]):
                places = torch.arange(len(target)) + len(prompt["ids"]) - 1
                losses.append(cross_entropy(logits[row, places], torch.tensor(target)))
                right.append((logits[row, places].argmax(1) == torch.tensor(target)).tolist())
            now = logs[rows, essence["lookup"]]
            if before is None:
                before = now.detach()
            divergence = (now.exp() * (now - before)).sum()
            decay = sum(delta.norm() / value.norm() ** 2 for delta, value in zip(deltas, begun))
            loss = torch.stack(losses).mean() + options["kl_factor"] * divergence + options["weight_decay"] * decay
        if all(all(row) for row in right[1:]):
            hits += 1
            if options["patience"] and hits == options["patience"]:
                break
        if loss < options["loss_stop"] or step == options["steps"] - 1:
            break
        loss.backward()
        optimizer.step()
        for delta, value in zip(deltas, begun):
            limit = options["clamp"] * value.norm()
            if delta.norm() > limit:
                delta.data.mul_(limit / delta.norm())
    return (begun[-1] + deltas[-1]).detach().double(), step, loss.item()


@torch.no_grad()
def keys(host, facts, layer):
    """Keys of the bare prompts and means over the prefixed ones, [inputs, facts] each, f64."""
    prompts = [prompt for fact in facts for prompt in fact["prompts"]]
    found = read(host, host.mlps[layer], prompts, "input").double()
    found = found.reshape(len(facts), -1, found.shape[1])
    return found[:, 0].T, found[:, 1:].mean(1).T


@torch.no_grad()
def rome(host, fact, layer, moment, options, consistent=False):
    """One fact by a change of rank one; C-ROME where keys are consistent. Steps and loss of the search."""
    with torch.enable_grad():
        value, steps, loss = search(host, fact, layer, "mlp", options)
    bare, prefixed = keys(host, [fact], layer)
    contexts = len(fact["prompts"]) - 1
    mean = (bare + contexts * prefixed) / (contexts + 1)
    direction = torch.linalg.solve(moment, mean)
    direction = direction / direction.norm()
    key = mean if consistent else bare
    residual = value[:, None] - read(host, host.mlps[layer], fact["prompts"][:1], "output").double().T
    if consistent:
        residual = residual + host.weight(layer) @ (bare - mean)
    host.add(layer, residual / (direction.T @ key) @ direction.T)
    return steps, loss


@torch.no_grad()
def memit(host, facts, layers, moments, memory, options, moment_weight, norm_weight, reference="block"):
    """Many facts over several layers; `memory` is changed. Steps and losses of the searches."""
    with torch.enable_grad():
        found = [search(host, fact, layers[-1], reference, options) for fact in facts]
    values = torch.stack([value for value, _, _ in found], 1)
    module = host.blocks[layers[-1]] if reference == "block" else host.mlps[layers[-1]]
    bare_prompts = [fact["prompts"][0] for fact in facts]
    for place, layer in enumerate(layers):
        bare, prefixed = keys(host, facts, layer)
        key = (bare + prefixed) / 2
        left = len(layers) - place
        now = read(host, module, bare_prompts, "output").double().T
        residual = (values - now) / (left if reference == "block" else left**0.5)
        system = moment_weight * moments[layer] + memory[layer] + norm_weight * torch.eye(len(key), dtype=torch.double)
        gram = key @ key.T
        change = residual @ torch.linalg.solve(system + gram, key).T
        memory[layer] += gram
        host.add(layer, change)
    return [steps for _, steps, _ in found], [loss for _, _, loss in found]


def grace_value(host, fact, layer, value, steps, learning_rate):
    """The trained value in the place of the MLP's output at the last prompt token, and the loss before every step."""
    prompt, target = fact["prompts"][0]["ids"], fact["target"]
    ids = torch.tensor([prompt + target[:-1]])
    last = len(prompt) - 1
    value = value.clone().requires_grad_(True)
    optimizer = torch.optim.Adam([value], lr=learning_rate)

    def put(_, inputs, output):
        output = output.clone()
        output[:, last] = value
        return output

    losses = []
    for _ in range(steps):
        with torch.enable_grad():
            optimizer.zero_grad()
            handle = host.mlps[layer].register_forward_hook(put)
            logits = host.model(input_ids=ids).logits
            handle.remove()
            places = torch.arange(len(target)) + last
            loss = cross_entropy(logits[0, places], torch.tensor(target))
            losses.append(loss.item())
            loss.backward()
            optimizer.step()
    return value.detach(), losses
