//! The numeric cases of card 16, section (a).

use super::riemann::{Rule, riemann};
use super::*;
use modelsmith_core::method::find;
use serde_json::json;

const DELTA: [f32; 6] = [0.4, -0.1, 0.2, -0.6, 0.3, 0.1];
const DROPPED: [bool; 6] = [true, false, false, false, true, true];
const SHAPE: [usize; 2] = [2, 3];

fn place() -> Place<'static> {
    Place::new("model.layers.0.mlp.up_proj.weight", &SHAPE, 7)
}

#[track_caller]
fn near(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found_one, expected_one) in found.iter().zip(expected) {
        assert!(
            (found_one - expected_one).abs() <= tolerance,
            "{found:?} is not {expected:?}"
        );
    }
}

fn dare(k: f64) -> Vec<f32> {
    let mut delta = DELTA.to_vec();
    let operator = Dare {
        p: 0.5,
        k,
        mask: Bias::Random,
    };
    operator.with_mask(&mut delta, |index, _| DROPPED[index]);
    delta
}

#[test]
fn dare_with_a_factor_gives_the_cards_numbers() {
    near(&dare(0.0), &[0.0, -0.2, 0.4, -1.2, 0.0, 0.0], 1e-6);
    near(&dare(0.5), &[0.2, -0.15, 0.3, -0.9, 0.15, 0.05], 1e-6);
    near(&dare(-0.5), &[-0.2, -0.25, 0.5, -1.5, -0.15, -0.05], 1e-6);
    near(&dare(0.8), &[0.32, -0.12, 0.24, -0.72, 0.24, 0.08], 1e-6);
    near(&dare(1.0), &DELTA, 1e-7);
}

#[test]
fn biased_masks_drop_by_sign_and_by_product() {
    let dare = |mask| Dare {
        p: 0.5,
        k: 0.5,
        mask,
    };
    let mut delta = DELTA.to_vec();
    dare(Bias::Sign).apply(&place(), &mut delta).unwrap();
    near(&delta, &[0.6, -0.05, 0.3, -0.3, 0.45, 0.15], 1e-6);
    let gradient = [-1.0, -1.0, 1.0, 1.0, 1.0, -1.0];
    let with = Place {
        gradient: Some(&gradient),
        ..place()
    };
    let mut delta = DELTA.to_vec();
    dare(Bias::Gradient).apply(&with, &mut delta).unwrap();
    near(&delta, &[0.2, -0.15, 0.3, -0.3, 0.45, 0.05], 1e-6);
    let error = dare(Bias::Gradient)
        .apply(&place(), &mut delta)
        .unwrap_err();
    assert!(error.to_string().contains("needs a gradient"), "{error}");
}

#[test]
fn everything_dropped_is_zero_and_nothing_is_divided_by_it() {
    let mut delta = DELTA.to_vec();
    Dare {
        p: 1.0,
        ..Dare::default()
    }
    .apply(&place(), &mut delta)
    .unwrap();
    near(&delta, &[0.0; 6], 0.0);
}

fn squared_error(edited: &[f32]) -> f64 {
    edited
        .iter()
        .zip(DELTA)
        .map(|(a, b)| f64::from(a - b).powi(2))
        .sum()
}

#[test]
fn bitdelta_gives_the_cards_numbers() {
    let of = |blocks| {
        let operator = BitDelta {
            blocks,
            ..BitDelta::default()
        };
        operator.encode(&place(), DELTA.to_vec()).unwrap().decode()
    };
    let a = 0.283_333_3;
    near(&of(1), &[a, -a, a, -a, a, a], 1e-6);
    let (large, small) = (0.433_333_3, 0.133_333_3);
    near(&of(2), &[large, -small, small, -large, large, small], 1e-6);
    for (blocks, expected) in [(1, 0.188_333_3), (2, 0.053_333_3), (3, 0.025), (6, 0.0)] {
        assert!(
            (squared_error(&of(blocks)) - expected).abs() < 1e-6,
            "{blocks} blocks"
        );
    }
}

#[test]
fn zero_counts_as_positive_and_drawn_magnitudes_have_the_mean() {
    let signs = BitDelta::default()
        .encode(&place(), vec![0.0, -2.0])
        .unwrap()
        .decode();
    near(&signs, &[1.0, -1.0], 0.0);
    let delta: Vec<f32> = (0..100_000)
        .map(|i| if i % 2 == 0 { 0.5 } else { -1.5 })
        .collect();
    // |N(2, 1)| has the mean 2.017.
    for (magnitudes, mean) in [(Magnitudes::Uniform, 2.0_f32), (Magnitudes::Normal, 2.017)] {
        let operator = BitDelta {
            m: 2.0,
            magnitudes,
            ..BitDelta::default()
        };
        let mut drawn = delta.clone();
        operator.apply(&place(), &mut drawn).unwrap();
        let found = drawn.iter().map(|value| value.abs()).sum::<f32>() / 1e5;
        assert!((found - mean).abs() < 0.02, "{found}");
        assert!(drawn.iter().zip(&delta).all(|(a, b)| a * b >= 0.0));
    }
}

