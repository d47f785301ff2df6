use super::*;
use burn::tensor::Device;
use modelsmith_core::hooks::Pass;
use modelsmith_data::house::{HouseConfig, edits};
use modelsmith_hosts::TokenInput;
use std::path::Path;

fn house() -> (Transformer, Tokenizer) {
    let house = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/house");
    let host = modelsmith_hosts::load(&house, &Device::flex()).unwrap();
    (host, Tokenizer::load(&house).unwrap())
}

fn logits(host: &Transformer, hooks: &[&dyn Hooks]) -> Vec<f32> {
    let input = TokenInput::from_ids(&[vec![5, 6, 7, 8]], 0, false, &Device::flex());
    to_vec(host.forward(&input, &Pass::default(), hooks).unwrap())
}

#[test]
fn inputs_and_gradients_of_tokens_make_the_gradient_of_the_weight() {
    let (host, tokenizer) = house();
    let request = &edits(&HouseConfig::default(), 1, 5).unwrap()[0];
    let fact = Fact::read(
        &tokenizer,
        &Statement::from(request),
        &[],
        Lookup::PromptLast,
    )
    .unwrap();
    let path = "model.layers.2.mlp.down_proj".to_owned();
    let rows = factors(&host, std::slice::from_ref(&path), &fact).unwrap();
    // A small step against δ uᵀ lowers the loss by its squared norm times the step.
    let device = Device::flex();
    let [inputs, outputs] = [448, 160];
    let rows = Tensor::<1>::from_floats(&rows[&path][..], &device).reshape([-1, 608]);
    let u = rows.clone().narrow(1, 0, inputs);
    let delta = rows.narrow(1, inputs, outputs);
    let gradient = delta.clone().transpose().matmul(u.clone());
    let square = f64::from(to_vec(gradient.square().sum())[0]);
    let by = 1e-3 / square;
    let loss = |hooks: &[&dyn Hooks]| {
        let answers = crate::edit::answers::Answers::new(&host, &[(&fact.bare.ids, &fact.target)]);
        let found = answers.log_likelihoods(&host, hooks).unwrap();
        -f64::from(to_vec(found)[0]) / fact.target.len() as f64
    };
    let edit = Edit {
        factors: [(path, (u, delta * by))].into(),
    };
    let fallen = loss(&[]) - loss(&[&edit]);
    assert!((fallen - 1e-3).abs() < 1e-4, "{fallen}");
}

#[test]
fn training_lowers_the_loss_and_a_written_fact_is_likelier() {
    let (host, tokenizer) = house();
    let requests = edits(&HouseConfig::default(), 40, 5).unwrap();
    let config = MendConfig {
        steps: 60,
        ..MendConfig::default()
    };
    let mut editor = MendEditor::new(&host, &tokenizer, config, 0).unwrap();
    let losses = editor.train(&requests[1..], &mut || Ok(())).unwrap();
    let mean = |some: &[f64]| some.iter().sum::<f64>() / some.len() as f64;
    assert!(mean(&losses[45..]) < mean(&losses[..15]), "{losses:?}");
    assert!(logits(&editor.host, &[]) == logits(&host, &[]));
    let statement = Statement::from(&requests[0]);
    let fact = Fact::read(&tokenizer, &statement, &[], Lookup::PromptLast).unwrap();
    let told = |host: &Transformer| {
        let answers = crate::edit::answers::Answers::new(host, &[(&fact.bare.ids, &fact.target)]);
        to_vec(answers.log_likelihoods(host, &[]).unwrap())[0]
    };
    // The weights that are written are those that the edit stood for.
    let parts: Vec<Tensor<2>> = editor
        .parts
        .iter()
        .map(|part| part.tensor().unwrap())
        .collect();
    let rows = editor.factors(&fact).unwrap();
    let hooked = logits(&host, &[&editor.edit(&parts, &rows)]);
    let before = told(&editor.host);
    editor.write(&statement).unwrap();
    for (hooked, written) in hooked.iter().zip(logits(&editor.host, &[])) {
        assert!((hooked - written).abs() < 1e-3, "{hooked} {written}");
    }
    assert!(told(&editor.host) > before, "{before}");
    assert!(editor.trained() > 0 && editor.changed() == 9 * 160 * 448);
}

#[test]
fn what_cannot_be_trained_or_edited_is_named() {
    let (host, tokenizer) = house();
    let refused = |config: MendConfig| {
        let made = MendEditor::new(&host, &tokenizer, config, 0);
        made.err().unwrap().to_string()
    };
    let rank = MendConfig {
        rank: 0,
        ..MendConfig::default()
    };
    assert_eq!(refused(rank), "method.rank: is 0; must be at least 1");
    let blocks = MendConfig {
        blocks: 9,
        ..MendConfig::default()
    };
    assert_eq!(
        refused(blocks),
        "method.blocks: is 9; the model has 4 blocks"
    );
    let mut editor = MendEditor::new(&host, &tokenizer, MendConfig::default(), 0).unwrap();
    let error = editor.train(&[], &mut || Ok(())).unwrap_err().to_string();
    assert!(error.contains("facts with neighbours"), "{error}");
}
