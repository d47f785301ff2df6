use super::flex::{Wanted, forward};
use super::*;
use crate::checks::{close, plain, random};
use burn::tensor::{DType, Device, TensorData};
use modelsmith_core::parameters::to_vec;

fn targets(rows: usize, classes: usize) -> Tensor<1, Int> {
    let values: Vec<i64> = (0..rows)
        .map(|i| (i * i + 3 * i) as i64 % classes as i64)
        .collect();
    Tensor::from_data(TensorData::new(values, [rows]), &Device::flex())
}

/// Loss and gradients of one form.
type Form = fn(Tensor<2>, Tensor<2>, Tensor<1, Int>) -> Tensor<1>;

fn run(form: Form, rows: usize, classes: usize, width: usize, size: f32) -> [Tensor<2>; 3] {
    let hidden = random("hidden", [rows, width], size);
    let weight = random("weight", [classes, width], 1.0);
    let loss = form(hidden.clone(), weight.clone(), targets(rows, classes));
    let grads = (loss.clone() * 0.5).backward();
    [
        loss.inner().reshape([1, 1]),
        hidden.grad(&grads).unwrap(),
        weight.grad(&grads).unwrap(),
    ]
}

#[test]
fn loss_and_gradients_are_those_of_the_reference() {
    for (rows, classes, width) in [(1, 1, 1), (7, 3, 5), (33, 129, 17), (300, 1000, 64)] {
        for size in [0.1, 3.0, 100.0] {
            let got = run(linear_cross_entropy, rows, classes, width, size);
            let expected = run(reference, rows, classes, width, size);
            // Logits have this size, and their rounding is that of the exponentials.
            let logits = size * (width as f32).sqrt();
            for (got, expected) in got.into_iter().zip(expected) {
                close(got, expected, 1e-6 * logits.max(10.0));
            }
        }
    }
}

#[test]
fn chunks_do_not_change_the_result() {
    let flex = Device::flex();
    let hidden = plain("hidden", [50, 11], 1.0, &flex);
    let weight = plain("weight", [23, 11], 1.0, &flex);
    let wanted = Wanted {
        hidden: true,
        weight: true,
    };
    let run = |chunk: usize| {
        let hidden = hidden
            .clone()
            .try_into_primitive::<burn::backend::Flex>()
            .unwrap();
        let weight = weight
            .clone()
            .try_into_primitive::<burn::backend::Flex>()
            .unwrap();
        let targets = targets(50, 23)
            .try_into_primitive::<burn::backend::Flex>()
            .unwrap();
        let found = forward(&hidden, &weight, targets, wanted, chunk);
        [found.loss, found.hidden.unwrap(), found.weight.unwrap()].map(|x| {
            let values = crate::rows::values(&x).to_vec();
            let count = values.len();
            Tensor::<1>::from_data(TensorData::new(values, [count]), &flex)
        })
    };
    for chunk in [1, 7, 49] {
        for (got, expected) in run(chunk).into_iter().zip(run(50)) {
            close(got, expected, 1e-5);
        }
    }
}

#[test]
fn a_frozen_plain_weight_takes_no_gradient() {
    let hidden = random("hidden", [9, 6], 1.0);
    let weight = plain("weight", [13, 6], 1.0, &Device::flex());
    let loss = linear_cross_entropy(hidden.clone(), weight.clone(), targets(9, 13));
    let expected = reference(hidden.clone(), weight, targets(9, 13));
    close(loss.clone(), expected.clone(), 1e-6);
    let grads = loss.backward();
    let theirs = expected.backward();
    close(
        hidden.grad(&grads).unwrap(),
        hidden.grad(&theirs).unwrap(),
        1e-5,
    );
}

/// Loss and gradient by the hidden states under a frozen weight.
fn frozen(form: Form, rows: usize, classes: usize, width: usize, size: f32) -> [Tensor<2>; 2] {
    let hidden = random("hidden", [rows, width], size);
    let weight = plain("weight", [classes, width], 1.0, &Device::flex());
    let loss = form(hidden.clone(), weight, targets(rows, classes));
    let grads = (loss.clone() * 0.5).backward();
    [loss.inner().reshape([1, 1]), hidden.grad(&grads).unwrap()]
}

/// Rows, classes and width around the sizes of blocks.
const FROZEN: [[usize; 3]; 8] = [
    [1, 1, 1],
    [7, 3, 5],
    [16, 256, 16],
    [17, 257, 47],
    [33, 700, 17],
    [300, 1000, 64],
    [600, 300, 49],
    [40, 600, 5000],
];

