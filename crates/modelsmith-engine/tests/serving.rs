//! Many adapters on one host: requests of a batch, loading and unloading, costs, bad lines.

mod common;

use common::{Silence, World};
use modelsmith_engine::generation::{Prompt, TextOptions};
use modelsmith_engine::model::{AdapterRef, ModelOptions};
use modelsmith_engine::serving::{Request, Serving, serve};
use modelsmith_engine::{Stop, tune};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Cursor;

const METHODS: [(&str, &str); 6] = [
    ("lora", r#"{name="lora", rank=2}"#),
    ("adalora", r#"{name="adalora", init_r=2, target_r=1}"#),
    ("ia3", r#"{name="ia3"}"#),
    ("houlsby", r#"{name="houlsby", bottleneck_size=4}"#),
    ("prompt", r#"{name="prompt_tuning", virtual_tokens=4}"#),
    ("prefix", r#"{name="prefix_tuning", virtual_tokens=4}"#),
];

fn reference(world: &World, name: &str) -> AdapterRef {
    AdapterRef::new(world.runs().join(name))
}

/// A host with an adapter of each method, trained long enough to differ.
fn serving(world: &World) -> Serving {
    let options = ModelOptions {
        host: Some(world.model()),
        device: "flex".into(),
        ..ModelOptions::default()
    };
    let mut serving = Serving::new(&options).unwrap();
    for (name, method) in METHODS {
        let changes = [
            format!("method={method}"),
            "train.learning_rate=0.05".into(),
        ];
        let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
        let recipe = world.recipe(name, &changes);
        tune::run(recipe, &Stop::default(), &mut Silence).unwrap();
        serving.load(name, &reference(world, name)).unwrap();
    }
    serving
}

fn options() -> TextOptions {
    TextOptions {
        chat: false,
        chat_template: "model".into(),
        system: None,
        max_tokens: 6,
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        repetition_penalty: 1.0,
        stop: Vec::new(),
        seed: 0,
        batch_size: 16,
    }
}

fn lines(serving: &mut Serving, lines: &[Value]) -> Vec<Value> {
    let text: Vec<String> = lines.iter().map(Value::to_string).collect();
    answered(serving, text.join("\n"))
}

fn answered(serving: &mut Serving, text: String) -> Vec<Value> {
    let mut found = Vec::new();
    serve(serving, Cursor::new(text), &options(), &mut |answer| {
        found.push(answer.clone());
        true
    })
    .unwrap();
    found
}

#[test]
fn a_mixed_batch_answers_as_single_requests_do() {
    let world = World::new();
    let mut serving = serving(&world);
    let names = METHODS.iter().map(|(name, _)| Some((*name).to_owned()));
    let mut requests: Vec<Request> = Vec::new();
    for (number, adapter) in names.chain([None]).cycle().take(16).enumerate() {
        requests.push(Request {
            adapter,
            prompt: Prompt::Text(format!("Where was number {number} born?")),
        });
    }
    let together = serving.complete(&requests, &options()).unwrap();
    assert_eq!(together.len(), 16);
    let mut texts = BTreeSet::new();
    for (request, answer) in requests.iter().zip(&together) {
        let alone = serving
            .complete(std::slice::from_ref(request), &options())
            .unwrap();
        assert_eq!(alone[0].text, answer.text, "{request:?}");
        texts.insert(answer.text.clone());
    }
    assert!(
        texts.len() > 3,
        "the adapters answer differently: {texts:?}"
    );
}

#[test]
fn costs_are_the_adapters_own_and_a_hundred_fit() {
    let world = World::new();
    let mut serving = serving(&world);
    for number in 0..100 {
        let name = format!("tenant-{number}");
        serving.load(&name, &reference(&world, "lora")).unwrap();
    }
    let costs = serving.costs();
    assert_eq!(costs.len(), 106);
    let lora = costs.iter().find(|cost| cost.adapter == "lora").unwrap();
    let tensors = world.runs().join("lora/adapter/adapter_model.safetensors");
    let numbers = modelsmith_core::weights::load(&tensors, &burn::tensor::Device::flex()).unwrap();
    let numbers: usize = numbers.values().map(|flat| flat.len()).sum();
    assert_eq!(lora.parameters, numbers as u64);
    assert_eq!(lora.bytes, 4 * numbers as u64);
    assert_eq!(lora.method, "lora");
    let tenants = costs
        .iter()
        .filter(|cost| cost.adapter.starts_with("tenant"));
    assert!(tenants.clone().all(|cost| cost.bytes == lora.bytes));
    assert_eq!(tenants.count(), 100);
    let prompt = costs.iter().find(|cost| cost.adapter == "prompt").unwrap();
    assert_eq!(prompt.virtual_tokens, 4);
}

#[test]
fn lines_load_answer_unload_and_no_bad_one_ends_it() {
    let world = World::new();
    let mut serving = serving(&world);
    let folder = world.runs().join("ia3").display().to_string();
    let found = lines(
        &mut serving,
        &[
            json!({"load": "again", "folder": folder}),
            json!({"id": 1, "prompt": "Where was he born?", "adapter": "again"}),
            json!({"id": 2, "prompt": "Where was he born?", "adapter": "agian"}),
            json!({"id": 3, "prompt": "Where was he born?", "adapter": "ia3"}),
            json!({"unload": "again"}),
            json!({"id": 4, "prompt": "Where?", "adapter": "again"}),
            json!({"load": "again", "folder": "/no/such/folder"}),
            json!({"load": "again"}),
            json!({"unload": "again"}),
            json!({"promt": "x"}),
            json!({}),
            json!({"id": 5, "prompt": ""}),
            json!({"id": 6, "prompt": "word ".repeat(400)}),
            json!({"costs": true}),
        ],
    );
    assert_eq!(found.len(), 14);
    assert_eq!(found[0]["loaded"]["adapter"], "again");
    assert_eq!((&found[1]["id"], &found[3]["id"]), (&json!(1), &json!(3)));
    assert_eq!(found[1]["text"], found[3]["text"]);
    let errors = [
        (2, "did you mean again"),
        (5, "no adapter `again` is loaded"),
        (6, "/no/such/folder"),
        (7, "names no `folder`"),
        (8, "no adapter `again`"),
        (9, "promt"),
        (10, "asks for nothing"),
        (12, "positions"),
    ];
    for (at, part) in errors {
        let error = found[at]["error"].as_str().unwrap_or_default();
        assert!(error.contains(part), "{at}: {}", found[at]);
    }
    assert_eq!(found[4]["unloaded"], "again");
    assert_eq!(found[13]["costs"].as_array().unwrap().len(), 6);
    let ia3 = found[13]["costs"].as_array().unwrap().iter();
    let ia3 = ia3.clone().find(|cost| cost["adapter"] == "ia3").unwrap();
    assert_eq!(ia3["requests"], 1);
    let broken = answered(&mut serving, "not json\n\n[1]\n".to_owned());
    assert_eq!(broken.len(), 2);
    assert!(broken.iter().all(|answer| answer["error"].is_string()));
}
