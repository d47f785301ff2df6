//! The layers a host is made of, with weights laid out as in the checkpoint, so that names,
//! shapes and bytes carry over unchanged and a hook can read what it wraps.

use burn::module::{Module, Param};
use burn::tensor::{DType, Int, Tensor};

/// A dense layer: `y = x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `[out, in]`, or `[in, out]` with `fan_in_fan_out`; `f32` or `bf16`.
    pub weight: Param<Tensor<2>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// The weight is stored transposed, as GPT-2's `Conv1D` does.
    #[module(skip)]
    pub fan_in_fan_out: bool,
}

impl Linear {
    /// The weight as `[out, in]` in `f32`, whatever the storage (a view, no copy, of an `f32` weight).
    pub fn matrix(&self) -> Tensor<2> {
        single(self.stored())
    }

    /// The weight as `[out, in]` in the type in which it is stored: `f32`, or `bf16` in a host that
    /// was made so (a view, no copy).
    pub fn stored(&self) -> Tensor<2> {
        oriented(self.weight.val(), self.fan_in_fan_out)
    }
}

/// The tensor in `f32`: itself unless it is `bf16`.
pub fn single<const D: usize>(tensor: Tensor<D>) -> Tensor<D> {
    match tensor.dtype() {
        DType::BF16 => tensor.cast(DType::F32),
        _ => tensor,
    }
}

/// A weight seen as `[out, in]` when `fan_in_fan_out` says that it is stored the other way.
pub fn oriented(weight: Tensor<2>, fan_in_fan_out: bool) -> Tensor<2> {
    if fan_in_fan_out {
        weight.transpose()
    } else {
        weight
    }
}

/// `x Wᵀ + b` for `x` `[batch, time, in]`, `weight` `[out, in]`, `bias` `[out]`.
pub fn linear(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<3> {
    let [batch, time, inputs] = x.dims();
    let outputs = weight.dims()[0];
    // One flat product is faster than a batched one and reads the transposed weight in place.
    let y = x.reshape([batch * time, inputs]).matmul(weight.transpose());
    let y = match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    };
    y.reshape([batch, time, outputs])
}

/// A table of vectors.
#[derive(Module, Debug)]
pub struct Embedding {
    /// `[vocabulary, width]`; `f32` or `bf16`.
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// Ids `[batch, time]` to `[batch, time, width]` in `f32`.
    pub fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        single(lookup(self.weight.val(), ids))
    }
}

/// Rows of `table` `[count, width]` at `ids` `[batch, time]`: `[batch, time, width]`.
pub fn lookup(table: Tensor<2>, ids: Tensor<2, Int>) -> Tensor<3> {
    let [batch, time] = ids.dims();
    let width = table.dims()[1];
    table
        .select(0, ids.reshape([batch * time]))
        .reshape([batch, time, width])
}

/// The two normalisations transformers use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Mean and variance over the last axis (Ba et al., arXiv 1607.06450).
    Layer,
    /// Root mean square over the last axis (Zhang and Sennrich, arXiv 1910.07467).
    Rms,
}

/// A normalisation over the last axis.
#[derive(Module, Debug)]
pub struct Norm {
    /// `[width]`.
    pub weight: Param<Tensor<1>>,
    /// `[width]`; layer norm only.
    pub bias: Option<Param<Tensor<1>>>,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
    /// Which normalisation.
    #[module(skip)]
    pub kind: NormKind,
}

impl Norm {
    /// Normalises the last axis, of any rank.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let bias = self.bias.as_ref().map(Param::val);
        normalise(x, self.weight.val(), bias, self.kind, self.epsilon)
    }
}

/// Normalises the last axis of `x` and applies `weight` and `bias` `[width]`.
pub fn normalise<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<1>,
    bias: Option<Tensor<1>>,
    kind: NormKind,
    epsilon: f64,
) -> Tensor<D> {
    let centred = match kind {
        NormKind::Layer => {
            let mean = x.clone().mean_dim(D - 1);
            x - mean
        }
        NormKind::Rms => x,
    };
    let variance = centred.clone().powi_scalar(2).mean_dim(D - 1);
    let y = centred / (variance + epsilon).sqrt() * weight.unsqueeze();
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// A two-dimensional convolution without dilation.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in / groups, height, width]`.
    pub weight: Param<Tensor<4>>,
    /// `[out]`.
    pub bias: Option<Param<Tensor<1>>>,
    /// Step per axis.
    #[module(skip)]
    pub stride: [usize; 2],
    /// Zero padding per axis.
    #[module(skip)]
    pub padding: [usize; 2],
    /// Groups of channels.
    #[module(skip)]
    pub groups: usize,
}

impl Conv2d {
    /// `[batch, in, height, width]` to `[batch, out, height', width']`.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        use burn::tensor::module::conv2d;
        use burn::tensor::ops::ConvOptions;
        let options = ConvOptions::new(self.stride, self.padding, [1, 1], self.groups);
        conv2d(
            x,
            self.weight.val(),
            self.bias.as_ref().map(Param::val),
            options,
        )
    }
}