#[test]
fn under_a_frozen_weight_both_are_those_of_the_reference() {
    for [rows, classes, width] in FROZEN {
        for size in [0.01, 1.0, 30.0] {
            let got = frozen(linear_cross_entropy, rows, classes, width, size);
            let expected = frozen(reference, rows, classes, width, size);
            // Logits have this size, and their rounding is that of the exponentials.
            let logits = size * (width as f32).sqrt();
            for (got, expected) in got.into_iter().zip(expected) {
                close(got, expected, 2e-6 * logits.max(10.0));
            }
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for [rows, classes, width] in FROZEN {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            let one = || frozen(linear_cross_entropy, rows, classes, width, 1.0).map(to_vec);
            pool.unwrap().install(one)
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(7));
    }
}

#[test]
fn logits_that_are_not_numbers_give_no_number() {
    let hidden = plain("hidden", [3, 2], f32::NAN, &Device::flex());
    let weight = plain("weight", [5, 2], 1.0, &Device::flex());
    let loss = linear_cross_entropy(hidden, weight, targets(3, 5));
    assert!(to_vec(loss)[0].is_nan());
}

#[test]
fn without_autodiff_the_loss_is_the_same() {
    let flex = Device::flex();
    let hidden = plain("hidden", [40, 6], 1.0, &flex);
    let weight = plain("weight", [1300, 6], 1.0, &flex);
    let got = linear_cross_entropy(hidden.clone(), weight.clone(), targets(40, 1300));
    close(got, reference(hidden, weight, targets(40, 1300)), 1e-6);
}

#[test]
fn views_are_read_in_their_order() {
    let hidden = random("hidden", [6, 9], 1.0);
    let weight = random("weight", [6, 13], 1.0);
    let got = linear_cross_entropy(
        hidden.clone().transpose(),
        weight.clone().transpose(),
        targets(9, 13),
    );
    let expected = reference(
        hidden.clone().transpose(),
        weight.clone().transpose(),
        targets(9, 13),
    );
    let (ours, theirs) = (got.backward(), expected.backward());
    close(
        hidden.grad(&ours).unwrap(),
        hidden.grad(&theirs).unwrap(),
        1e-5,
    );
    close(
        weight.grad(&ours).unwrap(),
        weight.grad(&theirs).unwrap(),
        1e-5,
    );
}

#[test]
fn no_rows_have_no_loss() {
    if !crate::fused() {
        return;
    }
    let hidden = random("hidden", [0, 4], 1.0);
    let weight = random("weight", [5, 4], 1.0);
    let loss = linear_cross_entropy(hidden, weight.clone(), targets(0, 5));
    assert_eq!(to_vec(loss.clone()), [0.0]);
    let grads = loss.backward();
    assert_eq!(to_vec(weight.grad(&grads).unwrap()), [0.0; 20]);
}

#[test]
fn extreme_logits_stay_finite() {
    let flex = Device::flex().autodiff();
    let hidden = Tensor::<2>::from_floats([[1e18, 0.0], [0.0, -1e18]], &flex).require_grad();
    let weight = Tensor::<2>::from_floats([[1e18, 1.0], [-1e18, 2.0], [0.0, 3.0]], &flex);
    let loss = linear_cross_entropy(hidden.clone(), weight, targets(2, 3));
    assert_eq!(to_vec(loss.clone()), [1e18]);
    let grads = loss.backward();
    let gradient = to_vec(hidden.grad(&grads).unwrap());
    assert_eq!(gradient, [0.0, 0.0, 2e18, -1.0]);
}

#[test]
fn gradients_are_differences_of_losses() {
    let values = [0.3f32, -0.7, 1.1, 0.2, 0.9, -0.4];
    let weight = || plain("weight", [4, 3], 1.0, &Device::flex());
    let loss = |values: &[f32]| {
        let data = TensorData::new(values.to_vec(), [2, 3]);
        let hidden = Tensor::<2>::from_data(data, &Device::flex().autodiff()).require_grad();
        let loss = linear_cross_entropy(hidden.clone(), weight(), targets(2, 4));
        (hidden, loss)
    };
    let (hidden, at) = loss(&values);
    let gradient = to_vec(hidden.grad(&at.backward()).unwrap());
    for i in 0..values.len() {
        let moved = |by: f32| {
            let mut values = values;
            values[i] += by;
            f64::from(to_vec(loss(&values).1)[0])
        };
        let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
        assert!((difference - f64::from(gradient[i])).abs() < 1e-3, "{i}");
    }
}

#[test]
fn repeated_runs_give_the_same_bytes() {
    let bytes = || run(linear_cross_entropy, 200, 500, 32, 1.0).map(to_vec);
    assert_eq!(bytes(), bytes());
}

#[test]
#[should_panic(expected = "target 4 of row 0 is not one of the 4 classes")]
fn a_target_that_is_no_class_is_refused() {
    let flex = Device::flex();
    let tensor = |name, shape| {
        let tensor = plain::<2>(name, shape, 1.0, &flex);
        tensor.try_into_primitive::<burn::backend::Flex>().unwrap()
    };
    let target = Tensor::<1, Int>::from_data([4], &flex);
    let target = target.try_into_primitive::<burn::backend::Flex>().unwrap();
    let (hidden, weight) = (tensor("hidden", [1, 2]), tensor("weight", [4, 2]));
    forward(&hidden, &weight, target, Wanted::default(), 1);
}

#[test]
fn a_head_in_bf16_differs_by_the_rounding_of_the_other_side() {
    for [rows, classes, width] in FROZEN {
        let hidden = random("hidden", [rows, width], 1.0);
        let head = plain("weight", [classes, width], 1.0, &Device::flex()).cast(DType::BF16);
        let tracked = Tensor::from_inner(head.clone().cast(DType::F32)).require_grad();
        let run = |loss: Tensor<1>| {
            let grads = loss.backward();
            (loss.inner(), hidden.grad(&grads).unwrap(), grads)
        };
        let (loss, dh, grads) = run(reference(
            hidden.clone(),
            tracked.clone(),
            targets(rows, classes),
        ));
        let frozen = run(linear_cross_entropy(
            hidden.clone(),
            head,
            targets(rows, classes),
        ));
        let cast = tracked.clone().cast(DType::BF16);
        let trained = run(linear_cross_entropy(
            hidden.clone(),
            cast,
            targets(rows, classes),
        ));
        // A logit is off by its terms' roundings, 2^-9 each, which add up as a random walk does.
        let tolerance = 2f32.powi(-8) * (width as f32).sqrt().max(4.0);
        for (their_loss, their_dh) in [(&frozen.0, &frozen.1), (&trained.0, &trained.1)] {
            close(their_loss.clone(), loss.clone(), 2f32.powi(-8));
            close(their_dh.clone(), dh.clone(), tolerance);
        }
        close(
            tracked.grad(&trained.2).unwrap(),
            tracked.grad(&grads).unwrap(),
            tolerance,
        );
    }
}
