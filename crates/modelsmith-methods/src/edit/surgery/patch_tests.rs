use super::*;
use crate::edit::surgery::{Region, Selector, cosines};
use burn::tensor::Device;

const V: [f32; 3] = [1.0, 2.0, -2.0];

fn matrix(rows: &[[f32; 3]]) -> Flat {
    Flat::from_vec(rows.concat(), &[rows.len(), 3], &Device::flex())
}

/// The hand case of card 02.
fn blocks() -> [Flat; 2] {
    [
        matrix(&[
            [1.0, 2.0, -2.0],
            [-1.0, -2.0, 2.0],
            [2.0, 0.0, 1.0],
            [-2.0, 1.0, 0.0],
        ]),
        matrix(&[
            [0.0, -1.0, 1.0],
            [3.0, 0.0, 0.0],
            [-1.0, -1.0, 0.5],
            [0.0, 0.0, 1.0],
        ]),
    ]
}

fn names() -> Vec<Rows> {
    (0..2)
        .map(|block| Rows {
            weight: format!("{block}.gate"),
            block,
            fan_in_fan_out: false,
            rows: Vec::new(),
        })
        .collect()
}

fn patch(alpha: f64) -> Patch {
    let mut selector = Selector::new(Region::AntiAligned, 3, 2, 0);
    for (block, weight) in blocks().iter().enumerate() {
        selector.offer(block, block, &cosines(&weight.to_vec(), &V, None));
    }
    Patch::new(V.to_vec(), alpha, &names(), &selector.finish()).unwrap()
}

fn row(weight: &Flat, row: usize) -> Vec<f32> {
    weight.to_vec()[3 * row..][..3].to_vec()
}

#[test]
fn the_rows_of_the_card_after_surgery() {
    let [first, second] = blocks();
    let patch = patch(0.5);
    let first_after = patch.apply("0.gate", &first).unwrap().unwrap();
    let second_after = patch.apply("1.gate", &second).unwrap().unwrap();
    assert_eq!(row(&first_after, 1), [-0.5, -1.0, 1.0]);
    assert_eq!(row(&second_after, 0), [0.5, 0.0, 0.0]);
    assert_eq!(row(&second_after, 2), [-0.5, 0.0, -0.5]);
    for untouched in [0, 2, 3] {
        assert_eq!(row(&first_after, untouched), row(&first, untouched));
    }
    assert!(patch.apply("2.gate", &first).unwrap().is_none());
    assert_eq!(patch.count(), 3);
    // 0.5 times length 3 in each of three rows.
    assert!((patch.norm() - 1.5 * 3.0_f64.sqrt()).abs() < 1e-12);
}

#[test]
fn activations_of_the_card_before_and_after() {
    let x = [0.5_f32, 1.0, -1.0];
    let silu = |z: f32| z / (1.0 + (-z).exp());
    let cases = [
        (0, 1, [-4.5, -2.25], [-0.049_441, -0.214_536]),
        (1, 0, [-2.0, 0.25], [-0.238_406, 0.140_544]),
    ];
    for (block, number, gates, outputs) in cases {
        let before = &blocks()[block];
        let after = patch(0.5)
            .apply(&format!("{block}.gate"), before)
            .unwrap()
            .unwrap();
        for (weight, (gate, output)) in [before, &after].iter().zip(gates.iter().zip(outputs)) {
            let found: f32 = row(weight, number).iter().zip(x).map(|(w, x)| w * x).sum();
            assert!((found - gate).abs() < 1e-6);
            assert!((silu(found) - output).abs() < 1e-6);
        }
    }
}

#[test]
fn subtracting_restores_to_one_unit_in_the_last_place() {
    let weight = matrix(&[[0.1, -0.3, 0.7], [1.1, 2.2, -3.3], [-0.013, 0.5, 0.25]]);
    let mut patch = patch(1.08);
    patch.direction = vec![0.31, -0.77, 1.9];
    patch.places = vec![Rows {
        rows: vec![0, 1, 2],
        ..names().remove(0)
    }];
    let edited = patch.apply("0.gate", &weight).unwrap().unwrap();
    let restored = patch.at(-1.08).apply("0.gate", &edited).unwrap().unwrap();
    for (sum, (found, value)) in edited
        .to_vec()
        .iter()
        .zip(restored.to_vec().iter().zip(weight.to_vec()))
    {
        let size = sum.abs().max(value.abs()).max(1.08 * 1.9);
        assert!(
            (found - value).abs() <= size * f32::EPSILON,
            "{found} {value}"
        );
    }
    // From the base itself the bits come back.
    assert_eq!(
        patch
            .at(0.0)
            .apply("0.gate", &weight)
            .unwrap()
            .unwrap()
            .to_vec(),
        weight.to_vec()
    );
}

#[test]
fn columns_are_changed_where_the_weight_lies_the_other_way() {
    let [first, _] = blocks();
    let turned: Vec<f32> = (0..12)
        .map(|at| first.to_vec()[3 * (at % 4) + at / 4])
        .collect();
    let turned = Flat::from_vec(turned, &[3, 4], &Device::flex());
    let mut other = patch(0.5);
    other.places[0].fan_in_fan_out = true;
    let found = other.apply("0.gate", &turned).unwrap().unwrap().to_vec();
    let plain = patch(0.5)
        .apply("0.gate", &first)
        .unwrap()
        .unwrap()
        .to_vec();
    for row in 0..4 {
        for column in 0..3 {
            assert_eq!(found[4 * column + row], plain[3 * row + column]);
        }
    }
}

#[test]
fn weights_of_other_models_and_overflow_are_refused() {
    let patch = patch(0.5);
    let refused =
        |patch: &Patch, weight: &Flat| patch.apply("0.gate", weight).unwrap_err().to_string();
    let wide = Flat::from_vec(vec![0.0; 8], &[2, 4], &Device::flex());
    assert!(refused(&patch, &wide).contains("needs 3 inputs"));
    assert!(refused(&patch, &matrix(&[[0.0; 3]])).contains("more than 1 outputs"));
    let flat = Flat::from_vec(vec![0.0; 3], &[3], &Device::flex());
    assert!(refused(&patch, &flat).contains("needs a matrix"));
    assert!(refused(&patch.at(1e39), &blocks()[0]).contains("choose a smaller"));
}

#[test]
fn interference_is_the_number_of_shared_rows() {
    let (one, mut other) = (patch(0.5), patch(1.0));
    assert_eq!(one.shared_rows(&other), 3);
    other.places[1].rows = vec![3];
    assert_eq!(one.shared_rows(&other), 1);
}
