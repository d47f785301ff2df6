//! What the tests of the operations share: random tensors, and comparison with tolerance.

use burn::tensor::{Device, Tensor, TensorData};
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;

/// A tensor of normal values with this deviation, tracked, on the CPU.
pub(crate) fn random<const D: usize>(name: &str, shape: [usize; D], deviation: f32) -> Tensor<D> {
    plain(name, shape, deviation, &Device::flex().autodiff()).require_grad()
}

/// The same values on `device`, not tracked.
pub(crate) fn plain<const D: usize>(
    name: &str,
    shape: [usize; D],
    deviation: f32,
    device: &Device,
) -> Tensor<D> {
    let count = shape.iter().product();
    let values = Stream::new(7, name).normal(count, 0.0, deviation);
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// Every pair within `tolerance` times the greatest size of the second; NaN equals NaN.
pub(crate) fn close<const D: usize>(got: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    let sizes = to_vec(expected.clone()).into_iter().map(f32::abs);
    let size = sizes.filter(|x| x.is_finite()).fold(1e-6, f32::max);
    near(got, expected, tolerance * size);
}

/// Every pair within `tolerance`; NaN equals NaN.
pub(crate) fn near<const D: usize>(got: Tensor<D>, expected: Tensor<D>, tolerance: f32) {
    assert_eq!(got.dims(), expected.dims());
    let (got, expected) = (to_vec(got), to_vec(expected));
    for (at, (a, b)) in got.iter().zip(&expected).enumerate() {
        let same = a == b || (a.is_nan() && b.is_nan());
        assert!(
            same || (a - b).abs() <= tolerance,
            "element {at}: {a} against {b}, tolerance {tolerance}"
        );
    }
}

/// Gradients of `sum(weights * output)` with fixed random weights, one an input.
pub(crate) fn gradients<const D: usize, const N: usize>(
    output: Tensor<D>,
    inputs: [&Tensor<D>; N],
) -> [Tensor<D>; N] {
    let weights = plain(
        "outer",
        output.dims(),
        1.0,
        &output.device().without_autodiff(),
    );
    let grads = (output * weights).sum().backward();
    inputs.map(|input| input.grad(&grads).expect("the input is tracked"))
}
