//! How much faster is fused attention than the composed form? Prints milliseconds, forward and
//! backward, and of single steps with a key-value cache: `cargo run --release --example attention`.

use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::mask::Mask;
use modelsmith_core::random::Stream;
use modelsmith_kernels::{attention, reference};
use std::io::Write;
use std::time::Instant;

const RUNS: usize = 15;

type Form = fn([Tensor<4>; 3], &Mask) -> Tensor<4>;

fn main() -> std::io::Result<()> {
    for (lengths, masked) in [
        ([8, 6, 128, 48], false),
        ([8, 12, 128, 64], false),
        ([8, 12, 128, 64], true),
        ([1, 12, 512, 64], false),
        ([1, 12, 1024, 64], false),
        ([1, 12, 2048, 64], false),
    ] {
        let [batch, _, time, _] = lengths;
        let mask = Mask {
            bias: masked.then(|| random("bias", [batch, 1, time, time], &Device::flex())),
            ..Mask::causal()
        };
        let [theirs, ours] = [composed as Form, fused].map(|form| training(form, lengths, &mask));
        let name = format!("{lengths:?}{}", if masked { " with a bias" } else { "" });
        report(&format!("{name} forward"), theirs[0], ours[0])?;
        report(&format!("{name} backward"), theirs[1], ours[1])?;
    }
    for (batch, kv_heads, keys) in [(1, 12, 128), (1, 12, 1024), (8, 12, 1024), (8, 4, 1024)] {
        let [theirs, ours] =
            [composed as Form, fused].map(|form| decoding(form, batch, kv_heads, keys));
        let name = format!("one token, batch {batch}, 12 heads on {kv_heads}, {keys} keys");
        report(&name, theirs, ours)?;
    }
    Ok(())
}

fn fused([q, k, v]: [Tensor<4>; 3], mask: &Mask) -> Tensor<4> {
    attention(q, k, v, 0.125, mask)
}

fn composed([q, k, v]: [Tensor<4>; 3], mask: &Mask) -> Tensor<4> {
    reference::attention(q, k, v, 0.125, mask, |p| p)
}

/// The least times forward and backward, between layers that read and give `[batch, time, width]`.
fn training(form: Form, [batch, heads, time, dim]: [usize; 4], mask: &Mask) -> [f64; 2] {
    let device = Device::flex().autodiff();
    let shape = [batch, time, heads * dim];
    let inputs = ["q", "k", "v"].map(|name| random(name, shape, &device).require_grad());
    let weights = random("weights", shape, &device);
    let mut best = [f64::MAX; 2];
    for _ in 0..RUNS {
        let heads = inputs.each_ref().map(|x| {
            let x: Tensor<3> = x.clone();
            x.reshape([batch, time, heads, dim]).swap_dims(1, 2)
        });
        let start = Instant::now();
        let y = form(heads, mask).swap_dims(1, 2).reshape(shape);
        best[0] = best[0].min(start.elapsed().as_secs_f64());
        let loss = (y * weights.clone()).sum();
        let start = Instant::now();
        let gradients = loss.backward();
        best[1] = best[1].min(start.elapsed().as_secs_f64());
        drop(gradients);
    }
    best
}

/// The least time of a step with one query, keys and values in buffers longer than used.
fn decoding(form: Form, batch: usize, kv_heads: usize, keys: usize) -> f64 {
    let device = Device::flex();
    let q = random("q", [batch, 12, 1, 64], &device);
    let buffer = |name| random(name, [batch, kv_heads, 2 * keys, 64], &device).narrow(2, 0, keys);
    let (k, v) = (buffer("k"), buffer("v"));
    let mut best = f64::MAX;
    for _ in 0..10 * RUNS {
        let start = Instant::now();
        let y = form([q.clone(), k.clone(), v.clone()], &Mask::causal());
        best = best.min(start.elapsed().as_secs_f64());
        drop(y);
    }
    best
}

fn random<const D: usize>(name: &str, shape: [usize; D], device: &Device) -> Tensor<D> {
    let values = Stream::new(1, name).normal(shape.iter().product(), 0.0, 1.0);
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn report(name: &str, theirs: f64, ours: f64) -> std::io::Result<()> {
    let (theirs, ours) = (1e3 * theirs, 1e3 * ours);
    let ratio = theirs / ours;
    writeln!(
        std::io::stdout(),
        "{name:48} composed {theirs:8.3} ms, fused {ours:8.3} ms, {ratio:.1} times"
    )
}
