//! The cases of cards 6 and 15 (Xiao et al.; Guo et al.), and what the starts promise.

use super::*;
use crate::fake_host::FakeHost;
use burn::tensor::TensorData;
use modelsmith_core::parameters::to_vec;

fn matrix(values: &[f32], columns: usize) -> Tensor<2> {
    let rows = values.len() / columns;
    Tensor::from_data(
        TensorData::new(values.to_vec(), [rows, columns]),
        &burn::tensor::Device::flex(),
    )
}

fn made(a: Tensor<2>, b: Tensor<2>, base: Option<Tensor<2>>, activation: Activation) -> LowRank {
    LowRank {
        a: trained(a),
        b: trained(b),
        base,
        activation,
    }
}

/// The vectors, and the gradients of both factors under an outer one.
fn run(producer: &LowRank, outer: Tensor<2>) -> [Vec<f32>; 3] {
    let vectors = producer.vectors(&Pass::default());
    let grads = (vectors.clone() * outer).sum().backward();
    let gradient = |factor: &Param<Tensor<2>>| to_vec(factor.val().grad(&grads).unwrap());
    [
        to_vec(vectors.inner()),
        gradient(&producer.a),
        gradient(&producer.b),
    ]
}

fn close(found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (a, b) in found.iter().zip(expected) {
        assert!(
            (a - b).abs() <= tolerance * (1.0 + b.abs()),
            "{found:?} {expected:?}"
        );
    }
}

#[test]
fn a_product_and_its_gradients_are_those_of_card_6() {
    let a = matrix(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.0], 2);
    let b = matrix(&[1.0, 0.0, -1.0, 2.0, 0.0, 1.0, 1.0, -2.0], 4);
    let outer = matrix(
        &[1.0, 0.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 2.0, 0.0],
        4,
    );
    let [p, da, db] = run(&made(a, b, None, Activation::Tanh), outer);
    close(
        &p,
        &[
            1.0, 2.0, 1.0, -2.0, 3.0, -1.0, -4.0, 8.0, 0.5, 0.0, -0.5, 1.0,
        ],
        1e-6,
    );
    close(&da, &[3.0, -2.0, 0.0, 1.0, -2.0, 2.0], 1e-6);
    close(&db, &[1.0, 3.0, 1.0, 1.0, 2.0, -1.0, 0.0, 2.0], 1e-6);
}

/// One step of plain descent with a frozen orthonormal B moves P as its own step, projected onto the rows of B.
#[test]
fn a_step_in_a_subspace_is_the_projected_step_of_the_prompt() {
    let (c, s) = (0.6, 0.8);
    let b = matrix(&[c, s, 0.0, 0.0, 0.0, 0.0, s, -c], 4);
    let a = matrix(&[1.0, -0.5, 0.25, 2.0, -1.5, 0.75], 2);
    let outer = matrix(
        &[
            0.3, -1.0, 0.5, 2.0, 1.0, 0.25, -0.75, 0.1, -0.2, 0.4, 1.5, -0.6,
        ],
        4,
    );
    let rate = 0.1;
    let producer = made(a.clone(), b.clone(), None, Activation::Identity);
    let [p, da, _] = run(&producer, outer.clone());
    let moved = (a - matrix(&da, 2) * rate).matmul(b.clone());
    let projected = outer.matmul(b.clone().transpose()).matmul(b);
    let expected = matrix(&p, 4) - projected * rate;
    close(&to_vec(moved), &to_vec(expected), 1e-6);
}

#[test]
fn the_activated_form_and_its_gradients_are_those_of_card_15() {
    let base = matrix(&[1.0, 0.0, 2.0, -1.0, 1.0, 0.0], 3);
    let (a, b) = (matrix(&[0.5, 1.0, -0.25], 1), matrix(&[1.0, -2.0, 3.0], 3));
    let producer = made(a, b, Some(base), Activation::Tanh);
    let [x, du, dv] = run(&producer, matrix(&[1.0; 6], 3));
    close(
        &x,
        &[0.0, 0.0, 0.0, 0.462_117_17, -0.924_234_33, 1.386_351_5],
        1e-6,
    );
    close(&du, &[0.427_104_6, 1.572_895_4, 4.0], 1e-6);
    close(&dv, &[0.462_117_17; 3], 1e-6);
}

