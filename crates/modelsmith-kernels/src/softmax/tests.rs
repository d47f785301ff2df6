use super::*;
use crate::checks::{close, gradients, near, plain, random};
use burn::tensor::{Device, TensorData};
use modelsmith_core::parameters::to_vec;

const SHAPES: [[usize; 4]; 6] = [
    [1, 1, 1, 1],
    [2, 3, 5, 7],
    [2, 2, 33, 33],
    [1, 4, 60, 129],
    [0, 2, 3, 4],
    [2, 2, 0, 4],
];

#[test]
fn values_and_gradients_are_those_of_the_reference() {
    for shape in SHAPES {
        for size in [0.1, 3.0, 200.0] {
            let x = random("x", shape, size);
            let (got, expected) = (softmax(x.clone(), None), reference(x.clone(), None));
            close(got.clone(), expected.clone(), 2e-6);
            let ([ours], [theirs]) = (gradients(got, [&x]), gradients(expected, [&x]));
            near(ours, theirs, 2e-6);
            let (got, expected) = (log_softmax(x.clone()), reference_log(x.clone()));
            close(got.clone(), expected.clone(), 2e-6);
            let ([ours], [theirs]) = (gradients(got, [&x]), gradients(expected, [&x]));
            close(ours, theirs, 1e-5);
        }
    }
}

#[test]
fn biases_of_every_broadcast_shape_get_their_gradients() {
    let shape = [2, 3, 5, 7];
    for mask in 0..8 {
        let lengths = [0, 1, 2, 3].map(|axis| match mask >> axis & 1 {
            1 if axis < 3 => 1,
            _ => shape[axis],
        });
        let (x, bias) = (random("x", shape, 2.0), random("bias", lengths, 2.0));
        let got = softmax(x.clone(), Some(bias.clone()));
        let expected = reference(x.clone(), Some(bias.clone()));
        close(got.clone(), expected.clone(), 2e-6);
        let ours = gradients(got, [&x, &bias]);
        for (ours, theirs) in ours.into_iter().zip(gradients(expected, [&x, &bias])) {
            near(ours, theirs, 2e-6);
        }
    }
}

/// A causal mask of negative infinities, `[1, 1, time, time]`.
fn causal(time: usize) -> Tensor<4> {
    let values = (0..time * time).map(|at| match at % time > at / time {
        true => f32::NEG_INFINITY,
        false => 0.0,
    });
    let data = TensorData::new(values.collect::<Vec<_>>(), [1, 1, time, time]);
    Tensor::from_data(data, &Device::flex())
}

#[test]
fn masked_places_get_nothing_and_give_nothing() {
    let x = random("x", [2, 3, 19, 19], 3.0);
    let got = softmax(x.clone(), Some(causal(19)));
    let expected = reference(x.clone(), Some(causal(19)));
    for (at, p) in to_vec(got.clone()).into_iter().enumerate() {
        let (row, column) = (at / 19 % 19, at % 19);
        assert_eq!(column > row, p == 0.0, "{at}: {p}");
    }
    close(got.clone(), expected.clone(), 2e-6);
    let ([ours], [theirs]) = (gradients(got, [&x]), gradients(expected, [&x]));
    near(ours, theirs, 2e-6);
}

#[test]
fn a_row_of_nothing_but_masks_has_no_distribution() {
    let x = Tensor::<2>::from_floats([[1.0, 2.0], [0.0, 0.0]], &Device::flex());
    let out = f32::NEG_INFINITY;
    let bias = Tensor::<2>::from_floats([[out, out], [0.0, 0.0]], &Device::flex());
    let got = to_vec(softmax(x, Some(bias)));
    assert!(got[0].is_nan() && got[1].is_nan());
    assert_eq!(got[2..], [0.5, 0.5]);
}

#[test]
fn a_bias_of_length_one_takes_the_reference() {
    let flex = Device::flex();
    let (x, bias) = (
        plain("x", [3, 5], 1.0, &flex),
        plain("bias", [3, 1], 1.0, &flex),
    );
    let expected = reference(x.clone(), Some(bias.clone()));
    close(softmax(x, Some(bias)), expected, 1e-6);
}

#[test]
fn views_are_read_in_their_order() {
    let (x, bias) = (random("x", [5, 9], 2.0), random("bias", [9, 1], 2.0));
    let (view, offsets) = (x.clone().transpose(), bias.clone().transpose());
    let got = softmax(x.clone(), Some(bias.clone().transpose()));
    let expected = reference(x.clone(), Some(offsets));
    close(got.clone(), expected.clone(), 2e-6);
    let ours = gradients(got, [&x, &bias]);
    for (ours, theirs) in ours.into_iter().zip(gradients(expected, [&x, &bias])) {
        near(ours, theirs, 2e-6);
    }
    close(log_softmax(view.clone()), reference_log(view), 2e-6);
}

#[test]
fn extreme_scores_stay_finite() {
    let x = Tensor::<1>::from_floats([3e38, -3e38, 0.0, 1.0], &Device::flex());
    assert_eq!(to_vec(softmax(x.clone(), None)), [1.0, 0.0, 0.0, 0.0]);
    let logs = to_vec(log_softmax(x));
    assert_eq!((logs[0], logs[2]), (0.0, -3e38));
}

#[test]
fn gradients_are_differences_of_values() {
    let values = [0.5f32, -1.0, 2.0];
    let first = |values: &[f32], tracked: bool| {
        let device = Device::flex().autodiff();
        let x = Tensor::<1>::from_data(TensorData::new(values.to_vec(), [3]), &device);
        let x = if tracked { x.require_grad() } else { x };
        (x.clone(), softmax(x, None).narrow(0, 0, 1))
    };
    let (x, p) = first(&values, true);
    let slope = to_vec(x.grad(&p.backward()).unwrap());
    for i in 0..3 {
        let moved = |by: f32| {
            let mut values = values;
            values[i] += by;
            to_vec(first(&values, false).1)[0]
        };
        assert!((slope[i] - (moved(5e-3) - moved(-5e-3)) / 1e-2).abs() < 1e-4);
    }
}

#[test]
fn repeated_runs_give_the_same_bytes() {
    let run = || {
        let (x, bias) = (
            random("x", [2, 4, 70, 70], 2.0),
            random("bias", [2, 1, 70, 70], 2.0),
        );
        let p = softmax(x.clone(), Some(bias.clone()));
        let [dx, db] = gradients(p.clone(), [&x, &bias]);
        [to_vec(p), to_vec(dx), to_vec(db)]
    };
    assert_eq!(run(), run());
}
