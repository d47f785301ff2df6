use super::*;
use crate::checks::{close, gradients, plain, random};
use burn::tensor::Device;
use modelsmith_core::parameters::to_vec;

fn angles(rows: usize, time: usize, half: usize) -> [Tensor<4>; 2] {
    let angles: Tensor<4> = plain("angles", [rows, time, 1, half], 3.0, &Device::flex());
    [angles.clone().cos(), angles.sin()]
}

#[test]
fn values_and_gradients_are_those_of_the_reference() {
    for ([batch, time, heads, dim], rows) in [
        ([1, 1, 1, 2], 1),
        ([3, 5, 2, 6], 3),
        ([2, 130, 4, 66], 1),
        ([2, 130, 4, 66], 2),
        ([0, 4, 2, 6], 1),
    ] {
        let x = random("x", [batch, time, heads, dim], 2.0);
        let [cos, sin] = angles(rows, time, dim / 2);
        let got = rotate(x.clone(), cos.clone(), sin.clone());
        let expected = reference(x.clone(), cos, sin);
        assert_eq!(to_vec(got.clone()), to_vec(expected.clone()));
        // The composed form of nothing is not tracked.
        if batch == 0 {
            continue;
        }
        let ([ours], [theirs]) = (gradients(got, [&x]), gradients(expected, [&x]));
        close(ours, theirs, 1e-6);
    }
}

#[test]
fn views_are_read_in_their_order() {
    let x = random("x", [2, 3, 5, 8], 1.0);
    let [cos, sin] = angles(1, 5, 4);
    let got = rotate(x.clone().swap_dims(1, 2), cos.clone(), sin.clone());
    let expected = reference(x.clone().swap_dims(1, 2), cos, sin);
    assert_eq!(to_vec(got.clone()), to_vec(expected.clone()));
    let ([ours], [theirs]) = (gradients(got, [&x]), gradients(expected, [&x]));
    close(ours, theirs, 1e-6);
}

#[test]
fn angles_a_head_take_the_reference() {
    let flex = Device::flex();
    let x = plain("x", [1, 3, 2, 4], 1.0, &flex);
    let angles: Tensor<4> = plain("angles", [1, 3, 2, 2], 1.0, &flex);
    let (cos, sin) = (angles.clone().cos(), angles.sin());
    let expected = reference(x.clone(), cos.clone(), sin.clone());
    assert_eq!(to_vec(rotate(x, cos, sin)), to_vec(expected));
}

#[test]
fn a_rotation_keeps_lengths_and_repeats() {
    let x = plain("x", [2, 40, 3, 64], 1.0, &Device::flex());
    let [cos, sin] = angles(2, 40, 32);
    let y = rotate(x.clone(), cos.clone(), sin.clone());
    close(
        y.clone().square().sum_dim(3),
        x.clone().square().sum_dim(3),
        1e-5,
    );
    assert_eq!(to_vec(y), to_vec(rotate(x, cos, sin)));
}
