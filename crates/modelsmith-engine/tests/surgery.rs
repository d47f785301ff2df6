//! Model Surgery's parts on small hosts: features, patches in memory, as files and as folders.

mod common;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use common::World;
use modelsmith_core::files::Reader;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_core::random::Stream;
use modelsmith_data::Tokenizer;
use modelsmith_engine::edit::surgery::{
    Examples, Origin, Patch, Region, States, Surgery, Target, WriteOptions, edited, load, operate,
    save, write_model,
};
use modelsmith_hosts::{TokenInput, Transformer};
use std::path::Path;

fn fixture(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../parity/hosts")
        .join(name)
}

fn host(name: &str) -> Transformer {
    modelsmith_hosts::load(&fixture(name), &Device::flex()).unwrap()
}

/// Texts of two clouds of states of a host's width.
fn clouds(width: usize) -> Examples {
    let mut stream = Stream::new(1, "clouds");
    let classes: Vec<usize> = (0..200).map(|text| text % 2).collect();
    let features = classes.iter().map(|class| {
        let mut row = stream.normal(width, 0.0, 1.0);
        row[0] += if *class == 1 { 3.0 } else { -3.0 };
        row
    });
    Examples {
        features: features.collect(),
        classes,
    }
}

fn options(rows: usize) -> Surgery {
    let mut options = Surgery {
        rows,
        ..Surgery::default()
    };
    options.probe.learning_rate = 1e-2;
    options
}

fn patch(host: &Transformer, options: &Surgery) -> Patch {
    operate(host, &clouds(host.hidden_size()), 1, options)
        .unwrap()
        .patch
}

#[test]
fn features_are_the_mean_over_real_tokens_of_the_state_behind_the_final_norm() {
    // transformers' `hidden_states[-1]` of a padded batch, averaged here with its attention mask.
    for name in ["llama_gqa_untied", "mistral", "qwen2", "gpt2", "opt"] {
        let reader = Reader::open(fixture(name).join("expected.safetensors")).unwrap();
        let whole = |key: &str| -> (Vec<i64>, [usize; 2]) {
            let bytes = reader.bytes(key).unwrap().chunks_exact(8);
            let shape = &reader.info(key).unwrap().shape;
            let values = bytes.map(|bytes| i64::from_le_bytes(bytes.try_into().unwrap()));
            (values.collect(), [shape[0], shape[1]])
        };
        let (ids, shape) = whole("input_ids");
        let (mask, _) = whole("attention_mask");
        let states = (0..).map(|at| format!("hidden_states.{at}"));
        let last = states
            .take_while(|key| reader.contains(key))
            .last()
            .unwrap();
        let states = reader.f32(&last).unwrap();
        let device = Device::flex();
        let real: Vec<bool> = mask.iter().map(|real| *real == 1).collect();
        let mut input = TokenInput::new(Tensor::<2, Int>::from_data(
            TensorData::new(ids, shape),
            &device,
        ));
        input.mask = Some(Tensor::<2, Bool>::from_data(
            TensorData::new(real.clone(), shape),
            &device,
        ));
        let found = host(name).embed(&input, false, &[]).unwrap();
        let width = found.dims()[1];
        let found = to_vec(found);
        for row in 0..shape[0] {
            let places = row * shape[1]..(row + 1) * shape[1];
            let kept: Vec<usize> = places.filter(|place| real[*place]).collect();
            for column in 0..width {
                let sum: f32 = kept
                    .iter()
                    .map(|place| states[place * width + column])
                    .sum();
                let mean = sum / kept.len() as f32;
                let gap = (mean - found[row * width + column]).abs();
                assert!(gap < 1e-5 * mean.abs().max(1.0), "{name}: {gap}");
            }
        }
    }
}

#[test]
fn texts_that_are_too_long_are_left_out_and_the_batch_changes_nothing() {
    let world = World::new();
    let host = modelsmith_hosts::load(&world.model(), &Device::flex()).unwrap();
    let tokenizer = Tokenizer::load(world.model()).unwrap();
    let texts: Vec<String> = [
        "Who?",
        "Where does she live and where does he work?",
        "What is that?",
    ]
    .map(String::from)
    .to_vec();
    let lengths: Vec<usize> = texts
        .iter()
        .map(|text| tokenizer.encode(text, true).unwrap().len())
        .collect();
    let found = States::of(&host, &tokenizer, &texts, lengths[1]).unwrap();
    assert_eq!(found.kept, [0, 2]);
    let all = States::of(&host, &tokenizer, &texts, lengths[1] + 1).unwrap();
    assert_eq!(all.kept, [0, 1, 2]);
    let alone = States::of(&host, &tokenizer, &texts[..1], 100).unwrap();
    for (a, b) in alone.states[0].iter().zip(&all.states[0]) {
        assert!((a - b).abs() < 1e-5);
    }
}

