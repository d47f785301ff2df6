use super::*;
use crate::checks::{close, gradients, plain, random};
use burn::tensor::{Device, TensorData};
use modelsmith_core::parameters::to_vec;

const ALL: [Activation; 3] = [Activation::Silu, Activation::Gelu, Activation::GeluTanh];

#[test]
fn values_and_gradients_are_those_of_the_reference() {
    for function in ALL {
        for (shape, size) in [
            ([1, 1], 1.0),
            ([7, 31], 3.0),
            ([130, 257], 30.0),
            ([0, 5], 1.0),
        ] {
            let x = random("x", shape, size);
            let (got, expected) = (
                activate(x.clone(), function),
                reference(x.clone(), function),
            );
            close(got.clone(), expected.clone(), 1e-6);
            let [ours] = gradients(got, [&x]);
            let [theirs] = gradients(expected, [&x]);
            close(ours, theirs, 2e-6);
        }
    }
}

#[test]
fn gates_and_their_gradients_are_those_of_the_reference() {
    for function in ALL {
        for (shape, size) in [
            ([1, 1], 1.0),
            ([7, 31], 3.0),
            ([130, 257], 30.0),
            ([0, 5], 1.0),
        ] {
            let (gate, up) = (random("gate", shape, size), random("up", shape, 1.0));
            let got = gated(gate.clone(), up.clone(), function);
            let expected = reference_gated(gate.clone(), up.clone(), function);
            close(got.clone(), expected.clone(), 1e-6);
            let ours = gradients(got, [&gate, &up]);
            let theirs = gradients(expected, [&gate, &up]);
            for (ours, theirs) in ours.into_iter().zip(theirs) {
                close(ours, theirs, 2e-6);
            }
        }
    }
}

#[test]
fn extremes_give_what_the_reference_gives() {
    let values = [
        0.0,
        -0.0,
        1e-30,
        88.0,
        -88.0,
        1e4,
        -1e4,
        1e18,
        f32::INFINITY,
        f32::NAN,
    ];
    let x = Tensor::<1>::from_floats(values, &Device::flex());
    for function in ALL {
        let (got, expected) = (
            activate(x.clone(), function),
            reference(x.clone(), function),
        );
        for (got, expected) in to_vec(got).into_iter().zip(to_vec(expected)) {
            let same = got == expected || (got.is_nan() && expected.is_nan());
            assert!(same || (got - expected).abs() < 1e-6, "{got} {expected}");
        }
    }
}

#[test]
fn errors_are_within_the_stated_bounds() {
    let values: Vec<f32> = (-80_000..80_000).map(|i| i as f32 * 1e-3).collect();
    let count = values.len();
    let x = Tensor::<1>::from_data(TensorData::new(values.clone(), [count]), &Device::flex());
    let (silu, tanh) = (to_vec(silu(x.clone())), to_vec(gelu_tanh(x)));
    for ((x, silu), tanh) in values.into_iter().zip(silu).zip(tanh) {
        let wide = f64::from(x);
        let exact = wide / (1.0 + (-wide).exp());
        assert!(
            (f64::from(silu) - exact).abs() <= 4.0 * 1.2e-7 * exact.abs(),
            "silu({x})"
        );
        let root = (2.0 / std::f64::consts::PI).sqrt();
        let exact = wide * 0.5 * (1.0 + (root * (wide + 0.044_715 * wide.powi(3))).tanh());
        assert!(
            (f64::from(tanh) - exact).abs() <= 2.6e-7 * wide.abs(),
            "gelu_tanh({x})"
        );
    }
}

#[test]
fn views_of_other_orders_are_read_right() {
    let (gate, up) = (random("gate", [5, 9], 2.0), random("up", [9, 5], 2.0));
    for function in ALL {
        let got = gated(gate.clone().transpose(), up.clone(), function);
        let expected = reference_gated(gate.clone().transpose(), up.clone(), function);
        close(got.clone(), expected.clone(), 1e-6);
        let ours = gradients(got, [&gate]);
        let theirs = gradients(expected, [&gate]);
        close(ours[0].clone(), theirs[0].clone(), 2e-6);
    }
}

#[test]
fn only_the_tracked_side_takes_a_gradient() {
    let (gate, up) = (
        random("gate", [5, 9], 2.0),
        plain("up", [5, 9], 1.0, &Device::flex()),
    );
    let got = swiglu(gate.clone(), up.clone());
    let expected = reference_gated(gate.clone(), up, Activation::Silu);
    let ([ours], [theirs]) = (gradients(got, [&gate]), gradients(expected, [&gate]));
    close(ours, theirs, 2e-6);
}

#[test]
fn shapes_that_broadcast_take_the_reference() {
    let flex = Device::flex();
    let (gate, up) = (
        plain("gate", [4, 1], 1.0, &flex),
        plain("up", [4, 3], 1.0, &flex),
    );
    assert_eq!(swiglu(gate, up).dims(), [4, 3]);
}

#[test]
fn gradients_are_differences_of_values() {
    for function in ALL {
        for at in [-3.0f32, -0.7, 0.0, 0.4, 2.5] {
            let x = Tensor::<1>::from_floats([at], &Device::flex().autodiff()).require_grad();
            let grads = activate(x.clone(), function).backward();
            let slope = to_vec(x.grad(&grads).unwrap())[0];
            let value = |x: f32| {
                let x = Tensor::<1>::from_data(TensorData::new(vec![x], [1]), &Device::flex());
                to_vec(activate(x, function))[0]
            };
            let difference = (value(at + 5e-3) - value(at - 5e-3)) / 1e-2;
            assert!((slope - difference).abs() < 1e-3, "{function:?} at {at}");
        }
    }
}

#[test]
fn repeated_runs_give_the_same_bytes() {
    let run = || {
        let (gate, up) = (
            random("gate", [300, 257], 2.0),
            random("up", [300, 257], 2.0),
        );
        let y = swiglu(gate.clone(), up.clone());
        let [dgate, dup] = gradients(y.clone(), [&gate, &up]);
        [to_vec(y), to_vec(dgate), to_vec(dup)]
    };
    assert_eq!(run(), run());
}
