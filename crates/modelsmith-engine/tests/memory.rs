//! What do many adapters on one host cost? Their own bytes, and little beside them.

mod common;

use common::{Silence, World};
use modelsmith_engine::model::{AdapterRef, ModelOptions};
use modelsmith_engine::serving::Serving;
use modelsmith_engine::{Stop, tune};

#[global_allocator]
static COUNTING: dhat::Alloc = dhat::Alloc;

const ADAPTERS: u64 = 100;
/// Two to each of seven linear layers of two blocks.
const TENSORS: u64 = 2 * 7 * 2;

#[test]
fn an_adapter_takes_little_beside_its_own_bytes() {
    let world = World::new();
    let recipe = world.recipe(
        "lora",
        &[r#"method={name="lora", rank=64, target_modules="all-linear"}"#],
    );
    tune::run(recipe, &Stop::default(), &mut Silence).unwrap();
    let adapter = AdapterRef::new(world.runs().join("lora"));
    let options = ModelOptions {
        host: Some(world.model()),
        device: "flex".into(),
        ..ModelOptions::default()
    };
    let mut serving = Serving::new(&options).unwrap();
    serving.load("first", &adapter).unwrap();

    let _profiler = dhat::Profiler::builder().testing().build();
    let live = || dhat::HeapStats::get().curr_bytes as u64;
    for number in 0..ADAPTERS {
        serving.load(&number.to_string(), &adapter).unwrap();
    }
    let loads = serving.costs();
    let own: u64 = loads.iter().map(|cost| cost.bytes).sum();
    let own = own * ADAPTERS / loads.len() as u64;
    let beside = live() - own;
    assert!(beside < 1500 * TENSORS * ADAPTERS, "{beside} beside {own}");

    for number in 0..ADAPTERS {
        serving.unload(&number.to_string()).unwrap();
    }
    assert!(live() < own / 100, "{} of {own} bytes stayed", live());
}
