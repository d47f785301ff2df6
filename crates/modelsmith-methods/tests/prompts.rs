//! Prompts that PEFT 0.21.2 saved compute on our hosts what they compute there, and are written as
//! PEFT wrote them. The fixtures are in `parity/prompt` with the script that made them.

mod fixtures;

use burn::tensor::{Device, Tensor};
use fixtures::{files, host, input, parity};
use modelsmith_core::files::Reader;
use modelsmith_core::hooks::{AttentionCall, Hooks, Pass, Qkv};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::{Flat, to_vec};
use modelsmith_core::roles::Adapt;
use modelsmith_hosts::{TokenInput, Transformer, load};
use modelsmith_methods::{attachable, from_peft};
use serde_json::{Map, Value, json};

const CASES: [&str; 17] = [
    "llama",
    "llama_yarn",
    "gpt2",
    "opt_projected",
    "sliding",
    "bert_mlm",
    "roberta_mlm",
    "bert_tokencls",
    "llama_seqcls",
    "t5",
    "prefix_llama",
    "prefix_gpt2",
    "prefix_qwen3",
    "prefix_opt",
    "prefix_seqcls",
    "multitask_llama",
    "multitask_seqcls",
];

/// Of the largest logit: the rounding of f32 sums in another order.
const TOLERANCE: f32 = 1e-5;

fn logits(host: &Transformer, input: &TokenInput, hooks: &[&dyn Hooks]) -> Vec<f32> {
    to_vec(host.forward(input, &Pass::default(), hooks).unwrap())
}

/// The largest difference at real tokens, in relation to the largest expected logit.
fn distance(found: &[f32], expected: &[f32], mask: &[bool]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let width = found.len() / mask.len();
    let most = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
    let pairs = found.iter().zip(expected).enumerate();
    let real = pairs.filter(|(at, _)| mask[at / width]);
    real.fold(0f32, |far, (_, (a, b))| far.max((a - b).abs())) / most
}

#[test]
fn logits_are_those_of_peft() {
    for case in CASES {
        let files = files(&format!("prompt/{case}"));
        let host = host(&files);
        let adapter = from_peft(&files.config)
            .unwrap()
            .restore(&host, &files)
            .unwrap();
        let reader =
            Reader::open(parity("prompt").join(case).join("expected.safetensors")).unwrap();
        let (mut input, mut mask) = input(&reader);
        if case.starts_with("multitask") {
            input.tasks = Some([1, 0].into());
        }
        if case.ends_with("seqcls") {
            // One row of logits a text.
            mask.truncate(input.dims()[0]);
        }
        let expected = reader.f32("logits").unwrap();
        let found = logits(&host, &input, &[adapter.hooks()]);
        let far = distance(&found, &expected, &mask);
        assert!(far < TOLERANCE, "{case}: {far}");
        let plain = distance(&logits(&host, &input, &[]), &expected, &mask);
        assert!(plain > 1e-3, "{case}: the prompt changes nothing");
    }
}

/// Names that PEFT repeats stand once.
fn once(mut config: Map<String, Value>) -> Map<String, Value> {
    if let Some(Value::Array(names)) = config.get_mut("modules_to_save") {
        names.dedup();
        names.truncate(2);
    }
    config
}

#[test]
fn files_are_written_as_peft_wrote_them() {
    for case in CASES {
        let mut theirs = files(&format!("prompt/{case}"));
        let host = host(&theirs);
        let adapter = from_peft(&theirs.config)
            .unwrap()
            .restore(&host, &theirs)
            .unwrap();
        let ours = adapter.files(&host).unwrap();
        let base = "base_model_name_or_path";
        theirs.config.insert(base.into(), ours.config[base].clone());
        if host.info().task_type.is_none() {
            // PEFT has no word for masked language models; the fixture names another task.
            theirs.config.insert("task_type".into(), Value::Null);
        }
        assert_eq!(ours.config, once(theirs.config), "{case}");
        let values = |tensors: &std::collections::BTreeMap<String, Flat>| {
            let all = tensors.iter();
            let all = all.map(|(name, flat)| (name.clone(), flat.shape.clone(), flat.to_vec()));
            all.collect::<Vec<_>>()
        };
        assert_eq!(values(&ours.tensors), values(&theirs.tensors), "{case}");
    }
}

#[test]
fn a_classifier_that_reads_the_first_token_has_files_of_its_own() {
    let host = load(&parity("hosts/bert_seqcls"), &Device::flex()).unwrap();
    let adapter = method(json!({"virtual_tokens": 3}))
        .attach(&host, 1)
        .unwrap();
    let mut files = adapter.files(&host).unwrap();
    assert_eq!(files.config["peft_type"], "SOFT_PROMPT");
    let again = from_peft(&files.config)
        .unwrap()
        .restore(&host, &files)
        .unwrap();
    let ids = Tensor::from_ints([[5, 9, 2, 7]], &Device::flex());
    let input = TokenInput::new(ids);
    let found = logits(&host, &input, &[again.hooks()]);
    assert_eq!(found, logits(&host, &input, &[adapter.hooks()]));
    assert_eq!(found.len(), 3);
    files
        .config
        .insert("peft_type".into(), "PROMPT_TUNING".into());
    let problem = from_peft(&files.config).unwrap().restore(&host, &files);
    let problem = problem.map(|_| ()).unwrap_err().to_string();
    assert!(problem.contains("first virtual token"), "{problem}");
}

