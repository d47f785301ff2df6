use super::*;
use crate::checks::{close, plain, random};
use burn::tensor::{DType, Device};
use modelsmith_core::parameters::to_vec;

/// Sizes `[batch, time, in, out, rank]`: products, few rows, single rows, odd and tiny ones.
const SIZES: [[usize; 5]; 7] = [
    [2, 33, 48, 80, 8],
    [4, 64, 96, 160, 4],
    [1, 1, 300, 70, 8],
    [2, 3, 70, 600, 2],
    [1, 8, 5, 3, 1],
    [1, 1, 1, 1, 1],
    [3, 7, 17, 31, 5],
];

struct Case {
    x: Tensor<3>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    a: Tensor<2>,
    b: Tensor<2>,
}

impl Case {
    fn new([batch, time, inputs, outputs, rank]: [usize; 5]) -> Self {
        Self {
            x: random("x", [batch, time, inputs], 1.0),
            weight: random("weight", [outputs, inputs], 1.0),
            bias: random("bias", [outputs], 1.0),
            a: random("a", [rank, inputs], 1.0),
            b: random("b", [outputs, rank], 1.0),
        }
    }

    fn change(&self) -> LowRank {
        LowRank {
            a: self.a.clone(),
            b: self.b.clone(),
            scale: 0.7,
        }
    }

    /// Output and all gradients of one form.
    fn run(&self, form: Form) -> [Tensor<2>; 6] {
        let bias = Some(self.bias.clone());
        let change = Some(self.change());
        let y = form(self.x.clone(), self.weight.clone(), bias, change);
        let outer = plain("outer", y.dims(), 1.0, &Device::flex());
        let grads = (y.clone() * outer).sum().backward();
        let row = |x: Tensor<1>| x.unsqueeze::<2>();
        [
            y.inner().flatten(0, 1),
            self.x.grad(&grads).unwrap().flatten(0, 1),
            self.weight.grad(&grads).unwrap(),
            row(self.bias.grad(&grads).unwrap()),
            self.a.grad(&grads).unwrap(),
            self.b.grad(&grads).unwrap(),
        ]
    }
}

type Form = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>, Option<LowRank>) -> Tensor<3>;

#[test]
fn output_and_gradients_are_those_of_the_reference() {
    for size in SIZES {
        let case = Case::new(size);
        for (got, expected) in case.run(linear).into_iter().zip(case.run(reference)) {
            close(got, expected, 2e-6 * size[2].max(size[0] * size[1]) as f32);
        }
    }
}

#[test]
fn a_weight_stored_the_other_way_gives_the_same() {
    for [batch, time, inputs, outputs, _] in SIZES {
        let x = random("x", [batch, time, inputs], 1.0);
        let stored = random("stored", [inputs, outputs], 1.0);
        let straight = stored.clone().transpose().inner() * 1.0;
        let straight = Tensor::from_inner(straight).require_grad();
        let run = |weight: Tensor<2>| {
            let y = linear(x.clone(), weight, None, None);
            let grads = y.clone().powi_scalar(2).sum().backward();
            (y.inner(), x.grad(&grads).unwrap(), grads)
        };
        let (y, dx, grads) = run(stored.clone().transpose());
        let (expected, expected_dx, expected_grads) = run(straight.clone());
        close(y, expected, 1e-5);
        close(dx, expected_dx, 1e-5);
        let turned = stored.grad(&grads).unwrap().transpose();
        close(turned, straight.grad(&expected_grads).unwrap(), 1e-5);
    }
}

#[test]
fn without_bias_and_change_it_is_the_plain_product() {
    let flex = Device::flex();
    for [batch, time, inputs, outputs, _] in SIZES {
        let x = plain("x", [batch, time, inputs], 1.0, &flex);
        let weight = plain("weight", [outputs, inputs], 1.0, &flex);
        let got = linear(x.clone(), weight.clone(), None, None);
        close(got, reference(x, weight, None, None), 1e-5);
    }
}

#[test]
fn a_change_of_zero_leaves_the_bits() {
    for size in SIZES {
        let case = Case::new(size);
        let change = LowRank {
            b: case.b.zeros_like(),
            ..case.change()
        };
        let run = |change| {
            let bias = Some(case.bias.clone());
            to_vec(linear(case.x.clone(), case.weight.clone(), bias, change))
        };
        assert_eq!(run(Some(change)), run(None));
    }
}

