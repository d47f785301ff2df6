//! What a prompt for several tasks promises; parity with PEFT is in `tests/prompts.rs`.

use super::*;
use crate::fake_host::FakeHost;
use modelsmith_core::parameters::to_vec;
use std::sync::Arc;

fn config(tasks: &[&str]) -> MultitaskPromptConfig {
    MultitaskPromptConfig {
        virtual_tokens: 2,
        tasks: tasks.iter().map(|task| (*task).to_owned()).collect(),
        rank: 2,
        ..MultitaskPromptConfig::default()
    }
}

fn of_rows(adapter: &dyn Adapter, tasks: Option<&[u32]>) -> Vec<f32> {
    let pass = Pass {
        tasks: tasks.map(Arc::from),
        ..Pass::default()
    };
    to_vec(adapter.hooks().prompt(&pass).unwrap())
}

#[test]
fn a_task_multiplies_the_shared_vectors_by_its_own_factors() {
    let device = burn::tensor::Device::flex();
    let producer = Multitask {
        shared: trained(Tensor::from_floats([[1.0, 2.0], [3.0, 4.0]], &device)),
        // [tasks 2, vectors 2, rank 1] and [tasks 2, rank 1, width 2].
        columns: trained(Tensor::from_floats(
            [[[1.0], [2.0]], [[0.5], [-1.0]]],
            &device,
        )),
        rows: trained(Tensor::from_floats([[[1.0, 10.0]], [[2.0, 4.0]]], &device)),
        tasks: vec!["a".into(), "b".into()],
        chosen: 0,
    };
    let pass = Pass {
        tasks: Some(Arc::from([1, 0])),
        ..Pass::default()
    };
    let found = to_vec(producer.prompts(&pass));
    assert_eq!(found, [1.0, 4.0, -6.0, -16.0, 1.0, 20.0, 6.0, 80.0]);
    assert_eq!(to_vec(producer.vectors(&Pass::default())), found[4..]);
}

#[test]
fn every_task_begins_near_the_shared_vectors_and_only_its_rows_train_it() {
    let host = FakeHost::new();
    let adapter = config(&["a", "b", "c"]).attach(&host, 3).unwrap();
    let parameters = adapter.parameters();
    let shared = parameters[0].value.to_vec();
    let all = of_rows(&*adapter, Some(&[0, 1, 2]));
    for task in all.chunks_exact(shared.len()) {
        for (x, shared) in task.iter().zip(&shared) {
            assert!(
                (x - shared).abs() <= 0.3 * shared.abs() + 1e-6,
                "{x} {shared}"
            );
        }
    }
    let pass = Pass {
        tasks: Some(Arc::from([1, 1])),
        ..Pass::default()
    };
    let prompt = adapter.hooks().prompt(&pass).unwrap();
    let gradients = adapter.take_gradients(&mut prompt.square().sum().backward());
    for name in ["producer.columns", "producer.rows"] {
        let gradient = gradients[name].to_vec();
        let own = gradient.len() / 3;
        let moved = |task: usize| gradient[task * own..][..own].iter().any(|x| *x != 0.0);
        assert_eq!(
            [moved(0), moved(1), moved(2)],
            [false, true, false],
            "{name}"
        );
    }
}

#[test]
fn a_chosen_task_is_that_of_rows_that_name_none_and_of_plain_files() {
    let host = FakeHost::new();
    let mut adapter = config(&["a", "b"]).attach(&host, 3).unwrap();
    let both = of_rows(&*adapter, Some(&[0, 1]));
    let (first, second) = both.split_at(both.len() / 2);
    assert_eq!(of_rows(&*adapter, None), first);
    adapter.choose_task("b").unwrap();
    assert_eq!(of_rows(&*adapter, None), second);
    let files = adapter.portable(&host).unwrap();
    assert_eq!(files.config["peft_type"], "PROMPT_TUNING");
    assert_eq!(files.tensors[PROMPT].to_vec(), second);
    let error = adapter.choose_task("bb").unwrap_err().to_string();
    assert!(error.contains("no task bb; did you mean b"), "{error}");
    // Names go with the files.
    let files = adapter.files(&host).unwrap();
    let again = from_peft(&files.config)
        .unwrap()
        .restore(&host, &files)
        .unwrap();
    assert_eq!(again.tasks(), ["a", "b"]);
    assert_eq!(of_rows(&*again, Some(&[0, 1])), both);
}

#[test]
fn tasks_are_named_once_each() {
    let host = FakeHost::new();
    let refused =
        |config: MultitaskPromptConfig| config.attach(&host, 0).err().unwrap().to_string();
    assert!(refused(config(&[])).contains("method.tasks: is []"));
    assert!(refused(config(&["a", "a"])).contains("name each task once"));
    let rank = MultitaskPromptConfig {
        rank: 0,
        ..config(&["a"])
    };
    assert!(refused(rank).contains("method.rank: is 0"));
}