#[test]
fn the_low_rank_form_gives_the_cards_singular_values() {
    let of = |rank| LowRank {
        rank,
        ..LowRank::default()
    };
    let Encoded::LowRank { s, .. } = of(2).encode(&place(), DELTA.to_vec()).unwrap() else {
        panic!("no factors");
    };
    near(&s, &[0.783_906, 0.235_566], 1e-6);
    let first = of(1).encode(&place(), DELTA.to_vec()).unwrap().decode();
    assert!((squared_error(&first).sqrt() - 0.235_566).abs() < 1e-6);
    near(
        &of(2).encode(&place(), DELTA.to_vec()).unwrap().decode(),
        &DELTA,
        1e-6,
    );
}

#[test]
fn ties_gives_the_cards_numbers() {
    let other = vec![-0.5, 0.2, 0.1, 0.3, 0.4, -0.2];
    let mut trimmed = other.clone();
    Magnitude { density: 0.5 }
        .apply(&place(), &mut trimmed)
        .unwrap();
    near(&trimmed, &[-0.5, 0.0, 0.0, 0.3, 0.4, 0.0], 0.0);
    let merged = ties::merge(vec![DELTA.to_vec(), other], 3);
    near(&merged, &[-0.5, 0.0, 0.0, -0.6, 0.35, 0.0], 1e-6);
}

#[test]
fn empty_signs_follow_the_majority() {
    let signs = ties::elect(&[
        vec![0.4, 0.0, 0.0, -0.6, 0.3, 0.0],
        vec![-0.5, 0.0, 0.0, 0.3, 0.4, 0.0],
    ]);
    // Sums -0.1, 0, 0, -0.3, 0.7, 0: two minus, one plus.
    assert_eq!(signs, [-1.0, -1.0, -1.0, -1.0, 1.0, -1.0]);
}

/// `L = ½ Σ h (W - c)²` around `W_post = ΔW`, `W_pre = 0`, `c = 1.2 ΔW`.
fn quadratic(edited: &[f32]) -> (f64, impl Fn(usize, Rule) -> f64) {
    const H: [f64; 6] = [1.0, 2.0, 1.0, 0.5, 1.0, 3.0];
    let c = DELTA.map(|delta| 1.2 * f64::from(delta));
    let post = DELTA.map(f64::from);
    let change: Vec<f32> = edited.iter().zip(DELTA).map(|(a, b)| a - b).collect();
    let loss = move |w: &[f64]| -> f64 { (0..6).map(|i| 0.5 * H[i] * (w[i] - c[i]).powi(2)).sum() };
    let end: Vec<f64> = (0..6).map(|i| post[i] + f64::from(change[i])).collect();
    let exact = loss(&end) - loss(&post);
    let estimate = move |steps, rule| {
        let gradient = |t: f64| {
            let at = |i: usize| post[i] + t * f64::from(change[i]);
            Ok(vec![
                (0..6).map(|i| (H[i] * (at(i) - c[i])) as f32).collect(),
            ])
        };
        riemann(&[&change], steps, rule, gradient).unwrap().total
    };
    (exact, estimate)
}

#[test]
fn riemann_sums_on_a_quadratic_give_the_cards_numbers() {
    let mut expo = DELTA.to_vec();
    Scale { alpha: 0.3 }.apply(&place(), &mut expo).unwrap();
    let bit = BitDelta::default()
        .encode(&place(), DELTA.to_vec())
        .unwrap()
        .decode();
    let cases = [
        (expo, -0.0078, -0.01248),
        (dare(0.0), 0.268, 0.216),
        (bit, 0.127_181, 0.103_278),
    ];
    for (edited, exact, left) in cases {
        let (found, estimate) = quadratic(&edited);
        assert!((found - exact).abs() < 1e-6, "{found} is not {exact}");
        assert!((estimate(5, Rule::Left) - left).abs() < 1e-6);
        // Exact on a quadratic, however few steps.
        for steps in [1, 5] {
            assert!((estimate(steps, Rule::Trapezoid) - exact).abs() < 1e-6);
        }
    }
    let mut expo = DELTA.to_vec();
    Scale { alpha: 0.3 }.apply(&place(), &mut expo).unwrap();
    assert!((quadratic(&expo).1(1, Rule::Left) + 0.0312).abs() < 1e-6);
}

