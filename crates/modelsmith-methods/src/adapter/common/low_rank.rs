//! How does a low-rank pair act at each kind of site?
//!
//! ```text
//! dense        x [b, t, in]   ->  s · (x Aᵀ) Bᵀ          A [r, in]    B [out, r]
//! embedding    ids [b, t]     ->  s · Aᵀ[ids] Bᵀ         A [r, vocab] B [dim, r]
//! convolution  x [b, c, h, w] ->  s · conv1x1(conv(x, A), B)   A [r, in·kh·kw]  B [out, r/groups]
//! ```
//!
//! The dense `B A` is never formed here: at rank 8 the two thin products cost a hundredth of it.

use burn::tensor::module::conv2d;
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Int, Tensor};
use modelsmith_core::layers::Conv2d;
use modelsmith_kernels::{self as kernels, linear, lookup};

/// A pair of factors with its scale: the change `scale · b · a` of a weight.
#[derive(Clone, Debug)]
pub(crate) struct LowRank {
    /// `[rank, in]`.
    pub(crate) a: Tensor<2>,
    /// `[out, rank]`.
    pub(crate) b: Tensor<2>,
    /// Multiplies the product.
    pub(crate) scale: f64,
}

impl LowRank {
    /// At a dense layer: `[batch, time, in]` to `[batch, time, out]`.
    pub(crate) fn dense(&self, x: Tensor<3>) -> Tensor<3> {
        let inner = linear(x, self.a.clone(), None, None) * self.scale;
        linear(inner, self.b.clone(), None, None)
    }

