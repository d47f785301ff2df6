//! What every method with trained state on a frozen host keeps to, whatever its maths: walked over
//! the tables of its families, so that a new row is tested without a line here.

use crate::fake_host::{FakeHost, training};
use crate::saved::{attachable, from_peft, types};
use crate::{adapter, prompt};
use burn::tensor::Tensor;
use modelsmith_core::host::Host;
use modelsmith_core::method::{Entry, Family};
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapt, Adapter, AdapterFiles};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// A walk that finds fewer rows has lost some.
const FEWEST_ROWS: usize = 8;

fn each(check: impl Fn(&Entry<dyn Adapt>, &dyn Adapt)) {
    assert!(attachable().count() >= FEWEST_ROWS);
    for entry in attachable() {
        check(entry, entry.configure(&small(entry)).unwrap().as_ref());
    }
}

/// Options that keep every init within the fake host's narrow weights.
fn small(entry: &Entry<dyn Adapt>) -> Map<String, Value> {
    let known = (entry.defaults)();
    let sizes = ["rank", "virtual_tokens"].into_iter();
    let sizes = sizes.filter(|key| known.get(*key).is_some());
    let mut small: Map<String, Value> = sizes.map(|key| (key.to_owned(), json!(2))).collect();
    // The usual one reads an earlier run.
    if known.get("criterion").is_some() {
        small.insert("criterion".to_owned(), json!("magnitude"));
    }
    small
}

/// Mean square distance of the logits from fixed targets, while training.
fn loss(host: &FakeHost, adapter: &dyn Adapter) -> Tensor<1> {
    let logits = host.forward(&[adapter.hooks()], &training());
    (logits - 0.5).powi_scalar(2).mean()
}

/// Takes plain gradient steps; the names that had gradients in each of them.
fn descend(host: &FakeHost, adapter: &mut dyn Adapter, steps: usize) -> BTreeSet<String> {
    let mut reached = BTreeSet::new();
    for _ in 0..steps {
        let mut gradients = loss(host, adapter).backward();
        let gradients: BTreeMap<String, Flat> = adapter.take_gradients(&mut gradients);
        reached.extend(gradients.keys().cloned());
        adapter.replace(&mut |name, value| {
            let step = gradients.get(name)?.values.clone() * 0.02;
            Some(Flat {
                values: value.values.clone() - step,
                shape: value.shape.clone(),
            })
        });
    }
    reached
}

fn value(tensor: Tensor<1>) -> f32 {
    tensor.into_scalar::<f32>()
}

fn distance(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f32, |most, x| most.max(x.abs()));
    let apart = a
        .iter()
        .zip(b)
        .fold(0f32, |most, (x, y)| most.max((x - y).abs()));
    apart / largest
}

/// A tensor's name, shape and values to the bit.
type Bits = (String, Vec<usize>, Vec<u32>);

/// Everything that goes to disk, comparable.
fn bytes(files: &AdapterFiles) -> (String, Vec<Bits>) {
    let tensors = files.tensors.iter().map(|(name, flat)| {
        let bits = flat.to_vec().into_iter().map(f32::to_bits).collect();
        (name.clone(), flat.shape.clone(), bits)
    });
    (
        Value::Object(files.config.clone()).to_string(),
        tensors.collect(),
    )
}

