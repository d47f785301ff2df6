use super::*;
use crate::checks::{close, gradients, near, plain, random};
use burn::tensor::{Device, TensorData};
use modelsmith_core::parameters::to_vec;

/// Lengths of an attention.
#[derive(Clone, Copy, Debug)]
struct Lengths {
    batch: usize,
    heads: usize,
    kv_heads: usize,
    time: usize,
    keys: usize,
    dim: usize,
    width: usize,
}

const fn lengths(of: [usize; 7]) -> Lengths {
    let [batch, heads, kv_heads, time, keys, dim, width] = of;
    Lengths {
        batch,
        heads,
        kv_heads,
        time,
        keys,
        dim,
        width,
    }
}

/// One query, few, more than a block of both, odd sizes, grouped queries, padded widths.
const LENGTHS: [Lengths; 9] = [
    lengths([1, 1, 1, 1, 1, 1, 1]),
    lengths([2, 4, 4, 1, 90, 64, 64]),
    lengths([2, 6, 2, 1, 33, 20, 12]),
    lengths([1, 4, 2, 2, 7, 16, 16]),
    lengths([2, 3, 1, 5, 7, 5, 6]),
    lengths([1, 4, 2, 33, 33, 48, 48]),
    lengths([2, 2, 2, 65, 129, 20, 9]),
    lengths([1, 6, 2, 70, 70, 64, 64]),
    lengths([1, 1, 1, 150, 150, 8, 8]),
];

fn bands() -> [Band; 5] {
    let band = |causal, window| Band { causal, window };
    [
        band(false, None),
        band(true, None),
        band(true, Some(5)),
        band(true, Some(80)),
        band(false, Some(40)),
    ]
}

/// Queries, keys and values as the layers give them, `[batch, time, heads, dim]`.
fn inputs(of: Lengths, size: f32) -> [Tensor<4>; 3] {
    let q = random("q", [of.batch, of.time, of.heads, of.dim], size);
    let k = random("k", [of.batch, of.keys, of.kv_heads, of.dim], size);
    let v = random("v", [of.batch, of.keys, of.kv_heads, of.width], 1.0);
    [q, k, v]
}

/// Their views as heads.
fn heads(x: &[Tensor<4>; 3]) -> [Tensor<4>; 3] {
    x.each_ref().map(|x| x.clone().swap_dims(1, 2))
}

/// Results and gradients against those of the reference, for queries and keys of a size; scores of
/// size `greatest` round to as much less.
fn compare(of: Lengths, size: f32, greatest: f32, mask: &Mask) {
    let leaves = inputs(of, size);
    let scale = 1.0 / (of.dim as f64).sqrt();
    let run = |fused: bool| {
        let [q, k, v] = heads(&leaves);
        match fused {
            true => attention(q, k, v, scale, mask),
            false => reference(q, k, v, scale, mask, |p| p),
        }
    };
    let (got, expected) = (run(true), run(false));
    close(got.clone(), expected.clone(), 5e-6 * greatest);
    let theirs = gradients(expected, leaves.each_ref());
    let ours = gradients(got, leaves.each_ref());
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        // A single key has gradients of exactly 0, or of the difference of two equal sums.
        let sizes = to_vec(theirs.clone()).into_iter().map(f32::abs);
        near(ours, theirs, 1e-5 * greatest * sizes.fold(0.2, f32::max));
    }
    let plain = heads(&leaves).map(|x| x.without_autodiff());
    let [q, k, v] = plain.clone();
    let expected = reference(q, k, v, scale, mask, |p| p);
    let [q, k, v] = plain;
    close(attention(q, k, v, scale, mask), expected, 5e-6 * greatest);
}

#[test]
fn values_and_gradients_are_those_of_the_reference() {
    for of in LENGTHS {
        for band in bands() {
            compare(of, 1.0, 1.0, &Mask { band, bias: None });
        }
    }
}

#[test]
fn biases_of_every_broadcast_shape_are_added() {
    for of in LENGTHS {
        let whole = [of.batch, of.heads, of.time, of.keys];
        for ones in 0..16 {
            let shape = std::array::from_fn(|axis| {
                if ones >> axis & 1 == 1 {
                    1
                } else {
                    whole[axis]
                }
            });
            let bias = Some(plain("bias", shape, 2.0, &Device::flex()));
            let band = bands()[ones % 5];
            compare(of, 1.0, 1.0, &Mask { band, bias });
        }
    }
}

