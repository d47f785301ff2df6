//! The switch between fused forms and references: one process of its own, as it is global.

use burn::tensor::{Device, Int, Tensor};
use modelsmith_core::parameters::to_vec;
use modelsmith_kernels::{fused, linear_cross_entropy, set_fused, softmax, swiglu};

fn results() -> [Vec<f32>; 3] {
    let device = Device::flex();
    let x = Tensor::<2>::from_floats([[0.3, -1.2, 2.0], [5.0, 0.1, -0.4]], &device);
    let targets = Tensor::<1, Int>::from_data([0, 1], &device);
    [
        to_vec(softmax(x.clone(), None)),
        to_vec(swiglu(x.clone(), x.clone() * 2.0)),
        to_vec(linear_cross_entropy(x.clone(), x, targets)),
    ]
}

#[test]
fn results_agree_with_the_fused_forms_on_and_off() {
    match std::env::var_os("MODELSMITH_FUSED") {
        None => assert!(fused(), "fused forms are the default"),
        Some(_) => set_fused(true),
    }
    let on = results();
    set_fused(false);
    assert!(!fused());
    let off = results();
    set_fused(true);
    assert_eq!(results(), on);
    for (on, off) in on.iter().flatten().zip(off.iter().flatten()) {
        assert!(
            (on - off).abs() <= 1e-5 * off.abs().max(1.0),
            "{on} against {off}"
        );
    }
}

#[test]
fn other_dtypes_take_the_reference() {
    let x = Tensor::<2>::from_floats([[0.3, -1.2, 2.0]], &Device::flex());
    let half = x.clone().cast(burn::tensor::DType::BF16);
    let got = to_vec(softmax(half, None));
    for (got, expected) in got.into_iter().zip(to_vec(softmax(x, None))) {
        assert!((got - expected).abs() < 1e-2);
    }
}
