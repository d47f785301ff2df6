//! The inputs of an operation, and how many bytes it cannot but move.

use burn::tensor::{DType, Device, Int, Tensor, TensorData};

/// Does an operation once; gives the number of values in its result.
pub(super) type Work = Box<dyn FnMut() -> usize>;

/// Makes inputs and keeps account of them.
#[derive(Default)]
pub(super) struct Inputs {
    backward: bool,
    shapes: Vec<String>,
    values: usize,
    tracked: usize,
    changed: usize,
}

impl Inputs {
    /// For an operation forward, or forward and backward.
    pub(super) fn new(backward: bool) -> Self {
        Self {
            backward,
            ..Self::default()
        }
    }

    /// An input that takes no gradient.
    pub(super) fn constant<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let count: usize = shape.iter().product();
        self.shapes.push(crate::numbers::shape(&shape));
        self.values += count;
        let first = self.shapes.len() as u64 * 0x0100_0000_0000;
        let values: Vec<f32> = (0..count as u64).map(|at| number(first + at)).collect();
        Tensor::from_data(TensorData::new(values, shape), &Device::flex())
    }

    /// A constant in `bf16`.
    pub(super) fn half<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        let values = self.constant(shape);
        // Counted are bytes, by fours.
        self.values -= shape.iter().product::<usize>() / 2;
        values.cast(DType::BF16)
    }

    /// An input that takes a gradient where gradients are computed.
    pub(super) fn tracked<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.tracked += shape.iter().product::<usize>();
        let values = self.constant(shape);
        match self.backward {
            true => values.autodiff().require_grad(),
            false => values,
        }
    }

    /// An input that the operation writes over.
    pub(super) fn changed<const D: usize>(&mut self, shape: [usize; D]) -> Tensor<D> {
        self.changed += shape.iter().product::<usize>();
        self.constant(shape)
    }

    /// Numbers of classes, one a row.
    pub(super) fn classes(&self, count: usize, classes: usize) -> Tensor<1, Int> {
        let numbers: Vec<i64> = (0..count).map(|at| (at * 7919 % classes) as i64).collect();
        Tensor::from_data(TensorData::new(numbers, [count]), &Device::flex())
    }

    /// The shapes as text.
    pub(super) fn shapes(&self) -> String {
        self.shapes.join(", ")
    }

    /// Bytes of inputs and output.
    pub(super) fn resident(&self, output: usize) -> f64 {
        bytes(self.values + output)
    }

    /// Bytes read and written at least: each input and the output once, and in the backward pass
    /// what is kept, the gradient that arrives (written and read), and those that leave.
    pub(super) fn traffic(&self, output: usize) -> f64 {
        let backward = self.values + 2 * output + self.tracked;
        bytes(self.values + self.changed + output + if self.backward { backward } else { 0 })
    }
}

/// A number from -0.1 to 0.1 for each place, as hidden values and weights are: products of greater
/// ones would lie where exponentials become subnormal, which processors are slow at. The mixing is
/// SplitMix64's (Steele et al. 2014).
fn number(at: u64) -> f32 {
    let mut z = at.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let signed = (z ^ (z >> 31)) as i32 as f32;
    0.1 * signed / 2_147_483_648.0
}

fn bytes(values: usize) -> f64 {
    (values * size_of::<f32>()) as f64
}