/// A bias `[batch, 1, time, keys]` that hides three keys of four in turn, all in every fifth row.
fn holes(of: Lengths) -> Tensor<4> {
    let values = (0..of.batch * of.time * of.keys).map(|at| {
        let (row, key) = (at / of.keys, at % of.keys);
        match row % 5 == 4 || (key + row) % 4 != 0 {
            true => f32::MIN,
            false => 0.0,
        }
    });
    let shape = [of.batch, 1, of.time, of.keys];
    let data = TensorData::new(values.collect::<Vec<_>>(), shape);
    Tensor::from_data(data, &Device::flex())
}

#[test]
fn rows_that_a_finite_mask_hides_in_part_or_whole_are_those_of_the_reference() {
    for of in LENGTHS {
        for band in bands() {
            let bias = Some(holes(of));
            compare(of, 1.0, 1.0, &Mask { band, bias });
        }
    }
}

#[test]
fn great_scores_stay_exact() {
    for of in LENGTHS {
        compare(of, 6.0, 6.0, &Mask::causal());
    }
    // A bias so great that its exponential is infinite, also where blocks have lanes to spare.
    for of in LENGTHS {
        let bias = Tensor::full([1, 1, 1, of.keys], 300.0, &Device::flex());
        let mask = Mask {
            bias: Some(bias),
            ..Mask::causal()
        };
        compare(of, 1.0, 30.0, &mask);
    }
    let device = Device::flex();
    let huge = Tensor::<4>::full([1, 1, 6, 4], 1e18, &device);
    let v = plain("v", [1, 1, 6, 4], 1.0, &device);
    let y = attention(huge.clone(), -huge, v.clone(), 1.0, &Mask::causal());
    // Equal scores, however great: means of the values so far.
    let values = to_vec(v);
    let mean = |time: usize| (0..=time).map(|row| values[4 * row]).sum::<f32>() / (time + 1) as f32;
    for (time, y) in to_vec(y).chunks(4).enumerate() {
        assert!((y[0] - mean(time)).abs() < 1e-6, "{time}");
    }
}

#[test]
fn a_row_of_nothing_but_negative_infinity_has_no_distribution() {
    for of in [LENGTHS[1], LENGTHS[6]] {
        let [q, k, v] = heads(&inputs(of, 1.0));
        let shape = [1, 1, of.time, of.keys];
        let count = of.time * of.keys;
        let values: Vec<f32> = (0..count)
            .map(|at| {
                if at / of.keys == 0 {
                    f32::NEG_INFINITY
                } else {
                    0.0
                }
            })
            .collect();
        let bias = Tensor::from_data(TensorData::new(values, shape), &Device::flex());
        let mask = Mask {
            bias: Some(bias),
            ..Mask::default()
        };
        let got = to_vec(
            attention(q, k, v, 1.0, &mask)
                .narrow(0, 0, 1)
                .narrow(1, 0, 1),
        );
        let (first, others) = got.split_at(of.width);
        assert!(first.iter().all(|y| y.is_nan()));
        assert!(others.iter().all(|y| y.is_finite()));
    }
}

#[test]
fn only_tracked_inputs_get_gradients() {
    let of = LENGTHS[5];
    let leaves = inputs(of, 1.0);
    for tracked in 0..3 {
        let at = |i: usize| match i == tracked {
            true => leaves[i].clone(),
            false => leaves[i].clone().detach(),
        };
        let head = |i: usize| at(i).swap_dims(1, 2);
        let run = |fused: bool| match fused {
            true => attention(head(0), head(1), head(2), 0.2, &Mask::causal()),
            false => reference(head(0), head(1), head(2), 0.2, &Mask::causal(), |p| p),
        };
        let leaf = [&leaves[tracked]];
        let ([ours], [theirs]) = (gradients(run(true), leaf), gradients(run(false), leaf));
        close(ours, theirs, 1e-5);
    }
}

#[test]
fn a_bias_that_is_tracked_gets_its_gradient() {
    let of = LENGTHS[5];
    let leaves = inputs(of, 1.0);
    let bias = random("bias", [1, of.heads, 1, of.keys], 1.0);
    let mask = Mask {
        bias: Some(bias.clone()),
        ..Mask::causal()
    };
    let [q, k, v] = heads(&leaves);
    let [ours] = gradients(attention(q, k, v, 0.2, &mask), [&bias]);
    let [q, k, v] = heads(&leaves);
    let [theirs] = gradients(reference(q, k, v, 0.2, &mask, |p| p), [&bias]);
    near(ours, theirs, 1e-5);
}

#[test]
fn results_and_gradients_lie_as_layers_read_them() {
    if !crate::fused() {
        return;
    }
    let of = LENGTHS[5];
    let [q, k, v] = heads(&inputs(of, 1.0));
    let y = attention(q, k, v, 0.2, &Mask::causal()).without_autodiff();
    let flat = y
        .swap_dims(1, 2)
        .try_into_primitive::<burn::backend::Flex>();
    assert!(flat.unwrap().is_contiguous());
}