fn method(options: Value) -> Box<dyn Adapt> {
    named("prompt_tuning", options)
}

fn named(id: &str, options: Value) -> Box<dyn Adapt> {
    let entry = attachable().find(|entry| entry.card.id == id).unwrap();
    entry.configure(options.as_object().unwrap()).unwrap()
}

#[test]
fn a_prompt_attaches_to_every_host_and_changes_what_it_says() {
    attaches_everywhere(method(json!({"virtual_tokens": 3})).as_ref());
}

#[test]
fn a_prefix_attaches_to_every_host_and_changes_what_it_says() {
    for id in ["prefix_tuning", "p_tuning_v2"] {
        attaches_everywhere(named(id, json!({"virtual_tokens": 3, "init_std": 0.5})).as_ref());
    }
}

fn attaches_everywhere(method: &dyn Adapt) {
    let mut count = 0;
    for entry in std::fs::read_dir(parity("hosts")).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("config.json").exists() {
            continue;
        }
        let host = load(&path, &Device::flex()).unwrap();
        let ids = Tensor::from_ints([[5, 9, 2, 7], [3, 3, 8, 1]], &Device::flex());
        let source = host.decoder_start();
        let input = TokenInput {
            source: source.map(|_| Box::new(TokenInput::new(ids.clone()))),
            ..TokenInput::new(ids)
        };
        let adapter = match (method.attach(&host, 1), source) {
            (Ok(adapter), _) => adapter,
            (Err(problem), Some(_)) => {
                assert!(problem.to_string().contains("encoder"), "{problem}");
                continue;
            }
            (Err(problem), None) => panic!("{}: {problem}", path.display()),
        };
        let (before, after) = (
            logits(&host, &input, &[]),
            logits(&host, &input, &[adapter.hooks()]),
        );
        assert_eq!(before.len(), after.len(), "{}", path.display());
        assert_ne!(before, after, "{}", path.display());
        count += 1;
    }
    assert!(count >= 25, "{count}");
}

/// Keys and values as they came to the attention of each layer.
#[derive(Default)]
struct Seen(std::sync::Mutex<Vec<[Tensor<4>; 2]>>);

impl Hooks for Seen {
    fn attention(&self, call: AttentionCall<'_>, qkv: Qkv) -> Tensor<4> {
        let pair = [qkv.k.clone(), qkv.v.clone()];
        self.0.lock().unwrap().push(pair);
        call.run(qkv)
    }
}

/// The prefix `[tokens, 2 layers kv_width]` that a text's own keys and values make.
fn of_text(host: &Transformer, ids: [i64; 4]) -> Flat {
    let seen = Seen::default();
    let input = TokenInput::new(Tensor::from_data([ids], &Device::flex()));
    logits(host, &input, &[&seen]);
    let parts = seen.0.into_inner().unwrap().into_iter().flatten();
    let columns = parts.map(|part| part.swap_dims(1, 2).flatten::<3>(2, 3).squeeze_dim::<2>(0));
    Flat::new(Tensor::cat(columns.collect(), 1))
}

#[test]
fn a_prefix_of_a_texts_own_keys_continues_the_text() {
    let device = Device::flex();
    for name in [
        "llama_gqa_untied",
        "gpt2",
        "qwen3",
        "llama_rope_yarn",
        "opt",
    ] {
        let host = load(&parity("hosts").join(name), &device).unwrap();
        let (first, rest) = ([5, 9, 2, 7], [3, 8, 1]);
        let fresh = named("p_tuning_v2", json!({"virtual_tokens": 4}))
            .attach(&host, 1)
            .unwrap();
        let mut files = fresh.files(&host).unwrap();
        files
            .tensors
            .insert("prompt_embeddings".into(), of_text(&host, first));
        let prefix = from_peft(&files.config)
            .unwrap()
            .restore(&host, &files)
            .unwrap();
        let found = logits(
            &host,
            &TokenInput::new(Tensor::from_data([rest], &device)),
            &[prefix.hooks()],
        );
        let whole = Tensor::from_data([[5, 9, 2, 7, 3, 8, 1]], &device);
        let whole = logits(&host, &TokenInput::new(whole), &[]);
        let expected = &whole[whole.len() / 7 * 4..];
        let far = distance(&found, expected, &[true; 3]);
        assert!(far < TOLERANCE, "{name}: {far}");
    }
}
