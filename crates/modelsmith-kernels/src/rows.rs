//! Runs a kernel over rows of memory: in parallel where it pays, in vector code where there is any.
//!
//! Rows are cut into pieces by their number and length alone, never by the number of threads.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DType, Shape};
use burn::tensor::Bytes;
use pulp::{Arch, Simd, WithSimd};

/// Values that a piece of work is worth cutting into.
const PIECE: usize = 1 << 14;

/// What is done to a piece: `M` outputs, `N` inputs, each some number of whole rows, the first of
/// which has the number `first`. Implementations are `#[inline(always)]`, so that their loops are
/// compiled for the vector instructions found at run time.
pub(crate) trait Kernel<const M: usize, const N: usize>: Sync {
    /// Does the piece.
    fn run(&self, first: usize, outputs: [&mut [f32]; M], inputs: [&[f32]; N]);
}

/// An output and the length of its rows.
pub(crate) type Output<'a> = (&'a mut [f32], usize);

/// An input and the length of its rows.
pub(crate) type Input<'a> = (&'a [f32], usize);

/// Runs `kernel` over `count` rows, `first` being the number of the first one.
pub(crate) fn run<const M: usize, const N: usize>(
    kernel: &impl Kernel<M, N>,
    first: usize,
    count: usize,
    outputs: [Output<'_>; M],
    inputs: [Input<'_>; N],
) {
    let width = inputs.iter().map(|input| input.1);
    let width = outputs.iter().map(|output| output.1).chain(width).max();
    let piece = (PIECE / width.unwrap_or(1).max(1)).max(1);
    if count <= piece {
        return Arch::new().dispatch(Piece {
            kernel,
            first,
            outputs: outputs.map(|output| output.0),
            inputs: inputs.map(|input| input.0),
        });
    }
    // Whole pieces to the left, so that cuts are the same however deep the recursion is.
    let left = count.div_ceil(piece).div_ceil(2) * piece;
    let (mut tails, mut heads) = ([const { None }; M], [const { None }; M]);
    for (at, (values, width)) in outputs.into_iter().enumerate() {
        let (head, tail) = values.split_at_mut(left * width);
        (heads[at], tails[at]) = (Some((head, width)), Some((tail, width)));
    }
    let whole = |half: [Option<_>; M]| half.map(|output| output.expect("every output was cut"));
    let (heads, tails) = (whole(heads), whole(tails));
    rayon::join(
        || {
            run(
                kernel,
                first,
                left,
                heads,
                inputs.map(|(values, width)| (&values[..left * width], width)),
            )
        },
        || {
            let inputs = inputs.map(|(values, width)| (&values[left * width..], width));
            run(kernel, first + left, count - left, tails, inputs);
        },
    );
}

struct Piece<'a, K, const M: usize, const N: usize> {
    kernel: &'a K,
    first: usize,
    outputs: [&'a mut [f32]; M],
    inputs: [&'a [f32]; N],
}

impl<K: Kernel<M, N>, const M: usize, const N: usize> WithSimd for Piece<'_, K, M, N> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        self.kernel.run(self.first, self.outputs, self.inputs);
    }
}

/// The values of an `f32` tensor, in order: borrowed where they lie so, else copied.
pub(crate) fn contiguous(tensor: &FlexTensor) -> FlexTensor {
    match tensor.as_slice::<f32>() {
        Some(_) => tensor.clone(),
        None => tensor.to_contiguous(),
    }
}

/// The values of a tensor that [`contiguous`] gave.
pub(crate) fn values(tensor: &FlexTensor) -> &[f32] {
    tensor
        .as_slice::<f32>()
        .expect("an f32 tensor made contiguous")
}

/// A tensor of these values.
pub(crate) fn tensor(values: Vec<f32>, shape: Shape) -> FlexTensor {
    FlexTensor::new(
        Bytes::from_elems(values),
        Layout::contiguous(shape),
        DType::F32,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Number;

    impl Kernel<2, 1> for Number {
        #[inline(always)]
        fn run(&self, first: usize, outputs: [&mut [f32]; 2], inputs: [&[f32]; 1]) {
            let [wide, narrow] = outputs;
            let rows = wide.chunks_mut(3).zip(narrow).zip(inputs[0]);
            for (at, ((wide, narrow), input)) in rows.enumerate() {
                wide.fill((first + at) as f32);
                *narrow = *input;
            }
        }
    }

    #[test]
    fn every_row_meets_its_own_inputs() {
        for count in [0, 1, 5, 5461, 5462, 40_000] {
            let input: Vec<f32> = (0..count).map(|i| -(i as f32)).collect();
            let (mut wide, mut narrow) = (vec![0.5; 3 * count], vec![0.5; count]);
            let outputs = [(wide.as_mut_slice(), 3), (narrow.as_mut_slice(), 1)];
            run(&Number, 0, count, outputs, [(&input, 1)]);
            assert_eq!(narrow, input);
            assert!((0..count).all(|i| wide[3 * i..3 * i + 3] == [i as f32; 3]));
        }
    }
}
