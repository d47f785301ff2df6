use super::*;
use crate::checks::{close, plain, random};
use burn::tensor::{Device, TensorData};
use modelsmith_core::parameters::to_vec;

/// Result and gradients of one form, the gradients under fixed random outer ones.
type Form = fn(Tensor<3>, Tensor<1>, Option<Tensor<1>>, NormKind, f64) -> Tensor<3>;

fn run(form: Form, shape: [usize; 3], size: f32, kind: NormKind, biased: bool) -> Vec<Tensor<1>> {
    let x = random("x", shape, size);
    let (weight, bias) = (
        random("weight", [shape[2]], 1.0),
        random("bias", [shape[2]], 1.0),
    );
    let offset = biased.then(|| bias.clone());
    let y = form(x.clone(), weight.clone(), offset, kind, 1e-5);
    let outer = plain("outer", shape, 1.0, &Device::flex());
    let grads = (y.clone() * outer).sum().backward();
    let mut all = vec![
        y.inner().flatten(0, 2),
        x.grad(&grads).unwrap().flatten(0, 2),
    ];
    all.push(weight.grad(&grads).unwrap());
    if biased {
        all.push(bias.grad(&grads).unwrap());
    }
    all
}

#[test]
fn values_and_gradients_are_those_of_the_reference() {
    for kind in [NormKind::Layer, NormKind::Rms] {
        for shape in [[1, 1, 1], [2, 3, 5], [3, 50, 129], [2, 300, 64], [0, 4, 6]] {
            for (size, biased) in [(1.0, true), (1e-3, false), (1e4, true)] {
                let got = run(norm, shape, size, kind, biased);
                let expected = run(normalise, shape, size, kind, biased);
                // One value a row has no deviation: its gradient is what rounding leaves.
                let tolerance = if shape[2] == 1 { 1e-2 } else { 2e-5 };
                for (got, expected) in got.into_iter().zip(expected) {
                    close(got, expected, tolerance);
                }
            }
        }
    }
}

#[test]
fn a_frozen_plain_weight_takes_no_gradient() {
    let x = random("x", [4, 10], 2.0);
    let weight = plain("weight", [10], 1.0, &Device::flex());
    let ours = rms_norm(x.clone(), weight.clone(), 1e-6).sum().backward();
    let theirs = normalise(x.clone(), weight, None, NormKind::Rms, 1e-6);
    let theirs = theirs.sum().backward();
    close(x.grad(&ours).unwrap(), x.grad(&theirs).unwrap(), 1e-5);
}

#[test]
fn a_weight_alone_can_be_tracked() {
    let x = plain("x", [4, 10], 2.0, &Device::flex());
    let weight = random("weight", [10], 1.0);
    let ours = layer_norm(x.clone(), weight.clone(), None, 1e-6)
        .sum()
        .backward();
    let theirs = normalise(x, weight.clone(), None, NormKind::Layer, 1e-6);
    let theirs = theirs.sum().backward();
    close(
        weight.grad(&ours).unwrap(),
        weight.grad(&theirs).unwrap(),
        1e-5,
    );
}

#[test]
fn views_are_read_in_their_order() {
    let x = random("x", [10, 7], 2.0);
    let weight = random("weight", [10], 1.0);
    let ours = layer_norm(x.clone().transpose(), weight.clone(), None, 1e-6);
    let theirs = normalise(x.clone().transpose(), weight, None, NormKind::Layer, 1e-6);
    close(ours.clone(), theirs.clone(), 1e-5);
    let outer = || plain("outer", [7, 10], 1.0, &Device::flex());
    let (ours, theirs) = (
        (ours * outer()).sum().backward(),
        (theirs * outer()).sum().backward(),
    );
    close(x.grad(&ours).unwrap(), x.grad(&theirs).unwrap(), 1e-5);
}

#[test]
fn rows_of_zeros_stay_finite() {
    let flex = Device::flex();
    let (x, weight) = (
        Tensor::<2>::zeros([2, 8], &flex),
        Tensor::<1>::ones([8], &flex),
    );
    assert_eq!(to_vec(rms_norm(x.clone(), weight.clone(), 1e-6)), [0.0; 16]);
    assert_eq!(to_vec(layer_norm(x, weight, None, 1e-6)), [0.0; 16]);
}

#[test]
fn gradients_are_differences_of_values() {
    let values = [0.5f32, -1.0, 2.0, 0.1];
    let weight = || plain("weight", [4], 1.0, &Device::flex());
    for kind in [NormKind::Layer, NormKind::Rms] {
        let first = |values: &[f32]| {
            let data = TensorData::new(values.to_vec(), [4]);
            let x = Tensor::<1>::from_data(data, &Device::flex().autodiff()).require_grad();
            (
                x.clone(),
                norm(x, weight(), None, kind, 1e-5).narrow(0, 0, 1),
            )
        };
        let (x, y) = first(&values);
        let slope = to_vec(x.grad(&y.backward()).unwrap());
        for i in 0..4 {
            let moved = |by: f32| {
                let mut values = values;
                values[i] += by;
                to_vec(first(&values).1)[0]
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((slope[i] - difference).abs() < 1e-3, "{kind:?} {i}");
        }
    }
}

#[test]
fn repeated_runs_give_the_same_bytes() {
    let bytes = || -> Vec<_> {
        let all = run(norm, [3, 300, 70], 1.0, NormKind::Layer, true);
        all.into_iter().map(to_vec).collect()
    };
    assert_eq!(bytes(), bytes());
}