    /// A dense layer with this change: `x Wᵀ + bias + s (x Aᵀ) Bᵀ`, in one go.
    pub(crate) fn added_to(
        &self,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Tensor<3> {
        let change = kernels::LowRank {
            a: self.a.clone(),
            b: self.b.clone(),
            scale: self.scale,
        };
        linear(x, weight, bias, Some(change))
    }

    /// At an embedding: `[batch, time]` to `[batch, time, dim]`.
    pub(crate) fn embedding(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let inner = lookup(self.a.clone().transpose(), ids) * self.scale;
        linear(inner, self.b.clone(), None, None)
    }

    /// At a convolution, with the stride, padding and groups of `layer`.
    pub(crate) fn conv(&self, x: Tensor<4>, layer: &Conv2d) -> Tensor<4> {
        let [_, _, height, width] = layer.weight.val().dims();
        let channels = x.dims()[1];
        let rank = self.a.dims()[0];
        let [out, per_group] = self.b.dims();
        let down = self.a.clone().reshape([rank, channels, height, width]);
        let up = self.b.clone().reshape([out, per_group, 1, 1]);
        let options = ConvOptions::new(layer.stride, layer.padding, [1, 1], 1);
        let inner = conv2d(x, down, None, options) * self.scale;
        let options = ConvOptions::new([1, 1], [0, 0], [1, 1], layer.groups);
        conv2d(inner, up, None, options)
    }

    /// The change of the weight as `[out, in]`, outside any graph.
    pub(crate) fn delta(&self) -> Tensor<2> {
        let (a, b) = self.plain();
        b.matmul(a) * self.scale
    }

    /// The sum of two pairs of one scale as one pair: `[a; a']` and `[b, ±b']`.
    pub(crate) fn joined(&self, other: &Self, sign: f64) -> Self {
        let (a, b) = self.plain();
        let (other_a, other_b) = other.plain();
        Self {
            a: Tensor::cat(vec![a, other_a], 0),
            b: Tensor::cat(vec![b, other_b * sign], 1),
            scale: self.scale,
        }
    }

    /// Row norms `[out]` of `weight + scale · b a` for `weight` `[out, in]`, from the pieces and
    /// outside any graph:
    ///
    /// ```text
    /// ‖w + s b a‖² = ‖w‖² + 2 s · b · (w aᵀ) + s² · b (a aᵀ) bᵀ      per row
    /// ```
    pub(crate) fn row_norms(&self, weight: Tensor<2>) -> Tensor<1> {
        let (a, b) = self.plain();
        let out = b.dims()[0];
        let weight = weight.without_autodiff();
        let across = weight.clone().matmul(a.clone().transpose()) * b.clone();
        let gram = a.clone().matmul(a.transpose());
        let within = b.clone().matmul(gram) * b;
        let squares = weight.powi_scalar(2).sum_dim(1)
            + across.sum_dim(1) * (2.0 * self.scale)
            + within.sum_dim(1) * (self.scale * self.scale);
        // Rounding can leave a vanishing row slightly below zero.
        squares.clamp_min(0.0).sqrt().reshape([out])
    }

    fn plain(&self) -> (Tensor<2>, Tensor<2>) {
        let plain = |tensor: &Tensor<2>| tensor.clone().without_autodiff();
        (plain(&self.a), plain(&self.b))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, TensorData};
    use modelsmith_core::parameters::{frozen, to_vec};

    fn pair() -> LowRank {
        let device = Device::flex();
        LowRank {
            a: Tensor::from_floats([[1.0, -2.0, 0.5]], &device),
            b: Tensor::from_floats([[2.0], [-1.0]], &device),
            scale: 0.5,
        }
    }

    #[test]
    fn the_two_products_equal_the_dense_change() {
        let x = Tensor::<3>::from_floats([[[1.0, 1.0, 2.0], [0.0, 3.0, -1.0]]], &Device::flex());
        let dense = linear(x.clone(), pair().delta(), None, None);
        assert_eq!(to_vec(pair().dense(x)), to_vec(dense));
    }

    fn ramp<const D: usize>(shape: [usize; D]) -> Tensor<D> {
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| (i as f32 * 0.7).sin()).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// The kernel `[out, in, height, width]` that a pair composes to: each group of the second
    /// factor sees its own share of the rank.
    fn composed(a: &Tensor<2>, b: &Tensor<2>, groups: usize) -> Tensor<4> {
        let ([rank, _], [out, _]) = (a.dims(), b.dims());
        let rows = (0..groups).map(|group| {
            let (rank, out) = (rank / groups, out / groups);
            let a = a.clone().narrow(0, group * rank, rank);
            b.clone().narrow(0, group * out, out).matmul(a)
        });
        Tensor::cat(rows.collect(), 0).reshape([out, 4, 3, 3])
    }

    #[test]
    fn a_convolution_takes_stride_padding_and_groups_of_the_layer() {
        for groups in [1, 2] {
            let layer = Conv2d {
                weight: frozen(ramp([6, 4 / groups, 3, 3])),
                bias: None,
                stride: [2, 1],
                padding: [1, 0],
                groups,
            };
            let (a, b) = (ramp([2, 36]), ramp([6, 2 / groups]));
            let x = ramp([2, 4, 5, 6]);
            let options = ConvOptions::new([2, 1], [1, 0], [1, 1], 1);
            let dense = conv2d(x.clone(), composed(&a, &b, groups), None, options);
            let pair = LowRank { a, b, scale: 1.0 };
            let found = pair.conv(x, &layer);
            assert_eq!(found.dims(), layer.forward(ramp([2, 4, 5, 6])).dims());
            let apart = to_vec((found - dense).abs().max())[0];
            assert!(apart < 1e-5, "{groups} groups: {apart}");
        }
    }

    #[test]
    fn row_norms_from_the_pieces_equal_those_of_the_sum() {
        let weight = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [0.0, -1.0, 4.0]], &Device::flex());
        let dense = (weight.clone() + pair().delta())
            .powi_scalar(2)
            .sum_dim(1)
            .sqrt();
        for (piece, whole) in to_vec(pair().row_norms(weight)).iter().zip(to_vec(dense)) {
            assert!((piece - whole).abs() < 1e-6, "{piece} against {whole}");
        }
    }

    #[test]
    fn joined_pairs_act_as_their_difference() {
        let half = LowRank {
            b: pair().b * 0.5,
            ..pair()
        };
        let joined = to_vec(pair().joined(&half, -1.0).delta());
        assert_eq!(joined, to_vec(half.delta()));
    }
}