#[test]
fn without_a_function_both_forms_are_one() {
    let base = matrix(&[1.0, 0.0, 2.0, -1.0, 1.0, 0.0], 3);
    let a = matrix(&[0.5, 1.0, -0.25, 0.3, -1.0, 0.7], 2);
    let b = matrix(&[1.0, -2.0, 3.0, 0.25, 0.5, -1.5], 3);
    let outer = matrix(&[1.0, 2.0, 3.0, -1.0, 0.5, 0.0], 3);
    let whole = made(
        base.clone().matmul(a.clone()),
        b.clone(),
        None,
        Activation::Identity,
    );
    let kept = made(a, b, Some(base), Activation::Identity);
    let ([x, _, db], [y, _, dv]) = (run(&whole, outer.clone()), run(&kept, outer));
    assert_eq!(x, y);
    assert_eq!(db, dv);
}

#[test]
fn trained_numbers_are_those_of_the_cards() {
    let count = |form, virtual_tokens, rank, width| {
        let config = LowRankPromptConfig {
            virtual_tokens,
            rank,
            form,
            ..LowRankPromptConfig::default()
        };
        config.rows(width) * rank + rank * width
    };
    for (width, expected) in [(512, 6120), (768, 8680), (1024, 11_240)] {
        assert_eq!(count(Form::Product, 100, 10, width), expected);
    }
    assert_eq!(count(Form::Product, 10, 2, 1280), 2580);
    assert_eq!(count(Form::Activated, 10, 2, 1280), 5120);
    assert_eq!(count(Form::Product, 20, 5, 768), 3940);
    assert_eq!(count(Form::Activated, 20, 5, 768), 7680);
}

fn spread(values: &[f32]) -> f64 {
    let flat = Flat::from_vec(
        values.to_vec(),
        &[values.len()],
        &burn::tensor::Device::flex(),
    );
    variance(&flat).sqrt()
}

#[test]
fn uniform_factors_give_the_deviation_of_their_rank() {
    let host = FakeHost::new();
    let config = LowRankPromptConfig {
        rank: 8,
        virtual_tokens: 1000,
        ..LowRankPromptConfig::default()
    };
    let draws = (0..60).flat_map(|seed| {
        let producer = config.producer(&host, 8, seed).unwrap();
        to_vec(producer.vectors(&Pass::default()).inner())
    });
    let found = spread(&draws.collect::<Vec<_>>()) / (8f64 / 144.0).sqrt();
    assert!((found - 1.0).abs() < 0.02, "{found}");
}

#[test]
fn normal_factors_keep_the_scale_of_the_embeddings() {
    let host = FakeHost::new();
    let mut forms = vec![(Form::Product, Activation::Tanh)];
    let functions = [
        Activation::Tanh,
        Activation::Relu,
        Activation::Gelu,
        Activation::Sigmoid,
        Activation::Identity,
    ];
    forms.extend(functions.map(|function| (Form::Activated, function)));
    for (form, activation) in forms {
        let config = LowRankPromptConfig {
            rank: 4,
            virtual_tokens: 64,
            form,
            activation,
            factors: Factors::Gaussian,
            ..LowRankPromptConfig::default()
        };
        let first = first_vectors(&host, Start::Vocabulary, 64, &[], 0).unwrap();
        let draws = (0..200).flat_map(|seed| {
            to_vec(
                config
                    .producer(&host, 8, seed)
                    .unwrap()
                    .vectors(&Pass::default())
                    .inner(),
            )
        });
        let ratio = spread(&draws.collect::<Vec<_>>()).powi(2) / variance(&first);
        // The first vectors have a mean, which the formulas leave out.
        assert!(
            (0.5..2.0).contains(&ratio),
            "{form:?} {activation:?}: {ratio}"
        );
    }
}

#[test]
fn a_start_from_singular_values_is_the_best_of_its_rank() {
    let host = FakeHost::new();
    let first = first_vectors(&host, Start::Vocabulary, 6, &[], 3).unwrap();
    let svd =
        crate::adapter::common::factor::truncated_svd(&first.tensor().unwrap(), 6, 1.0).unwrap();
    // With all of the singular value on the left, columns are as long as their singular values.
    let squares = to_vec(svd.left.powi_scalar(2).sum_dim(0));
    let mut last = f32::INFINITY;
    for rank in 1..=6 {
        let config = LowRankPromptConfig {
            rank,
            virtual_tokens: 6,
            factors: Factors::Svd,
            ..LowRankPromptConfig::default()
        };
        let found = config
            .producer(&host, 8, 3)
            .unwrap()
            .vectors(&Pass::default())
            .inner();
        let missing = found - first.tensor::<2>().unwrap();
        let missing = missing.powi_scalar(2).sum().into_scalar::<f32>();
        let expected: f32 = squares[rank..].iter().sum();
        assert!(
            (missing - expected).abs() < 1e-5,
            "{rank}: {missing} {expected}"
        );
        assert!(missing <= last);
        last = missing;
    }
    assert!(last < 1e-10);
}

