//! Does a budget find the weights that matter? Low-rank changes are planted in some weights of a trained host; an
//! adapter that sees the changed host's outputs alone is to spend its ranks there.

mod fixtures;

use burn::tensor::{Device, Tensor};
use fixtures::parity;
use modelsmith_core::hooks::{DrawKey, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::{Adapt, Adapter, Optimize, Progress, Update};
use modelsmith_core::sites::TargetModules;
use modelsmith_hosts::{TokenInput, Transformer, load};
use modelsmith_methods::adapter::{AdaLoraConfig, LoraConfig};
use modelsmith_methods::optimize::AdamW;
use std::collections::BTreeSet;

const STEPS: u64 = 300;
/// Rank of each planted change.
const TRUE_RANK: usize = 2;
const RATE: f64 = 1e-2;

fn all_linear() -> Option<TargetModules> {
    Some(TargetModules::Pattern("all-linear".into()))
}

/// The house model with a change of rank 2 in seven of its 28 block weights, by name.
fn planted(host: &Transformer) -> (Transformer, BTreeSet<String>) {
    let mut names: Vec<String> = host
        .sites()
        .iter()
        .filter(|site| site.layer().is_some())
        .filter(|site| site.has_weight())
        .map(|site| site.path.clone())
        .collect();
    Stream::new(11, "planted").shuffle(&mut names);
    names.truncate(names.len() / 4);
    let mut teacher = host.clone();
    for path in &names {
        let name = format!("{path}.weight");
        let weight = host.weight(&name).unwrap();
        let [out, inputs] = [weight.shape[0], weight.shape[1]];
        let draw = |part: &str, rows, columns| -> Tensor<2> {
            let mut stream = Stream::new(11, &format!("{name}/{part}"));
            let values = stream.normal(rows * columns, 0.0, 1.0);
            Flat::from_vec(values, &[rows, columns], &Device::flex())
                .tensor()
                .unwrap()
        };
        let change = draw("B", out, TRUE_RANK).matmul(draw("A", TRUE_RANK, inputs));
        let norm = |x: Tensor<2>| x.powi_scalar(2).sum().sqrt().into_scalar::<f32>();
        let base = weight.tensor::<2>().unwrap();
        let size = 0.5 * norm(base.clone()) / norm(change.clone());
        teacher
            .set_weight(&name, &Flat::new(base + change * size))
            .unwrap();
    }
    (teacher, names.into_iter().collect())
}

/// Rows of random tokens, other ones in each step.
fn batch(step: u64, vocabulary: usize) -> TokenInput {
    let mut stream = Stream::new(5, &format!("batch/{step}"));
    let row = |stream: &mut Stream| (0..16).map(|_| stream.below(vocabulary) as u32).collect();
    let rows: Vec<Vec<u32>> = (0..8).map(|_| row(&mut stream)).collect();
    TokenInput::from_ids(&rows, 0, true, &Device::flex())
}

/// Mean square distance of the outputs from the teacher's.
fn loss(host: &Transformer, teacher: &Transformer, adapter: &dyn Adapter, step: u64) -> Tensor<1> {
    let input = batch(step, host.vocab_size());
    let pass = Pass {
        training: Some(DrawKey {
            seed: 1,
            step,
            micro: 0,
        }),
        ..Pass::default()
    };
    let target = teacher.forward(&input, &Pass::default(), &[]).unwrap();
    let found = host.forward(&input, &pass, &[adapter.hooks()]).unwrap();
    (found - target).powi_scalar(2).mean()
}

/// Trains with AdamW and all events; the mean loss over batches that it has not seen.
fn train(host: &Transformer, teacher: &Transformer, method: &dyn Adapt) -> (Box<dyn Adapter>, f32) {
    let mut adapter = method.attach(host, 1).unwrap();
    let mut optimizer = AdamW::default().optimizer().unwrap();
    for step in 0..STEPS {
        let progress = Progress {
            step,
            total_steps: STEPS,
            epoch: 0,
        };
        adapter.before_step(progress).unwrap();
        let loss = loss(host, teacher, adapter.as_ref(), step);
        let loss = match adapter.penalty() {
            Some(penalty) => loss + penalty,
            None => loss,
        };
        let gradients = adapter.take_gradients(&mut loss.backward());
        let rate = RATE * (1.0 - step as f64 / STEPS as f64);
        adapter.update(&mut |parameters| {
            for named in parameters {
                let Some(gradient) = gradients.get(&named.name) else {
                    continue;
                };
                let update = Update {
                    name: &named.name,
                    value: &mut named.value,
                    gradient: gradient.values.clone(),
                    scale: 1.0,
                    learning_rate: rate,
                    weight_decay: 0.0,
                };
                optimizer.update(update).unwrap();
            }
        });
        adapter.after_step(progress, &gradients, 1.0).unwrap();
    }
    let unseen = (1000..1008).map(|step| loss(host, teacher, adapter.as_ref(), step));
    let mean = unseen.map(|loss| loss.into_scalar::<f32>()).sum::<f32>() / 8.0;
    (adapter, mean)
}

#[test]
fn adalora_finds_the_planted_weights_and_beats_an_even_spread() {
    let host = load(&parity("../assets/house"), &Device::flex()).unwrap();
    let (teacher, planted) = planted(&host);
    let adalora = AdaLoraConfig {
        init_r: 3,
        target_r: 1,
        alpha: 3.0,
        orth_reg_weight: 0.01,
        target_modules: all_linear(),
        ..AdaLoraConfig::default()
    };
    let even = LoraConfig {
        rank: 1,
        alpha: 1.0,
        target_modules: all_linear(),
        ..LoraConfig::default()
    };
    let (found, adaptive) = train(&host, &teacher, &adalora);
    let (_, uniform) = train(&host, &teacher, &even);
    // A weight is found where it keeps its true rank; an even spread leaves rank 1 to each.
    let ranks = found.maps().remove(0).values;
    let kept: BTreeSet<String> = ranks
        .iter()
        .filter(|(_, rank)| *rank as usize >= TRUE_RANK)
        .map(|(path, _)| path.clone())
        .collect();
    let right = kept.intersection(&planted).count() as f64;
    let (recall, precision) = (right / planted.len() as f64, right / kept.len() as f64);
    assert!(recall > 0.8, "{recall}: {ranks:?}, planted {planted:?}");
    // Chosen by chance, a quarter of them would be planted ones.
    assert!(
        precision > 0.5,
        "{precision}: {ranks:?}, planted {planted:?}"
    );
    assert!(adaptive < uniform, "{adaptive} against {uniform}");
}