#[test]
fn the_factor_of_dare_has_mean_one_and_the_variance_of_the_law() {
    let count = 1_000_000;
    for (k, p) in [(0.0, 0.5), (0.5, 0.5), (-1.0, 0.3), (0.8, 0.9), (0.0, 0.9)] {
        let mut factors = vec![1.0_f32; count];
        let operator = Dare {
            p,
            k,
            mask: Bias::Random,
        };
        let shape = [count];
        operator
            .apply(&Place::new("w", &shape, 11), &mut factors)
            .unwrap();
        let n = count as f64;
        let mean = factors.iter().map(|f| f64::from(*f)).sum::<f64>() / n;
        let variance = factors
            .iter()
            .map(|f| (f64::from(*f) - mean).powi(2))
            .sum::<f64>()
            / n;
        let law = (1.0 - k).powi(2) * p / (1.0 - p);
        assert!(
            (mean - 1.0).abs() < 3.0 * (law / n).sqrt(),
            "mean {mean} at k {k}, p {p}"
        );
        // The factor is one of two values, so its sampled variance has a deviation below 3 sqrt(law / n) law here.
        assert!(
            (variance / law - 1.0).abs() < 0.02,
            "variance {variance}, law {law}"
        );
    }
}

#[test]
fn magprune_keeps_by_rank_and_keeps_the_mean() {
    let probabilities = keep_probabilities(&DELTA[..3], 0.5, 0.2);
    for (found, expected) in probabilities.iter().zip([0.7, 0.3, 0.5]) {
        assert!((found - expected).abs() < 1e-12);
    }
    let shape = [1000, 1000];
    let operator = Della {
        density: 0.4,
        epsilon: 0.2,
    };
    let mut delta: Vec<f32> = (0..1_000_000).map(|i| (i % 997 + 1) as f32).collect();
    let before: f64 = delta.iter().map(|v| f64::from(*v)).sum();
    operator
        .apply(&Place::new("w", &shape, 5), &mut delta)
        .unwrap();
    let kept = delta.iter().filter(|value| **value != 0.0).count();
    assert!((kept as f64 / 1e6 - 0.4).abs() < 0.002, "{kept}");
    let after: f64 = delta.iter().map(|v| f64::from(*v)).sum();
    assert!((after / before - 1.0).abs() < 0.005, "{}", after / before);
}

#[test]
fn masks_depend_on_seed_and_name_alone() {
    let shape = [64];
    let mask = |name: &str, seed| {
        let mut ones = vec![1.0; 64];
        Drop { p: 0.5 }
            .apply(&Place::new(name, &shape, seed), &mut ones)
            .unwrap();
        ones
    };
    assert_eq!(mask("a", 1), mask("a", 1));
    assert_ne!(mask("a", 1), mask("b", 1));
    assert_ne!(mask("a", 1), mask("a", 2));
}

#[test]
fn operators_follow_each_other_and_the_last_one_stores() {
    let mut delta = DELTA.to_vec();
    Magnitude { density: 0.34 }
        .apply(&place(), &mut delta)
        .unwrap();
    near(&delta, &[0.4, 0.0, 0.0, -0.6, 0.0, 0.0], 0.0);
    let encoded = Scale { alpha: 1.0 }.encode(&place(), delta).unwrap();
    assert_eq!(encoded.form(), "sparse");
    near(&encoded.decode(), &[0.8, 0.0, 0.0, -1.2, 0.0, 0.0], 1e-6);
}

#[test]
fn forms_that_are_small_come_back_as_they_were() {
    let long: Vec<f32> = (0..100).map(|i| (i as f32 - 41.5) / 7.0).collect();
    let shape = [10, 10];
    let place = Place::new("model.layers.0.mlp.up_proj.weight", &shape, 1);
    let of = |blocks| {
        BitDelta {
            blocks,
            ..BitDelta::default()
        }
        .encode(&place, long.clone())
        .unwrap()
    };
    assert_eq!(of(1).bits(16), 32 * 4 + 32);
    assert_eq!(of(16).bits(16), 32 * 4 + 32 * 16 + 4 * 100);
    let (one, hundred) = (of(1).decode(), of(100).decode());
    assert!(one.iter().zip(&long).all(|(a, b)| a.signum() == b.signum()));
    near(&hundred, &long, 1e-6);
}

#[test]
fn options_out_of_range_are_refused() {
    for (id, options) in [
        ("drop", json!({"p": 1.5})),
        ("dare", json!({"p": -0.1})),
        ("magnitude", json!({"density": 2.0})),
        ("magprune", json!({"density": 0.1, "epsilon": 0.2})),
        ("bitdelta", json!({"blocks": 0})),
        ("bitdelta", json!({"blocks": 4, "m": 2.0})),
        ("low_rank", json!({"density": -1.0})),
        ("expo", json!({"alpha": "far"})),
    ] {
        let entry = find(TABLE, id).unwrap();
        let options = options.as_object().unwrap();
        let error = entry.configure(options).map(|_| ()).unwrap_err();
        assert!(error.to_string().starts_with("method."), "{error}");
    }
}

