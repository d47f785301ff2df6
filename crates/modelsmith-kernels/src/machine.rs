//! What the processor can do at best: a loop of nothing but arithmetic, one of nothing but memory.
//!
//! Both use every thread of the pool that the operations use, and are to be timed by the caller.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::hint::black_box;

/// Independent sums, held in registers: more than any processor has multiply-adds under way in a
/// thread, and few enough for the 16 registers of AVX2.
const SUMS: usize = 12;

/// Threads that the operations use.
pub fn threads() -> usize {
    rayon::current_num_threads()
}

/// Multiplies and adds `rounds` times in `f32` vectors on every thread; gives the number of
/// floating-point operations, two for each multiply-add.
pub fn multiply_adds(rounds: usize) -> f64 {
    let done = rayon::broadcast(|_| Arch::new().dispatch(MultiplyAdds { rounds }));
    done.into_iter().sum()
}

/// The same on every thread's matrix unit, whose operands are `bf16`, 64 times as much a round; `None`
/// where the processor has none.
pub fn unit_multiply_adds(rounds: usize) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if crate::matrix_unit::available() {
        // SAFETY: the processor was asked.
        #[allow(unsafe_code)]
        let work =
            |_: rayon::BroadcastContext<'_>| unsafe { crate::matrix_unit::multiply_adds(rounds) };
        return Some(rayon::broadcast(work).into_iter().sum());
    }
    let _ = rounds;
    None
}

struct MultiplyAdds {
    rounds: usize,
}

impl WithSimd for MultiplyAdds {
    type Output = f64;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> f64 {
        let splat = |value: f32| simd.splat_f32s(black_box(value));
        let (factor, summand) = (splat(0.75), splat(0.25));
        // Sums that begin alike would be computed once.
        let mut sums: [S::f32s; SUMS] = std::array::from_fn(|at| splat(at as f32));
        for _ in 0..self.rounds {
            for sum in &mut sums {
                *sum = simd.mul_add_f32s(*sum, factor, summand);
            }
        }
        black_box(sums);
        (2 * self.rounds * SUMS * S::F32_LANES) as f64
    }
}

/// `y <- y + factor x`; gives the bytes read and written. These are all that move: what is written
/// has been read, while a cache fetches unasked what is only written.
///
/// # Panics
/// When the slices differ in length.
pub fn add_multiple(y: &mut [f32], x: &[f32], factor: f32) -> f64 {
    let count = y.len();
    assert!(
        x.len() == count,
        "add_multiple: {} values are added to {count}; they must be equally many",
        x.len()
    );
    // A stretch for each thread, so that it reads on and on.
    let part = count.div_ceil(threads()).max(1);
    let parts = y.par_chunks_mut(part).zip(x.par_chunks(part));
    parts.for_each(|(y, x)| Arch::new().dispatch(AddMultiple { y, x, factor }));
    (3 * size_of::<f32>() * count) as f64
}

struct AddMultiple<'a> {
    y: &'a mut [f32],
    x: &'a [f32],
    factor: f32,
}

impl WithSimd for AddMultiple<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _simd: S) {
        for (y, x) in self.y.iter_mut().zip(self.x) {
            *y += self.factor * *x;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loops_do_what_they_count() {
        let once = multiply_adds(1);
        assert!(once >= (2 * SUMS * threads()) as f64);
        assert_eq!(multiply_adds(10), 10.0 * once);
        if let Some(once) = unit_multiply_adds(1) {
            assert_eq!(once, (65536 * threads()) as f64);
            assert_eq!(unit_multiply_adds(10), Some(10.0 * once));
        }
        let x: Vec<f32> = (0..40_000).map(|at| at as f32).collect();
        let mut y = x.clone();
        assert_eq!(add_multiple(&mut y, &x, 2.0), 480_000.0);
        assert!(y.iter().zip(&x).all(|(y, x)| *y == 3.0 * x));
    }
}
