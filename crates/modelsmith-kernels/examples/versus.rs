//! How much faster are the fused forms than burn's composed ones? Prints milliseconds, the best of
//! several alternating runs, forward and backward together: `cargo run --release --example versus`.

use burn::tensor::{Device, Int, Tensor, TensorData};
use modelsmith_core::layers::NormKind;
use modelsmith_core::random::Stream;
use modelsmith_kernels as fused;
use modelsmith_kernels::{Activation, AdamWParameter, AdamWStep, reference as plain};
use std::cell::RefCell;
use std::io::Write;
use std::time::Instant;

const RUNS: usize = 15;

fn main() -> std::io::Result<()> {
    cross_entropy(1024, 288, 2048)?;
    cross_entropy(1024, 576, 32_000)?;
    let shape = [8, 128, 1024];
    for function in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        let run = |form: fn(Tensor<3>, Tensor<3>, Activation) -> Tensor<3>| {
            let (gate, up) = (random("gate", shape), random("up", shape));
            move || step(form(gate.clone(), up.clone(), function))
        };
        report(
            &format!("gated {function:?} {shape:?}"),
            run(plain::gated),
            run(fused::gated),
        )?;
    }
    for shape in [[8, 8, 128, 128], [1, 8, 1024, 1024]] {
        let [batch, _, time, _] = shape;
        let bias: Tensor<4> = random("bias", [batch, 1, time, time]).inner();
        let run = |form: fn(Tensor<4>, Option<Tensor<4>>) -> Tensor<4>| {
            let (x, bias) = (random("x", shape), bias.clone());
            move || step(form(x.clone(), Some(bias.clone())))
        };
        report(
            &format!("softmax {shape:?}"),
            run(plain::softmax),
            run(fused::softmax),
        )?;
    }
    let run = |form: fn(Tensor<2>) -> Tensor<2>| {
        let x = random("x", [1024, 8192]);
        move || step(form(x.clone()))
    };
    let (ours, theirs) = (run(fused::log_softmax), run(plain::log_softmax));
    report("log_softmax [1024, 8192]", theirs, ours)?;
    rotate()?;
    adamw(300, 2304)?;
    adamw(15, 1 << 20)?;
    adamw(124, 1 << 20)?;
    for kind in [NormKind::Rms, NormKind::Layer] {
        norm(kind)?;
    }
    Ok(())
}

fn norm(kind: NormKind) -> std::io::Result<()> {
    type Form = fn(Tensor<3>, Tensor<1>, Option<Tensor<1>>, NormKind, f64) -> Tensor<3>;
    let shape = [8, 128, 576];
    let run = |form: Form| {
        let (x, weight) = (random("x", shape), random("weight", [576]).inner());
        move || step(form(x.clone(), weight.clone(), None, kind, 1e-6))
    };
    report(
        &format!("{kind:?} norm {shape:?}"),
        run(plain::norm),
        run(fused::norm),
    )
}

fn rotate() -> std::io::Result<()> {
    let shape = [8, 128, 9, 64];
    let angles: Tensor<4> = random("angles", [1, 128, 1, 32]).inner();
    let run = |form: fn(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<4>| {
        let (x, cos, sin) = (
            random("x", shape),
            angles.clone().cos(),
            angles.clone().sin(),
        );
        move || step(form(x.clone(), cos.clone(), sin.clone()))
    };
    report(
        &format!("rotate {shape:?}"),
        run(plain::rotate),
        run(fused::rotate),
    )
}

fn cross_entropy(rows: usize, width: usize, classes: usize) -> std::io::Result<()> {
    let targets = (0..rows)
        .map(|i| (i * 7 % classes) as i64)
        .collect::<Vec<_>>();
    let targets = Tensor::<1, Int>::from_data(TensorData::new(targets, [rows]), &Device::flex());
    let run = |form: fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>| {
        let hidden = random("hidden", [rows, width]);
        let (weight, targets) = (random("weight", [classes, width]).inner(), targets.clone());
        move || step(form(hidden.clone(), weight.clone(), targets.clone()))
    };
    let name = format!("linear_cross_entropy {rows} x {width} x {classes}");
    let (ours, theirs) = (
        run(fused::linear_cross_entropy),
        run(plain::linear_cross_entropy),
    );
    report(&name, theirs, ours)
}

fn random<const D: usize>(name: &str, shape: [usize; D]) -> Tensor<D> {
    let values = Stream::new(1, name).normal(shape.iter().product(), 0.0, 1.0);
    let data = TensorData::new(values, shape);
    Tensor::from_data(data, &Device::flex().autodiff()).require_grad()
}

/// Backward, and what it took.
fn step<const D: usize>(y: Tensor<D>) {
    let weights = y.clone().detach();
    (y * weights).sum().backward();
}

/// Alternates the two and prints the best time of each.
fn report(name: &str, theirs: impl Fn(), ours: impl Fn()) -> std::io::Result<()> {
    let time = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64() * 1e3
    };
    let mut best = [f64::INFINITY; 2];
    for _ in 0..RUNS {
        best[0] = best[0].min(time(&theirs));
        best[1] = best[1].min(time(&ours));
    }
    let [theirs, ours] = best;
    let ratio = theirs / ours;
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{name:<45} composed {theirs:>9.3} ms  fused {ours:>9.3} ms  ratio {ratio:.2}"
    )
}

/// A step of AdamW over matrices of these sizes.
fn adamw(count: usize, size: usize) -> std::io::Result<()> {
    let run = |form: fn(Vec<AdamWParameter<'_>>)| {
        let all = || {
            (0..count)
                .map(|_| random::<1>("x", [size]).inner())
                .collect::<Vec<_>>()
        };
        let tensors = RefCell::new([all(), all(), all(), all()]);
        move || {
            let [values, gradients, first, second] = &mut *tensors.borrow_mut();
            let moments = first.iter_mut().zip(second);
            let all = values.iter_mut().zip(gradients).zip(moments);
            let parameters = all.map(|((value, gradient), (first, second))| AdamWParameter {
                value,
                gradient: gradient.clone(),
                first,
                second,
                step: STEP,
            });
            form(parameters.collect());
        }
    };
    report(
        &format!("adamw {count} x {size}"),
        run(|all| all.into_iter().for_each(plain::adamw)),
        run(fused::adamw),
    )
}

const STEP: AdamWStep = AdamWStep {
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    steps: 10,
    learning_rate: 1e-4,
    weight_decay: 0.01,
    scale: 1.0,
};