#[test]
fn options_that_nothing_reads_are_refused() {
    let host = FakeHost::new();
    let base = LowRankPromptConfig {
        virtual_tokens: 4,
        rank: 2,
        ..LowRankPromptConfig::default()
    };
    let cases = [
        (
            LowRankPromptConfig {
                rank: 0,
                ..base.clone()
            },
            "method.rank",
        ),
        (
            LowRankPromptConfig {
                rank: 9,
                ..base.clone()
            },
            "method.rank",
        ),
        (
            LowRankPromptConfig {
                rank: 5,
                factors: Factors::Svd,
                ..base.clone()
            },
            "finds at most 4",
        ),
        (
            LowRankPromptConfig {
                virtual_tokens: 0,
                ..base.clone()
            },
            "method.virtual_tokens",
        ),
        (
            LowRankPromptConfig {
                activation: Activation::Relu,
                ..base.clone()
            },
            "method.activation",
        ),
        (
            LowRankPromptConfig {
                form: Form::Activated,
                ..base.clone()
            },
            "method.factors",
        ),
        (
            LowRankPromptConfig {
                init: Start::Random,
                ..base.clone()
            },
            "method.init",
        ),
        (
            LowRankPromptConfig {
                init_text: "x".into(),
                ..base
            },
            "method.init_text",
        ),
    ];
    for (config, key) in cases {
        let error = config
            .attach(&host, 0)
            .err()
            .expect("a refusal")
            .to_string();
        assert!(error.contains(key), "{error}");
    }
}

/// A trained prompt of Lester et al., `[100, 768]`, from the public data folder; `None` without one.
fn trained_prompt(task: &str) -> Option<Tensor<2>> {
    let folder = std::env::var_os("MODELSMITH_DATA")?;
    let file = std::path::Path::new(&folder).join(format!("prompts/t5_base_{task}.npy"));
    let bytes = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    // The form of NumPy's files: ten bytes, of which the last two are the length of a header.
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let values = bytes[start..]
        .as_chunks::<4>()
        .0
        .iter()
        .copied()
        .map(f32::from_le_bytes);
    Some(matrix(&values.collect::<Vec<_>>(), 768))
}

/// First and last singular value, and the shares of the ten and fifty greatest of the squares (card 6).
const TRAINED: [(&str, [f32; 4]); 3] = [
    ("sst2", [3185.67, 292.41, 0.273, 0.782]),
    ("mrpc", [2133.25, 276.44, 0.282, 0.774]),
    ("rte", [2283.93, 193.32, 0.312, 0.812]),
];

#[test]
fn real_prompts_have_the_singular_values_of_the_card() {
    for (task, [first, last, ten, fifty]) in TRAINED {
        let Some(prompt) = trained_prompt(task) else {
            return;
        };
        let whole = truncated_svd(&prompt, 100, 1.0).unwrap();
        let squares = to_vec(whole.left.powi_scalar(2).sum_dim(0));
        let total: f32 = squares.iter().sum();
        let share = |count: usize| squares[..count].iter().sum::<f32>() / total;
        assert!((squares[0].sqrt() / first - 1.0).abs() < 1e-5, "{task}");
        assert!((squares[99].sqrt() / last - 1.0).abs() < 1e-4, "{task}");
        assert!(
            (share(10) - ten).abs() < 6e-4 && (share(50) - fifty).abs() < 6e-4,
            "{task}"
        );
        // A start of rank 10 misses the rest of the squares.
        let start = truncated_svd(&prompt, 10, 0.5).unwrap();
        let missing = (start.left.matmul(start.right) - prompt)
            .powi_scalar(2)
            .sum();
        let missing = missing.into_scalar::<f32>() / total;
        assert!(
            (missing - (1.0 - share(10))).abs() < 1e-4,
            "{task}: {missing}"
        );
    }
}