/// `peft.utils.merge_utils` on the same tensors (`parity/deltas`): it trims each tensor, elects on what is left, and averages
/// weighted entries over the number of those that agree.
#[test]
fn pruning_and_voting_give_pefts_numbers() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../parity/deltas/peft.safetensors"
    );
    let file = modelsmith_core::files::Reader::open(path).unwrap();
    let weights = file.f32("weights").unwrap();
    let tasks: Vec<Vec<f32>> = (0..3)
        .map(|i| file.f32(&format!("task_{i}")).unwrap())
        .collect();
    let weighted = |tasks: &[Vec<f32>]| -> Vec<Vec<f32>> {
        let times =
            |(task, weight): (&Vec<f32>, &f32)| task.iter().map(|value| value * weight).collect();
        tasks.iter().zip(&weights).map(times).collect()
    };
    let sum = |tasks: &[Vec<f32>]| -> Vec<f32> {
        (0..tasks[0].len())
            .map(|i| tasks.iter().map(|task| task[i]).sum())
            .collect()
    };
    near(
        &sum(&weighted(&tasks)),
        &file.f32("task_arithmetic").unwrap(),
        1e-6,
    );
    let mut trimmed = tasks;
    for task in &mut trimmed {
        Magnitude { density: 0.4 }.apply(&place(), task).unwrap();
    }
    near(
        &sum(&weighted(&trimmed)),
        &file.f32("magnitude_prune").unwrap(),
        1e-6,
    );
    let signs = ties::elect(&trimmed);
    near(
        &ties::disjoint_mean(&weighted(&trimmed), &signs),
        &file.f32("ties").unwrap(),
        1e-6,
    );
}

#[test]
fn a_chain_passes_over_operators_that_do_not_want_the_tensor() {
    let delta = [0.4, -0.1, 0.2, -0.6, 0.3, 0.1];
    let (bits, twice) = (BitDelta::default(), Scale { alpha: 1.0 });
    let operators: [&dyn Operator; 2] = [&twice, &bits];
    let chained = |name: &str, shape: &[usize], operators: &[&dyn Operator]| {
        let place = Place::new(name, shape, 1);
        chain(operators, &place, &delta).unwrap()
    };
    let kernel = chained("blocks.0.conv.weight", &[1, 1, 2, 3], &operators).unwrap();
    assert_eq!(kernel.form(), "signs");
    assert!((kernel.decode()[0] - 2.0 * 1.7 / 6.0).abs() < 1e-6);
    let head = chained("classifier.weight", &[2, 3], &operators).unwrap();
    assert_eq!(head.decode(), delta.map(|x| 2.0 * x));
    assert_eq!(chained("classifier.weight", &[2, 3], &operators[1..]), None);
}

#[test]
fn the_variance_of_the_factor_is_that_of_the_law() {
    for (k, p, expected) in [
        (0.0, 0.5, 1.0),
        (-1.0, 0.5, 4.0),
        (0.5, 0.9, 2.25),
        (1.0, 0.9, 0.0),
    ] {
        let dare = Dare {
            p,
            k,
            mask: Bias::Random,
        };
        assert!((dare.variance() - expected).abs() < 1e-9);
        let (drop, keep) = dare.factors();
        let [drop, keep] = [drop, keep].map(f64::from);
        let mean = p * drop + (1.0 - p) * keep;
        let variance = p * (drop - mean).powi(2) + (1.0 - p) * (keep - mean).powi(2);
        assert!((mean - 1.0).abs() < 1e-6 && (variance - expected).abs() < 1e-5);
    }
}

#[test]
fn a_factor_is_chosen_on_the_side_where_the_loss_falls() {
    let loss = |alpha: f64| Ok((alpha - 0.32_f64).powi(2));
    let choice = choose_alpha(-0.64, 0.1, loss).unwrap();
    assert!((choice.alpha - 0.3).abs() < 1e-9 && choice.curve.len() == 11);
    let choice = choose_alpha(0.1, 0.1, |alpha| Ok((alpha + 0.5).powi(2))).unwrap();
    assert!((choice.alpha + 0.5).abs() < 1e-9 && choice.curve[0].0 == -1.0);
    assert_eq!(choose_alpha(0.1, 0.25, loss).unwrap().alpha, 0.0);
    assert!(choose_alpha(0.1, 0.0, loss).is_err());
    assert!(choose_alpha(0.1, 0.1, |_| Ok(f64::NAN)).is_err());
}

#[test]
fn products_are_counted_by_sign_however_small() {
    let found = riemann::signs(&[1e-30, -1.0, 0.0, 2.0], &[1e-30, 1.0, 3.0, -0.5]);
    let expected = riemann::Signs {
        negative: 2,
        zero: 1,
        positive: 1,
    };
    assert_eq!(found, expected);
}
