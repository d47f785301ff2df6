//! The cases of card 18 that need no host of PEFT's.

use super::prefixed::{Layers, Prefixed};
use super::*;
use crate::adapter::common::copies::Copies;
use crate::fake_host::FakeHost;
use crate::prompt::common::peft::PROMPT;
use burn::tensor::{DType, Device, Tensor, TensorData};
use modelsmith_core::hooks::{Around, AttentionShape, Hooks, Pass, Qkv};
use modelsmith_core::mask::Mask;
use modelsmith_core::parameters::{frozen, to_vec, trained};
use modelsmith_core::random::Stream;

fn small(projection: bool) -> PrefixTuningConfig {
    PrefixTuningConfig {
        virtual_tokens: 3,
        projection,
        projection_size: 6,
        init_std: 0.5,
        ..PrefixTuningConfig::default()
    }
}

/// One query (1, 0), keys and values that are the unit vectors, behind a prefix of one key.
fn hand(key: [f32; 2], value: [f32; 2]) -> Vec<f32> {
    let device = Device::flex();
    let row = |rows: &[f32]| -> Tensor<4> {
        Tensor::from_data(
            TensorData::new(rows.to_vec(), [1, 1, rows.len() / 2, 2]),
            &device,
        )
    };
    let unit = row(&[1.0, 0.0, 0.0, 1.0]);
    let (k, v) = (
        Tensor::cat(vec![row(&key), unit.clone()], 2),
        Tensor::cat(vec![row(&value), unit], 2),
    );
    let mask = Mask::default().behind(1, 1, 2, &device);
    to_vec(modelsmith_kernels::attention(
        row(&[1.0, 0.0]),
        k,
        v,
        0.5f64.sqrt(),
        &mask,
    ))
}

#[test]
fn attention_behind_a_prefix_is_that_of_the_card() {
    for (key, value, expected) in [
        ([2.0, 0.0], [0.0, 4.0], [0.283_995_42, 2.443_930_6]),
        ([0.0, 0.0], [0.0, 0.0], [0.503_489_85, 0.248_255_09]),
    ] {
        let found = hand(key, value);
        assert!(
            found
                .iter()
                .zip(expected)
                .all(|(a, b)| (a - b).abs() < 1e-6),
            "{found:?}"
        );
    }
}

#[test]
fn trained_numbers_are_those_of_the_card() {
    let count = |width: usize, layers: usize, virtual_tokens, projection| {
        let mut site = FakeHost::new().sites()[6].clone();
        site.outputs = width;
        let shape = AttentionShape {
            heads: 1,
            kv_heads: 1,
            head_dim: width,
            scale: 1.0,
        };
        let layers = Layers {
            sites: vec![site; layers],
            shape,
        };
        let config = PrefixTuningConfig {
            virtual_tokens,
            projection,
            ..PrefixTuningConfig::default()
        };
        let shapes = layers.shapes(&config).into_iter();
        shapes.map(|(_, shape)| shape[0] * shape[1]).sum::<usize>()
    };
    assert_eq!(count(1024, 24, 20, false), 983_040);
    assert_eq!(count(1024, 24, 128, false), 6_291_456);
    assert_eq!(count(1024, 24, 20, true), 25_760_256);
}

#[test]
fn the_finished_prefix_computes_what_its_network_computed() {
    let host = FakeHost::new();
    let adapter = small(true).attach(&host, 2).unwrap();
    assert_eq!(adapter.files(&host).unwrap().config["peft_type"], PROJECTED);
    let files = adapter.portable(&host).unwrap();
    assert_eq!(files.config["peft_type"], TYPE);
    // Three keys and values of one head of four places, in one layer.
    assert_eq!(files.tensors[PROMPT].shape, [3, 8]);
    let plain = crate::saved::from_peft(&files.config).unwrap();
    let plain = plain.restore(&host, &files).unwrap();
    let (found, expected) = (
        host.logits(&[plain.as_ref()]),
        host.logits(&[adapter.as_ref()]),
    );
    assert!(
        found
            .iter()
            .zip(&expected)
            .all(|(a, b)| (a - b).abs() < 1e-5)
    );
    assert_ne!(expected, host.logits(&[]));
}

#[test]
fn dropping_values_is_for_training_only() {
    let host = FakeHost::new();
    let config = PrefixTuningConfig {
        dropout: 0.5,
        ..small(false)
    };
    let adapter = config.attach(&host, 2).unwrap();
    let pass = crate::fake_host::training();
    let dropped = to_vec(host.forward(&[adapter.hooks()], &pass));
    assert_ne!(dropped, host.logits(&[adapter.as_ref()]));
    let whole = small(false).attach(&host, 2).unwrap();
    assert_eq!(
        host.logits(&[whole.as_ref()]),
        host.logits(&[adapter.as_ref()])
    );
}

