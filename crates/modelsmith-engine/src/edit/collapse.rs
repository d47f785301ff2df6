//! ROME's collapse on a real model, and what mends it (Yang et al., arXiv 2406.11263).
//!
//! A word at the very start of a text has a key unlike all others, since its token attends to itself alone. As
//! the denominator of ROME it makes changes that destroy the model; the mean key does not.

use super::change::{Change, write};
use super::facts::Prompt;
use super::measure::{Scored, perplexity_rows};
use super::mlps::{Mlp, mlps};
use super::moments;
use super::rows::Rows;
use crate::generate::{GenerateOptions, generate};
use crate::sampler::Sampler;
use burn::tensor::Device;
use faer::Mat;
use modelsmith_core::random::Stream;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::{CRome, ClosedForm, Keys, Moment, Problem, Rome};
use std::path::PathBuf;

const LAYER: usize = 3;

struct World {
    host: Transformer,
    tokenizer: Tokenizer,
    mlps: Vec<Mlp>,
    /// Texts of the model itself.
    stories: Vec<Vec<u32>>,
    moment: Moment,
    /// Words of one token.
    words: Vec<u32>,
}

impl World {
    fn new(folder: &PathBuf) -> Self {
        let host = modelsmith_hosts::load(folder, &Device::flex()).unwrap();
        let tokenizer = Tokenizer::load(folder).unwrap();
        let begin = tokenizer.encode("", true).unwrap();
        let options = GenerateOptions {
            max_new_tokens: 219,
            sampler: Sampler {
                temperature: 1.0,
                ..Sampler::default()
            },
            ..GenerateOptions::default()
        };
        let rows = vec![begin.clone(); 24];
        let texts = generate(&host, &rows, &options, &[], &mut |_, _| true).unwrap();
        let stories: Vec<Vec<u32>> = texts
            .iter()
            .map(|text| [begin.as_slice(), text].concat())
            .collect();
        let mlps = mlps(&host).unwrap();
        let mut found = moments::collect(&host, &mlps, &[LAYER], &stories, None).unwrap();
        let is_word = |id: &u32| {
            let token = tokenizer.token(*id).unwrap_or_default();
            let letters = token.strip_prefix('▁').unwrap_or_default();
            letters.len() >= 3 && letters.chars().all(|c| c.is_ascii_alphabetic())
        };
        Self {
            words: (0..host.vocab_size() as u32).filter(is_word).collect(),
            moment: found.remove(&LAYER).unwrap(),
            mlps,
            stories,
            host,
            tokenizer,
        }
    }

    /// Keys of a word: at the very start, and behind the beginnings of the stories.
    fn keys(&self, word: u32) -> Keys {
        let prompt = |ids: Vec<u32>| Prompt {
            lookup: ids.len() - 1,
            ids,
        };
        let bare = prompt(vec![word]);
        let prefixed: Vec<Prompt> = (0..20)
            .map(|number| {
                let length = if number % 2 == 0 { 6 } else { 11 };
                prompt([&self.stories[number][..length], &[word]].concat())
            })
            .collect();
        let read = |prompts: &[&Prompt]| {
            let rows = Rows::new(&self.host, &self.mlps, prompts, 0).unwrap();
            rows.keys(&self.host, LAYER).unwrap()
        };
        let all = read(&prefixed.iter().collect::<Vec<_>>());
        let mean =
            |row: usize, _: usize| (0..20).map(|column| all[(row, column)]).sum::<f64>() / 20.0;
        Keys {
            bare: read(&[&bare]),
            prefixed: Mat::from_fn(all.nrows(), 1, mean),
            contexts: 20,
        }
    }

    /// Perplexity of two of the stories.
    fn perplexity(&self, host: &Transformer) -> f64 {
        let model = Scored {
            host,
            tokenizer: &self.tokenizer,
            hooks: &[],
        };
        perplexity_rows(&model, self.stories[20..22].to_vec()).unwrap()
    }

    /// The norm of a method's change of one size, and the perplexity after it.
    fn edit(&self, method: &dyn ClosedForm, word: u32, keys: &Keys) -> (f64, f64) {
        let weight = self.mlps[LAYER].matrix(&self.host).unwrap();
        let size = 2.0 * (&weight * keys.mean()).norm_l2();
        let draws = Stream::new(0, &format!("collapse/{word}")).normal(weight.nrows(), 0.0, 1.0);
        let direction = Mat::from_fn(weight.nrows(), 1, |row, _| f64::from(draws[row]));
        let residual = &direction * faer::Scale(size / direction.norm_l2());
        let problem = Problem {
            keys,
            residual: residual.as_ref(),
            weight: weight.as_ref(),
            moment: Some(&self.moment),
            memory: None,
        };
        let update = method.solve(&problem).unwrap();
        let mut host = self.host.clone();
        write(&mut host, &Change::new(&self.mlps[LAYER], LAYER, &update)).unwrap();
        (update.norm(), self.perplexity(&host))
    }
}

#[test]
fn a_word_at_the_very_start_makes_rome_collapse_and_not_c_rome() {
    let Ok(data) = std::env::var("MODELSMITH_DATA") else {
        return;
    };
    let world = World::new(&PathBuf::from(data).join("lm/stories260k-hf"));
    let healthy = world.perplexity(&world.host);
    assert!(world.words.len() > 30, "{} words", world.words.len());
    let mut worst = [(0.0_f64, 0.0_f64); 2];
    let (mut found, mut lost) = (0, 0);
    for word in &world.words {
        let keys = world.keys(*word);
        let rome = world.edit(&Rome::default(), *word, &keys);
        let c_rome = world.edit(&CRome::default(), *word, &keys);
        for (worst, (norm, perplexity)) in worst.iter_mut().zip([rome, c_rome]) {
            *worst = (worst.0.max(norm), worst.1.max(perplexity));
        }
        let suspect = Rome::default();
        let consistency = consistency(&world, &suspect, &keys);
        found += usize::from(rome.1 > 2.0 * healthy && consistency < 0.3);
        lost += usize::from(rome.1 > 2.0 * healthy && consistency >= 0.3);
    }
    let [rome, c_rome] = worst;
    let shown = format!(
        "healthy {healthy:.3}, rome {rome:?}, c_rome {c_rome:?}, found {found}, lost {lost}"
    );
    assert!(rome.0 > 10.0 * c_rome.0, "{shown}");
    assert!(
        rome.1 > 5.0 * healthy && c_rome.1 < 1.2 * healthy,
        "{shown}"
    );
    assert!(
        found > 0 && lost == 0,
        "the guard misses a collapse: {shown}"
    );
}

/// What the guard looks at.
fn consistency(world: &World, method: &dyn ClosedForm, keys: &Keys) -> f64 {
    let weight = world.mlps[LAYER].matrix(&world.host).unwrap();
    let residual = Mat::from_fn(weight.nrows(), 1, |_, _| 1.0);
    let problem = Problem {
        keys,
        residual: residual.as_ref(),
        weight: weight.as_ref(),
        moment: Some(&world.moment),
        memory: None,
    };
    method.solve(&problem).unwrap().consistency.unwrap()
}
