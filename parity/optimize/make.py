"""Makes `parity/optimize/*.json`: AdamW, learning-rate schedules and gradient clipping.

    python parity/optimize/make.py

`adamw.json`      per case the settings, the start, the gradients of five steps and the parameters
                  after each, in f64 and as torch computes them in f32
`schedules.json`  per case the factor on the learning rate for steps 0 to 19
`clip.json`       gradients of three tensors, their joint norm, and the gradients after clipping
"""

import sys
from pathlib import Path

import torch
import transformers as tf

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from fixtures import save_json, start, write_versions  # noqa: E402

HERE = Path(__file__).resolve().parent
STEPS, WARMUP, TOTAL = 5, 5, 20
ADAMW = {
    "default": dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01),
    "no_decay": dict(lr=1e-2, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0),
    "other_betas": dict(lr=3e-3, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
}


def adamw_path(settings, initial, gradients, dtype):
    """The parameters after each step."""
    parameter = torch.nn.Parameter(torch.tensor(initial, dtype=dtype))
    optimizer = torch.optim.AdamW([parameter], **settings)
    path = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        path.append(parameter.tolist())
    return path


def adamw():
    """Gradients span eight orders of magnitude, so that eps matters in some and not in others."""
    generator = torch.Generator().manual_seed(1)
    initial = torch.randn(6, generator=generator).tolist()
    scales = torch.tensor([1.0, 1e-1, 1e-3, 1e-6, 1e-8, 30.0])
    gradients = (torch.randn(STEPS, 6, generator=generator) * scales).tolist()
    return {name: dict(settings=settings, initial=initial, gradients=gradients,
                       parameters_f64=adamw_path(settings, initial, gradients, torch.float64),
                       parameters_f32=adamw_path(settings, initial, gradients, torch.float32))
            for name, settings in ADAMW.items()}


def factors(make, **keys):
    """The learning rate over its base at steps 0 to 19."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = make(optimizer, **keys)
    values = []
    for _ in range(TOTAL):
        values.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return dict(settings=keys, factors=values)


def schedules():
    warm = dict(num_warmup_steps=WARMUP)
    both = dict(num_warmup_steps=WARMUP, num_training_steps=TOTAL)
    return {
        "constant": factors(tf.get_constant_schedule),
        "constant_with_warmup": factors(tf.get_constant_schedule_with_warmup, **warm),
        "linear": factors(tf.get_linear_schedule_with_warmup, **both),
        "linear_without_warmup": factors(tf.get_linear_schedule_with_warmup, num_warmup_steps=0, num_training_steps=TOTAL),
        "cosine": factors(tf.get_cosine_schedule_with_warmup, **both),
        "cosine_without_warmup": factors(tf.get_cosine_schedule_with_warmup, num_warmup_steps=0, num_training_steps=TOTAL),
    }


def clip():
    """One case above the bound and one below, which must stay as it is."""
    generator = torch.Generator().manual_seed(2)
    gradients = [torch.randn(shape, generator=generator) for shape in ((3,), (2, 2), (1,))]
    found = {}
    for name, bound in (("clipped", 1.0), ("untouched", 100.0)):
        parameters = [torch.nn.Parameter(torch.zeros_like(g)) for g in gradients]
        for parameter, gradient in zip(parameters, gradients):
            parameter.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(parameters, bound).item()
        found[name] = dict(max_norm=bound, norm=norm, gradients=[g.tolist() for g in gradients],
                           clipped=[p.grad.tolist() for p in parameters])
    return found


def main():
    start()
    for name, value in (("adamw", adamw()), ("schedules", schedules()), ("clip", clip())):
        save_json(HERE / f"{name}.json", value)
    write_versions(HERE, "parity/optimize/make.py")


if __name__ == "__main__":
    main()
