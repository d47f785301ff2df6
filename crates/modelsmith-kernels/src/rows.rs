//! Runs a kernel over rows of memory: in parallel where it pays, in vector code where there is any.
//!
//! Rows are cut into pieces by their number and length alone, never by the number of threads.

use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::{DType, Flex, Shape};
use burn::tensor::{Bytes, Tensor};
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
    let first_inputs = inputs.map(|(values, width)| (&values[..left * width], width));
    let last_inputs = inputs.map(|(values, width)| (&values[left * width..], width));
    rayon::join(
        || run(kernel, first, left, heads, first_inputs),
        || run(kernel, first + left, count - left, tails, last_inputs),
    );
}

/// Runs `work`, compiled for the vector instructions found at run time as far as it is inlined: closures and
/// functions of the loops are to be `#[inline(always)]`.
pub fn vectorised<R>(work: impl FnOnce() -> R) -> R {
    struct Whole<F>(F);
    impl<R, F: FnOnce() -> R> WithSimd for Whole<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Whole(work))
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

/// The backend's tensor behind one that is on the CPU and outside any graph.
pub(crate) fn on_cpu(tensor: Tensor<1>) -> FlexTensor {
    match tensor.try_into_primitive::<Flex>() {
        Ok(tensor) => tensor,
        Err(error) => unreachable!("the tensor was found on the CPU: {error:?}"),
    }
}

/// The values of an `f32` tensor, in order: borrowed where they lie so, else copied.
pub(crate) fn contiguous(tensor: &FlexTensor) -> FlexTensor {
    match tensor.as_slice::<f32>() {
        Some(_) => tensor.clone(),
        None => tensor.to_contiguous(),
    }
}

/// The tensor as one that is not flipped along any axis: itself, or a copy.
pub(crate) fn unflipped(tensor: &FlexTensor) -> FlexTensor {
    match tensor.layout().has_positive_strides() {
        true => tensor.clone(),
        false => tensor.to_contiguous(),
    }
}

/// The tensor as one whose values lie in order in a buffer of just their size, to be written over:
/// its own buffer where nothing else shares it, else a copy.
pub(crate) fn owned(tensor: FlexTensor) -> FlexTensor {
    let layout = tensor.layout();
    let size = layout.num_elements() * size_of::<f32>();
    match layout.is_contiguous() && layout.start_offset() == 0 && tensor.bytes().len() == size {
        true => tensor,
        false => tensor.to_contiguous(),
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
    use crate::math;
    use modelsmith_core::random::Stream;

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

    /// Something of every kind: exponentials, divisions, sums.
    struct Mixed;

    impl Kernel<1, 0> for Mixed {
        #[inline(always)]
        fn run(&self, _: usize, [x]: [&mut [f32]; 1], []: [&[f32]; 0]) {
            for row in x.chunks_exact_mut(100) {
                let top = math::max(row);
                row.iter_mut()
                    .for_each(|x| *x = math::exp(*x - top) * math::normal(*x).0);
                let sum = math::sum(row) + math::sum_pairs(row, row, |x, y| x * y);
                row.iter_mut().for_each(|x| *x /= sum);
            }
        }
    }

    #[test]
    fn vector_code_gives_the_bits_of_scalar_code_for_any_number_of_threads() {
        let start = Stream::new(3, "rows").normal(100 * 2000, 0.0, 3.0);
        let mut plain = start.clone();
        Mixed.run(0, [&mut plain], []);
        for threads in [1, 2, 5] {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let mut values = start.clone();
            let work = || run(&Mixed, 0, 2000, [(&mut values, 100)], []);
            pool.build().unwrap().install(work);
            assert_eq!(values, plain, "{threads}");
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