#[test]
fn every_family_with_one_stack_is_operated_on_and_taken_back_exactly() {
    for (name, gated) in [
        ("llama_gqa_untied", true),
        ("qwen3", true),
        ("gpt2", false),
        ("opt", false),
    ] {
        let base = host(name);
        let before: Vec<Vec<f32>> = base
            .weight_names()
            .iter()
            .map(|name| base.weight(name).unwrap().to_vec())
            .collect();
        let patch = patch(&base, &options(7));
        assert_eq!(patch.count(), 7, "{name}");
        let after = edited(&base, std::slice::from_ref(&patch)).unwrap();
        let moved: Vec<String> = base
            .weight_names()
            .into_iter()
            .filter(|name| {
                base.weight(name).unwrap().to_vec() != after.weight(name).unwrap().to_vec()
            })
            .collect();
        let mut changed: Vec<String> = patch
            .places
            .iter()
            .map(|place| place.weight.clone())
            .collect();
        changed.sort();
        let mut sorted = moved.clone();
        sorted.sort();
        assert_eq!(sorted, changed, "{name}");
        let untouched: Vec<Vec<f32>> = base
            .weight_names()
            .iter()
            .map(|name| base.weight(name).unwrap().to_vec())
            .collect();
        assert_eq!(before, untouched, "{name}");
        let both = Surgery {
            target: Target::Both,
            ..options(7)
        };
        let found = operate(&base, &clouds(base.hidden_size()), 1, &both);
        assert_eq!(found.is_ok(), gated, "{name}");
    }
    let error = operate(&host("t5"), &clouds(32), 1, &options(3))
        .unwrap_err()
        .to_string();
    assert!(error.contains("models of one stack"), "{error}");
}

#[test]
fn folded_gains_choose_other_rows_and_regions_are_as_asked() {
    let base = host("llama_gqa_untied");
    let plain = patch(&base, &options(9));
    let folded = patch(
        &base,
        &Surgery {
            fold_gain: true,
            ..options(9)
        },
    );
    assert_eq!((plain.count(), folded.count()), (9, 9));
    let all = patch(
        &base,
        &Surgery {
            region: Region::All,
            ..options(9)
        },
    );
    let blocks = all.places.len();
    let even = patch(
        &base,
        &Surgery {
            region: Region::PerBlock,
            ..options(3 * blocks)
        },
    );
    assert!(even.places.iter().all(|place| place.rows.len() == 3));
    assert_eq!(plain.shared_rows(&all), 9);
}

#[test]
fn a_noisy_probe_is_refused() {
    let base = host("llama_gqa_untied");
    let mut noise = clouds(base.hidden_size());
    Stream::new(2, "noise").shuffle(&mut noise.classes);
    let error = operate(&base, &noise, 1, &options(3))
        .unwrap_err()
        .to_string();
    assert!(error.contains("mostly noise"), "{error}");
}

#[test]
fn a_patch_comes_back_from_its_file_and_only_onto_its_base() {
    let world = World::new();
    let base = modelsmith_hosts::load(&world.model(), &Device::flex()).unwrap();
    let patch = patch(&base, &options(4)).at(-0.75);
    let origin = Origin {
        base_hash: modelsmith_engine::adapter_folder::base_hash(&world.model()).unwrap(),
        class: "toxic".into(),
        options: options(4),
        ..Origin::default()
    };
    let path = world.folder.path().join("patch.safetensors");
    save(&path, &patch, &origin).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    save(&path, &patch, &origin).unwrap();
    assert_eq!(bytes, std::fs::read(&path).unwrap());
    assert_eq!(
        load(&path, &base, false).unwrap(),
        (patch.clone(), origin.clone())
    );
    let other = Origin {
        base_hash: "0".repeat(64),
        ..origin
    };
    save(&path, &patch, &other).unwrap();
    let error = load(&path, &base, false).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    assert!(error.to_string().contains("for other weights"), "{error}");
    assert!(load(&path, &base, true).is_ok());
    let error = load(&path, &host("gpt2"), true).unwrap_err();
    assert_eq!(error.exit_code(), 3, "{error}");
    let weights = world.model().join("model.safetensors");
    let error = load(&weights, &base, true).unwrap_err().to_string();
    assert!(error.contains("is no patch"), "{error}");
}

#[test]
fn a_folder_of_an_edited_model_computes_what_the_edited_model_does() {
    let world = World::new();
    let base = modelsmith_hosts::load(&world.model(), &Device::flex()).unwrap();
    let patches = [
        patch(&base, &options(4)),
        patch(&base, &options(2)).at(-0.5),
    ];
    let options = WriteOptions {
        output: world.folder.path().join("edited"),
        dtype: None,
        max_shard_bytes: u64::MAX,
    };
    let written = write_model(&base, &patches, &options).unwrap();
    assert!(written.effect > 0.0 && written.written_difference == 0.0);
    assert_eq!(written.rows, 6);
    let read = modelsmith_hosts::load(&options.output, &Device::flex()).unwrap();
    let expected = edited(&base, &patches).unwrap();
    assert_eq!(common::weights(&read), common::weights(&expected));
    assert!(options.output.join("tokenizer.json").is_file());
    let again = write_model(&base, &patches, &options)
        .unwrap_err()
        .to_string();
    assert!(again.contains("not empty"), "{again}");
    let none = WriteOptions {
        output: world.folder.path().join("none"),
        ..options
    };
    assert!(write_model(&base, &[], &none).is_err());
    assert!(!none.output.exists());
}