#[test]
fn what_is_frozen_takes_no_gradient() {
    let flex = Device::flex();
    let case = Case::new([2, 20, 16, 24, 4]);
    let weight = plain("weight", [24, 16], 1.0, &flex);
    let input = plain("x", [2, 20, 16], 1.0, &flex);
    let y = linear(input, weight, None, Some(case.change()));
    let grads = y.sum().backward();
    assert!(case.a.grad(&grads).is_some() && case.b.grad(&grads).is_some());
    assert!(case.x.grad(&grads).is_none() && case.weight.grad(&grads).is_none());
}

#[test]
fn views_are_read_in_their_order() {
    let x = random("x", [30, 2, 12], 1.0);
    let weight = random("weight", [40, 24], 1.0);
    let run = |form: Form| {
        let part = weight.clone().narrow(0, 5, 9).narrow(1, 3, 12);
        let y = form(x.clone().swap_dims(0, 1), part.flip([0]), None, None);
        let grads = y.clone().powi_scalar(2).sum().backward();
        (
            y.inner(),
            x.grad(&grads).unwrap(),
            weight.grad(&grads).unwrap(),
        )
    };
    let ((y, dx, dw), (their_y, their_dx, their_dw)) = (run(linear), run(reference));
    close(y, their_y, 1e-5);
    close(dx, their_dx, 1e-5);
    close(dw, their_dw, 1e-5);
}

#[test]
fn no_rows_and_no_width_are_no_trouble() {
    if !crate::fused() {
        return;
    }
    let flex = Device::flex();
    for [batch, time, inputs, outputs] in [[0, 4, 3, 5], [2, 0, 3, 5], [2, 4, 0, 5], [2, 4, 3, 0]] {
        let x = random("x", [batch, time, inputs], 1.0);
        let weight = plain("weight", [outputs, inputs], 1.0, &flex);
        let bias = plain("bias", [outputs], 1.0, &flex);
        let y = linear(x.clone(), weight.clone(), Some(bias.clone()), None);
        if inputs == 0 {
            let expected = bias.unsqueeze::<3>().expand([batch, time, outputs]);
            close(y.clone().inner(), expected, 0.0);
        }
        assert_eq!(y.dims(), [batch, time, outputs]);
        let grads = y.sum().backward();
        assert_eq!(x.grad(&grads).unwrap().dims(), [batch, time, inputs]);
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    for size in SIZES {
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.unwrap()
                .install(|| Case::new(size).run(linear).map(to_vec))
        };
        let one = run(1);
        assert_eq!(one, run(2));
        assert_eq!(one, run(5));
    }
}

#[test]
#[should_panic(expected = "do not fit")]
fn shapes_that_do_not_fit_are_refused() {
    let flex = Device::flex();
    let x = plain("x", [1, 2, 3], 1.0, &flex);
    linear(x, plain("weight", [4, 5], 1.0, &flex), None, None);
}

#[test]
fn a_weight_in_bf16_differs_by_the_rounding_of_the_other_side() {
    for size in SIZES {
        let mut case = Case::new(size);
        let rounded = case.weight.clone().inner().cast(DType::BF16);
        let exact = rounded.clone().cast(DType::F32);
        // Each term of a sum is off by 2^-8 of itself at most, and they seldom are all one way.
        let tolerance = 2f32.powi(-8);
        case.weight = Tensor::from_inner(exact).require_grad();
        let expected = case.run(reference);
        let half =
            |x, weight: Tensor<2>, bias, change| linear(x, weight.cast(DType::BF16), bias, change);
        for (got, expected) in case.run(half).into_iter().zip(expected) {
            assert_eq!(got.dtype(), DType::F32);
            close(got, expected, tolerance);
        }
        let frozen = linear(
            case.x.clone(),
            Tensor::from_inner(rounded.clone()),
            None,
            None,
        );
        assert_eq!(frozen.dtype(), DType::F32);
        let composed = reference(case.x.clone(), Tensor::from_inner(rounded), None, None);
        close(frozen.inner(), composed.inner(), tolerance);
    }
}
