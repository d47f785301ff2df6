use super::*;
use crate::checks::{plain, random};
use burn::tensor::Device;
use modelsmith_core::parameters::to_vec;

fn exact(tensors: &[Tensor<1>]) -> f64 {
    let values = tensors.iter().flat_map(|tensor| to_vec(tensor.clone()));
    values.map(|x| f64::from(x) * f64::from(x)).sum()
}

#[test]
fn the_sum_is_the_exact_one_but_for_rounding() {
    let flex = Device::flex();
    for counts in [&[][..], &[0], &[1, 0, 3], &[4095, 4096, 4097], &[100_000]] {
        let tensors: Vec<Tensor<1>> = counts
            .iter()
            .map(|count| plain("x", [*count], 3.0, &flex))
            .collect();
        let (ours, exact) = (square_sum(&tensors), exact(&tensors));
        assert!((ours - exact).abs() <= 1e-6 * exact, "{counts:?}");
        assert!(
            (reference(&tensors) - exact).abs() <= 1e-5 * exact,
            "{counts:?}"
        );
    }
}

#[test]
fn views_and_tracked_tensors_count_their_own_values() {
    let x = plain("x", [20, 30], 1.0, &Device::flex());
    let view = x.clone().narrow(1, 3, 4).flatten(0, 1);
    let turned = x.transpose().narrow(0, 0, 2).flatten(0, 1);
    let tracked = random("y", [50], 1.0);
    for tensors in [vec![view.clone()], vec![turned, view], vec![tracked]] {
        let exact = exact(&tensors);
        assert!((square_sum(&tensors) - exact).abs() <= 1e-6 * exact);
    }
}

#[test]
fn the_sum_is_the_same_for_any_number_of_threads() {
    let flex = Device::flex();
    let tensors = [("a", 300_001), ("b", 7), ("c", 50_000)];
    let tensors = tensors.map(|(name, count)| plain(name, [count], 1.0, &flex));
    let sum = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| square_sum(&tensors))
    };
    assert_eq!(sum(1).to_bits(), sum(2).to_bits());
    assert_eq!(sum(1).to_bits(), sum(5).to_bits());
}

#[test]
fn what_is_not_finite_shows() {
    let tensor = Tensor::<1>::from_floats([1.0, f32::INFINITY], &Device::flex());
    assert_eq!(square_sum(&[tensor]), f64::INFINITY);
    let tensor = Tensor::<1>::from_floats([1.0, f32::NAN], &Device::flex());
    assert!(square_sum(&[tensor]).is_nan());
}