/// A normalisation over groups of channels, with a weight and a bias a channel (Wu and He, arXiv 1803.08494).
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// Groups of neighbouring channels; they divide the channels.
    #[module(skip)]
    pub groups: usize,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl GroupNorm {
    /// `[batch, channels, height, width]`: mean and variance are those of a picture's group.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let x = x.reshape([batch, self.groups, channels / self.groups * height * width]);
        let centred = x.clone() - x.mean_dim(2);
        let variance = centred.clone().square().mean_dim(2);
        let y = centred / (variance + self.epsilon).sqrt();
        let each = |of: &Param<Tensor<1>>| of.val().reshape([1, channels, 1, 1]);
        y.reshape([batch, channels, height, width]) * each(&self.weight) + each(&self.bias)
    }
}

/// A normalisation of every channel by the mean and variance that training kept (Ioffe and Szegedy, arXiv 1502.03167).
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// `[channels]`; counted, not learnt.
    pub running_mean: Param<Tensor<1>>,
    /// `[channels]`; counted, not learnt.
    pub running_var: Param<Tensor<1>>,
    /// Added to the variance.
    #[module(skip)]
    pub epsilon: f64,
}

impl BatchNorm {
    /// `[batch, channels, height, width]`, by the statistics that were kept.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.by(x, self.running_mean.val(), self.running_var.val())
    }

    /// The same by another mean and variance, `[channels]`.
    pub fn by(&self, x: Tensor<4>, mean: Tensor<1>, variance: Tensor<1>) -> Tensor<4> {
        let channels = x.dims()[1];
        let scale = self.weight.val() / (variance + self.epsilon).sqrt();
        let shift = self.bias.val() - mean * scale.clone();
        let each = |of: Tensor<1>| of.reshape([1, channels, 1, 1]);
        x * each(scale) + each(shift)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{frozen, to_vec};
    use burn::tensor::Device;

    #[test]
    fn a_transposed_weight_gives_the_same_layer() {
        let device = Device::flex();
        let weight = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &device);
        let bias = || Some(frozen(Tensor::<1>::from_floats([0.5, -0.5], &device)));
        let plain = Linear {
            weight: frozen(weight.clone()),
            bias: bias(),
            fan_in_fan_out: false,
        };
        let transposed = Linear {
            weight: frozen(weight.transpose()),
            bias: bias(),
            fan_in_fan_out: true,
        };
        let x = Tensor::<3>::from_floats([[[1.0, 0.0, -1.0], [2.0, 2.0, 2.0]]], &device);
        let run = |layer: Linear| {
            let bias = layer.bias.as_ref().map(Param::val);
            to_vec(linear(x.clone(), layer.matrix(), bias))
        };
        let y = run(plain);
        assert_eq!(y, [-1.5, -2.5, 12.5, 29.5]);
        assert_eq!(y, run(transposed));
    }

    #[test]
    fn groups_of_channels_are_normalised_apart() {
        let device = Device::flex();
        let x = Tensor::<4>::from_floats([[[[1.0]], [[3.0]], [[10.0]], [[30.0]]]], &device);
        let norm = GroupNorm {
            weight: frozen(Tensor::from_floats([1.0, 2.0, 1.0, 1.0], &device)),
            bias: frozen(Tensor::from_floats([0.0, 0.5, 0.0, 0.0], &device)),
            groups: 2,
            epsilon: 0.0,
        };
        assert_eq!(to_vec(norm.forward(x)), [-1.0, 2.5, -1.0, 1.0]);
    }

    #[test]
    fn channels_are_normalised_by_what_was_kept() {
        let device = Device::flex();
        let vector = |values: [f32; 2]| frozen(Tensor::<1>::from_floats(values, &device));
        let norm = BatchNorm {
            weight: vector([1.0, 2.0]),
            bias: vector([0.0, 1.0]),
            running_mean: vector([1.0, -1.0]),
            running_var: vector([4.0, 0.25]),
            epsilon: 0.0,
        };
        let x = Tensor::<4>::from_floats([[[[3.0, 1.0]], [[0.0, -1.0]]]], &device);
        assert_eq!(to_vec(norm.forward(x)), [1.0, 0.0, 5.0, 1.0]);
    }

    #[test]
    fn norms_follow_their_formulas() {
        let device = Device::flex();
        let x = Tensor::<2>::from_floats([[1.0, 3.0]], &device);
        let weight = Tensor::<1>::from_floats([1.0, 2.0], &device);
        let layer = normalise(x.clone(), weight.clone(), None, NormKind::Layer, 0.0);
        assert_eq!(to_vec(layer), [-1.0, 2.0]);
        let rms = to_vec(normalise(x, weight, None, NormKind::Rms, 0.0));
        let scale = 5f32.sqrt();
        assert!((rms[0] - 1.0 / scale).abs() < 1e-6 && (rms[1] - 6.0 / scale).abs() < 1e-6);
    }
}