fn refusal<T>(result: modelsmith_core::Result<T>, what: &str) -> String {
    match result {
        Ok(_) => panic!("{what} was accepted"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn cards_are_complete_and_ids_unique_and_legal() {
    let mut ids = BTreeSet::new();
    each(|entry, _| {
        let card = entry.card;
        assert!(ids_legal(card.id), "{}", card.id);
        assert!(matches!(card.family, Family::Adapter | Family::Prompt));
        for text in [card.title, card.paper, card.summary] {
            assert!(!text.trim().is_empty(), "{}", card.id);
        }
    });
    for (table, family) in [
        (adapter::TABLE, Family::Adapter),
        (prompt::TABLE, Family::Prompt),
    ] {
        assert!(table.iter().all(|entry| entry.card.family == family));
    }
    for entry in attachable() {
        assert!(ids.insert(entry.card.id), "{} twice", entry.card.id);
    }
    let distinct: BTreeSet<&str> = types().map(|(kind, _)| *kind).collect();
    assert_eq!(distinct.len(), types().count());
}

fn ids_legal(id: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    id.starts_with(|c: char| c.is_ascii_lowercase()) && id.chars().all(plain)
}

#[test]
fn every_option_is_documented_and_defaults_round_trip() {
    each(|entry, _| {
        let id = entry.card.id;
        let schema = (entry.schema)();
        let defaults = (entry.defaults)();
        let names = defaults.as_object().unwrap();
        for name in names.keys() {
            let text = schema["properties"][name]["description"]
                .as_str()
                .unwrap_or("");
            assert!(!text.is_empty(), "{id}: option {name} has no description");
        }
        let method = entry.configure(&Map::new()).unwrap();
        assert_eq!(method.options(), defaults, "{id}");
        let again = entry.configure(defaults.as_object().unwrap()).unwrap();
        assert_eq!(again.options(), defaults, "{id}");
    });
}

#[test]
fn an_unknown_option_is_refused_with_a_suggestion() {
    each(|entry, _| {
        let known = (entry.defaults)();
        let first = known.as_object().unwrap().keys().next().unwrap().clone();
        let options = [(format!("{first}x"), Value::Null)].into_iter().collect();
        let message = refusal(entry.configure(&options), "an unknown option");
        assert!(
            message.contains(&format!("did you mean {first}")),
            "{message}"
        );
    });
}

#[test]
fn options_that_match_no_site_are_refused() {
    each(|entry, _| {
        let names = (entry.defaults)();
        let choosing = [
            "target_modules",
            "modules",
            "head_modules",
            "modules_to_save",
        ];
        let key = choosing.iter().find(|key| names.get(**key).is_some());
        let key = key.unwrap_or_else(|| panic!("{} has no option for sites", entry.card.id));
        let options = [((*key).to_owned(), json!(["q_prok"]))]
            .into_iter()
            .collect();
        let method = entry.configure(&options).unwrap();
        let message = refusal(method.attach(&FakeHost::new(), 0), "an idle target");
        assert!(
            message.contains("q_prok") && message.contains("q_proj"),
            "{message}"
        );
    });
}

#[test]
fn an_untrained_adapter_is_the_identity() {
    each(|entry, method| {
        for host in [FakeHost::new(), FakeHost::tied()] {
            let adapter = method.attach(&host, 3).unwrap();
            let same = host.logits(&[adapter.as_ref()]) == host.logits(&[]);
            assert_eq!(same, method.starts_as_identity(), "{}", entry.card.id);
        }
    });
}

#[test]
fn training_reaches_every_parameter_lowers_the_loss_and_leaves_the_host_alone() {
    each(|entry, method| {
        let id = entry.card.id;
        let host = FakeHost::new();
        let before = host.fingerprint();
        let mut adapter = method.attach(&host, 3).unwrap();
        let first = value(loss(&host, adapter.as_ref()));
        let reached = descend(&host, adapter.as_mut(), 5);
        let trainable = adapter
            .parameters()
            .into_iter()
            .filter(|named| named.trainable);
        let trainable: BTreeSet<String> = trainable.map(|named| named.name).collect();
        assert!(!trainable.is_empty(), "{id}");
        assert_eq!(reached, trainable, "{id}");
        let last = value(loss(&host, adapter.as_ref()));
        assert!(last < first, "{id}: loss went from {first} to {last}");
        assert_eq!(host.fingerprint(), before, "{id}");
    });
}

fn trained(method: &dyn Adapt, host: &FakeHost, seed: u64) -> Box<dyn Adapter> {
    let mut adapter = method.attach(host, seed).unwrap();
    descend(host, adapter.as_mut(), 3);
    adapter
}

#[test]
fn a_saved_adapter_restores_to_the_same_bytes_and_outputs() {
    each(|entry, method| {
        let id = entry.card.id;
        let host = FakeHost::new();
        let adapter = trained(method, &host, 3);
        let files = adapter.files(&host).unwrap();
        let back = from_peft(&files.config)
            .unwrap()
            .restore(&host, &files)
            .unwrap();
        assert_eq!(bytes(&back.files(&host).unwrap()), bytes(&files), "{id}");
        let apart = distance(
            &host.logits(&[back.as_ref()]),
            &host.logits(&[adapter.as_ref()]),
        );
        assert!(apart < 1e-6, "{id}: {apart}");
        let names: Vec<String> = back.sites().iter().map(|site| site.path.clone()).collect();
        assert!(!names.is_empty(), "{id}");
        let direct = method.restore(&host, &files).unwrap();
        assert_eq!(bytes(&direct.files(&host).unwrap()), bytes(&files), "{id}");
    });
}

#[test]
fn damaged_files_are_refused_by_the_name_of_the_tensor() {
    each(|entry, method| {
        let id = entry.card.id;
        let host = FakeHost::new();
        let whole = trained(method, &host, 3).files(&host).unwrap();
        let first = whole.tensors.keys().next().unwrap().clone();
        let mut short = whole.clone();
        let flat = short.tensors.remove(&first).unwrap();
        let message = refusal(method.restore(&host, &short), "a missing tensor");
        assert!(message.contains(&first), "{id}: {message}");
        let mut surplus = whole.clone();
        surplus
            .tensors
            .insert("base_model.model.other.weight".into(), flat.clone());
        let message = refusal(method.restore(&host, &surplus), "a surplus tensor");
        assert!(
            message.contains("base_model.model.other.weight"),
            "{id}: {message}"
        );
        let mut bent = whole;
        let flat = Flat {
            shape: vec![flat.len(), 1, 1],
            values: flat.values,
        };
        bent.tensors.insert(first.clone(), flat);
        let message = refusal(method.restore(&host, &bent), "a misshapen tensor");
        assert!(
            message.contains(&first) && message.contains("expected"),
            "{id}: {message}"
        );
    });
}

#[test]
fn one_seed_gives_one_adapter() {
    each(|entry, method| {
        let host = FakeHost::new();
        let files = |seed| bytes(&trained(method, &host, seed).files(&host).unwrap());
        let random = draws(method, &host);
        assert_eq!(files(3), files(3), "{}", entry.card.id);
        assert_eq!(files(3) != files(4), random, "{}", entry.card.id);
    });
}

/// Whether a method draws anything: those that start from the host's weights do not.
fn draws(method: &dyn Adapt, host: &FakeHost) -> bool {
    let start = |seed| {
        let parameters = method.attach(host, seed).unwrap().parameters().into_iter();
        parameters
            .map(|named| named.value.to_vec())
            .collect::<Vec<_>>()
    };
    start(3) != start(4)
}

#[test]
fn merged_weights_compute_what_the_adapter_computes() {
    each(|entry, method| {
        for host in [FakeHost::new(), FakeHost::tied()] {
            let adapter = trained(method, &host, 3);
            // What is no change of weights says so.
            if !adapter.is_mergeable() {
                let message = refusal(
                    adapter.merged(&host, "embed.weight"),
                    "merging what is no change of weights",
                );
                assert!(message.contains("cannot be merged"), "{message}");
                continue;
            }
            let merged = host.with_merged(adapter.as_ref()).logits(&[]);
            let apart = distance(&merged, &host.logits(&[adapter.as_ref()]));
            assert!(apart < 1e-5, "{}: {apart}", entry.card.id);
            assert!(adapter.merged(&host, "no.such.weight").unwrap().is_none());
        }
    });
}

#[test]
fn a_weight_said_to_be_the_heads_computes_what_the_head_computes() {
    let mut said = 0;
    for host in [FakeHost::new(), FakeHost::tied()] {
        for entry in attachable() {
            let known = (entry.defaults)();
            let plain = small(entry);
            let mut on_head = plain.clone();
            if known.get("target_modules").is_some() {
                on_head.insert("target_modules".into(), json!(["lm_head"]));
            }
            for options in [plain, on_head] {
                let method = entry.configure(&options).unwrap();
                let adapter = trained(method.as_ref(), &host, 3);
                let (outputs, by_weight) = host.head(adapter.as_ref());
                if let Some(by_weight) = by_weight {
                    assert_eq!(by_weight, outputs, "{} {options:?}", entry.card.id);
                    said += 1;
                }
            }
        }
    }
    assert!(said >= attachable().count(), "only {said} said so");
}

#[test]
fn scale_zero_is_the_host_alone_and_one_the_adapter() {
    each(|entry, method| {
        let host = FakeHost::new();
        let mut adapter = trained(method, &host, 3);
        let full = host.logits(&[adapter.as_ref()]);
        if adapter.set_scale(0.0).is_err() {
            return;
        }
        let id = entry.card.id;
        assert_eq!(host.logits(&[adapter.as_ref()]), host.logits(&[]), "{id}");
        if adapter.is_mergeable() {
            let merged = host.with_merged(adapter.as_ref());
            assert_eq!(merged.fingerprint(), host.fingerprint(), "{id}");
        }
        adapter.set_scale(0.5).unwrap();
        let half = host.logits(&[adapter.as_ref()]);
        assert!(half != full && half != host.logits(&[]), "{id}");
        if adapter.is_mergeable() {
            let apart = distance(&host.with_merged(adapter.as_ref()).logits(&[]), &half);
            assert!(apart < 1e-5, "{id}: {apart}");
        }
        adapter.set_scale(1.0).unwrap();
        assert_eq!(host.logits(&[adapter.as_ref()]), full, "{id}");
    });
}

#[test]
fn a_frozen_copy_computes_the_same_without_a_graph() {
    each(|entry, method| {
        let host = FakeHost::new();
        let adapter = trained(method, &host, 3);
        let mut frozen = adapter.boxed();
        frozen.set_trainable(&|_| false);
        assert!(frozen.parameters().iter().all(|named| !named.trainable));
        let same = host.logits(&[frozen.as_ref()]) == host.logits(&[adapter.as_ref()]);
        assert!(same, "{}", entry.card.id);
        assert!(adapter.parameters().iter().any(|named| named.trainable));
    });
}

#[test]
fn an_unknown_peft_type_names_the_known_ones() {
    let config = json!({"peft_type": "LORO"});
    let message = refusal(from_peft(config.as_object().unwrap()), "an unknown type");
    assert!(
        message.contains("LORO") && message.contains("did you mean LORA"),
        "{message}"
    );
    assert!(from_peft(&Map::new()).is_err());
    assert_eq!(FakeHost::new().weight_names().len(), 8);
}