#[test]
fn options_out_of_range_are_refused() {
    let host = FakeHost::new();
    let base = small(true);
    let cases = [
        (
            PrefixTuningConfig {
                virtual_tokens: 0,
                ..base.clone()
            },
            "method.virtual_tokens",
        ),
        (
            PrefixTuningConfig {
                projection_size: 0,
                ..base.clone()
            },
            "method.projection_size",
        ),
        (
            PrefixTuningConfig {
                init_std: 0.0,
                ..base.clone()
            },
            "method.init_std",
        ),
        (
            PrefixTuningConfig {
                dropout: 1.0,
                ..base
            },
            "method.dropout",
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

/// Attention in the type of its inputs, keys shared by the heads.
fn attend(Qkv { q, k, v, mask }: Qkv) -> Tensor<4> {
    let ([_, heads, time, _], [batch, _, keys, dim]) = (q.dims(), k.dims());
    let [k, v] = [k, v].map(|shared| shared.expand([batch, heads, keys, dim]));
    let scores = q.matmul(k.swap_dims(2, 3)) * 0.5;
    let scores = match mask.dense(time, keys, &Device::flex()) {
        Some(mask) => scores + mask.cast(DType::F64),
        None => scores,
    };
    let weights = scores.exp();
    let sums = weights.clone().sum_dim(3);
    (weights / sums).matmul(v)
}

/// Case (a)5 of card 18, in f64 throughout: the gradient of every number of a prefix is the slope of the loss.
#[test]
fn gradients_of_a_prefix_are_the_slopes_in_f64() {
    let host = FakeHost::new();
    let site = host.sites()[6].clone();
    let shape = host.attention_shape(&site).unwrap();
    let config = PrefixTuningConfig {
        virtual_tokens: 2,
        ..PrefixTuningConfig::default()
    };
    let layers = Layers {
        sites: vec![site.clone()],
        shape,
    };
    let wide = |name: &str, dims: [usize; 4]| -> Tensor<4> {
        let values = Stream::new(4, name).normal(dims.iter().product(), 0.0, 0.7);
        let values: Tensor<4> = Tensor::from_data(TensorData::new(values, dims), &Device::flex());
        values.cast(DType::F64)
    };
    let columns = layers.columns();
    let table = wide("table", [1, 1, 2, columns]).reshape([2, columns]);
    let (q, kv) = ([2, 2, 3, 4], [2, 1, 3, 4]);
    let loss = |table: Tensor<2>, trains: bool| -> (Prefixed, Tensor<1>) {
        let prefixed = Prefixed {
            table: match trains {
                true => trained(table),
                false => frozen(table),
            },
            inner: None,
            inner_bias: None,
            outer: None,
            outer_bias: None,
            heads: Copies::of_host(&host, Vec::new()).unwrap(),
            layers: layers.clone(),
            config: config.clone(),
        };
        let qkv = Qkv {
            q: wide("q", q),
            k: wide("k", kv),
            v: wide("v", kv),
            mask: Mask::causal(),
        };
        let (hooks, pass): (&[&dyn Hooks], _) = (&[&prefixed], &Pass::default());
        let y = Around { hooks, pass }.attention(&site, &shape, qkv, &attend);
        let loss = (y * wide("outer", q)).sum();
        (prefixed.clone(), loss)
    };
    let (prefixed, value) = loss(table.clone(), true);
    let gradients = value.backward();
    let gradient = prefixed.table.val().grad(&gradients).unwrap();
    let slopes: Vec<f64> = gradient.into_data().try_into_vec().unwrap();
    assert_eq!(slopes.len(), 2 * columns);
    for (at, slope) in slopes.into_iter().enumerate() {
        let moved = |by: f64| {
            let mut one = vec![0.0_f32; 2 * columns];
            one[at] = 1.0;
            let one = Tensor::<2>::from_data(TensorData::new(one, [2, columns]), &Device::flex());
            let table = table.clone() + one.cast(DType::F64) * by;
            loss(table, false).1.into_scalar::<f64>()
        };
        let step = 1e-5;
        let found = (moved(step) - moved(-step)) / (2.0 * step);
        let apart = (found - slope).abs() / slope.abs().max(1e-2);
        assert!(apart < 1e-6, "{at}: {slope} {found}");
    }
}
