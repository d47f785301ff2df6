use super::*;
use crate::checks::{close, plain, random};
use burn::tensor::Device;
use modelsmith_core::parameters::to_vec;

fn ids(rows: [[i64; 4]; 2]) -> Tensor<2, Int> {
    Tensor::from_data(rows, &Device::flex())
}

type Form = fn(Tensor<2>, Tensor<2, Int>) -> Tensor<3>;

/// The rows, and the gradient of the table under fixed random outer ones.
fn run(form: Form, table: &Tensor<2>, ids: Tensor<2, Int>) -> (Vec<f32>, Tensor<2>) {
    let y = form(table.clone(), ids);
    let outer = plain("outer", y.dims(), 1.0, &Device::flex());
    let grads = (y.clone() * outer).sum().backward();
    (to_vec(y), table.grad(&grads).unwrap())
}

#[test]
fn values_and_gradients_are_those_of_the_reference() {
    for (shape, rows) in [
        ([9, 5], [[0, 8, 3, 1], [2, 4, 5, 6]]),
        ([9, 5], [[7, 7, 7, 0], [0, 7, 8, 8]]),
        ([1, 1], [[0; 4], [0; 4]]),
        ([3000, 64], [[2999, 0, 17, 17], [1024, 5, 17, 0]]),
    ] {
        let table = random("table", shape, 1.0);
        let (values, gradient) = run(lookup, &table, ids(rows));
        let (expected, reference) = run(layers::lookup, &table, ids(rows));
        assert_eq!(values, expected);
        close(gradient, reference, 1e-6);
    }
}

#[test]
fn a_transposed_table_gets_its_gradient_transposed() {
    let table = random("table", [6, 9], 1.0);
    let rows = [[0, 8, 3, 3], [2, 4, 5, 6]];
    let turned: Form = |table, ids| lookup(table.transpose(), ids);
    let expected: Form = |table, ids| layers::lookup(table.transpose(), ids);
    let (values, gradient) = run(turned, &table, ids(rows));
    let (reference, other) = run(expected, &table, ids(rows));
    assert_eq!(values, reference);
    close(gradient, other, 1e-6);
}

#[test]
fn a_table_used_twice_gets_both_gradients() {
    let twice = |form: Form| -> Vec<f32> {
        let table = random("table", [9, 4], 1.0);
        let rows = form(table.clone(), ids([[1, 2, 3, 1], [0, 0, 8, 4]]));
        let head = rows.reshape([8, 4]).matmul(table.clone().transpose());
        let grads = head.powi_scalar(2).sum().backward();
        to_vec(table.grad(&grads).unwrap())
    };
    let (found, expected) = (twice(lookup), twice(layers::lookup));
    let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    for (a, b) in found.iter().zip(&expected) {
        assert!((a - b).abs() <= 1e-5 * most, "{a} {b}");
    }
}

#[test]
fn a_frozen_table_is_read_without_a_graph() {
    let table = plain("table", [9, 4], 1.0, &Device::flex());
    let rows = ids([[1, 2, 3, 1], [0, 0, 8, 4]]);
    let found = lookup(table.clone(), rows.clone());
    assert!(!found.is_tracked());
    assert_eq!(to_vec(found), to_vec(layers::lookup(table, rows)));
}

#[test]
fn rows_in_bf16_come_as_f32() {
    let table = plain("table", [9, 4], 1.0, &Device::flex()).cast(DType::BF16);
    let rows = ids([[1, 2, 3, 1], [0, 0, 8, 4]]);
    let found = lookup(table.clone(), rows.clone());
    assert_eq!(found.dtype(), DType::F32);
    assert_eq!(
        to_vec(found),
        to_vec(layers::lookup(table.cast(DType::F32), rows))
    );
}