#[test]
fn views_of_a_longer_buffer_are_read_in_place() {
    let device = Device::flex();
    let of = LENGTHS[1];
    let q = plain("q", [of.batch, of.heads, of.time, of.dim], 1.0, &device);
    let buffer = |name| plain(name, [of.batch, of.kv_heads, 128, of.dim], 1.0, &device);
    let (k, v) = (
        buffer("k").narrow(2, 3, of.keys),
        buffer("v").narrow(2, 3, of.keys),
    );
    let got = attention(q.clone(), k.clone(), v.clone(), 0.2, &Mask::causal());
    close(got, reference(q, k, v, 0.2, &Mask::causal(), |p| p), 2e-6);
}

#[test]
fn inputs_whose_rows_do_not_lie_side_by_side_are_copied() {
    let x = random("x", [1, 2, 20, 40], 1.0);
    let (got, expected) = {
        let turned = || x.clone().swap_dims(2, 3);
        let q = || turned().narrow(2, 0, 30);
        (
            attention(q(), turned(), turned(), 0.3, &Mask::causal()),
            reference(q(), turned(), turned(), 0.3, &Mask::causal(), |p| p),
        )
    };
    close(got.clone(), expected.clone(), 5e-6);
    let ([ours], [theirs]) = (gradients(got, [&x]), gradients(expected, [&x]));
    close(ours, theirs, 1e-5);
}

#[test]
fn no_rows_give_no_rows() {
    for of in [[0, 2, 1, 3, 3, 4, 4], [1, 2, 1, 0, 3, 4, 4]].map(lengths) {
        let [q, k, v] = heads(&inputs(of, 1.0));
        let y = attention(q, k, v, 1.0, &Mask::default());
        assert_eq!(y.dims(), [of.batch, of.heads, of.time, of.width]);
    }
}

#[test]
fn gradients_are_differences_of_values() {
    let of = lengths([1, 2, 1, 6, 6, 3, 2]);
    let leaves = inputs(of, 1.0).map(|x| (x.dims(), to_vec(x)));
    let run = |values: [Vec<f32>; 3], tracked: bool| {
        let device = Device::flex().autodiff();
        let mut shapes = leaves.iter().map(|(shape, _)| *shape);
        let leaves = values.map(|values| {
            let data = TensorData::new(values, shapes.next().unwrap());
            let x = Tensor::<4>::from_data(data, &device);
            if tracked { x.require_grad() } else { x }
        });
        let [q, k, v] = heads(&leaves);
        let y = attention(q, k, v, 0.7, &Mask::causal());
        let weights = plain("weights", y.dims(), 1.0, &Device::flex());
        (leaves, y * weights)
    };
    let values = leaves.each_ref().map(|(_, values)| values.clone());
    let (inputs, y) = run(values.clone(), true);
    let grads = y.sum().backward();
    for (input, leaf) in inputs.iter().enumerate() {
        let slope = to_vec(leaf.grad(&grads).unwrap());
        for place in (0..slope.len()).step_by(5) {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[input][place] += by;
                to_vec(run(values, false).1.sum())[0]
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!(
                (slope[place] - difference).abs() < 2e-3,
                "input {input}, place {place}: {} against {difference}",
                slope[place]
            );
        }
    }
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let of = lengths([1, 4, 2, 200, 200, 20, 20]);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        pool.build().unwrap().install(|| {
            let leaves = inputs(of, 1.0);
            let [q, k, v] = heads(&leaves);
            let y = attention(q, k, v, 0.3, &Mask::causal());
            let [dq, dk, dv] = gradients(y.clone(), leaves.each_ref());
            [y, dq, dk, dv].map(to_vec)
        })
    };
    let one = run(1);
    assert!([2, 3, 8].into_iter().all(|threads| run(threads) == one));
}

#[test]
#[should_panic(expected = "do not fit")]
fn shapes_that_do_not_fit_are_refused() {
    let device = Device::flex();
    let x = |heads| Tensor::<4>::zeros([1, heads, 2, 4], &device);
    attention(x(3), x(2), x(2), 1.0, &Mask::default());
}

#[test]
#[should_panic(expected = "among only 2 keys")]
fn places_need_as_many_keys_as_queries() {
    let device = Device::flex();
    let x = |time| Tensor::<4>::zeros([1, 1, time, 4], &device);
    attention(x(3), x(2), x(2), 1.0, &Mask::causal());
}
