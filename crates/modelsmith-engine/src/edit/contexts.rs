//! Texts in front of prompts, sampled from the model itself, so that a fact is found wherever it is
//! asked for.

use crate::generate::{GenerateOptions, generate};
use crate::sampler::Sampler;
use modelsmith_core::error::Result;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use modelsmith_methods::edit::Contexts;

/// Tokens among which each next one is drawn.
const TOP_K: usize = 5;

/// Contexts with `{}` for the prompt, in the order of the scheme; the bare one is not among them.
///
/// # Errors
/// A model that does not generate.
pub(crate) fn sample(
    host: &Transformer,
    tokenizer: &Tokenizer,
    scheme: Contexts,
    seed: u64,
) -> Result<Vec<String>> {
    let mut found = Vec::with_capacity(scheme.count());
    for (length, count) in scheme.0 {
        let openings = Contexts::OPENINGS.iter();
        let prompts: Vec<Vec<u32>> = openings
            .flat_map(|opening| std::iter::repeat_n(opening, *count))
            .map(|opening| tokenizer.encode(opening, true))
            .collect::<Result<_>>()?;
        let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
        let options = GenerateOptions {
            max_new_tokens: length.saturating_sub(longest).max(1),
            sampler: Sampler {
                temperature: 1.0,
                top_k: TOP_K,
                // Texts of different lengths are different draws.
                seed: seed.wrapping_add(*length as u64),
                ..Sampler::default()
            },
            ..GenerateOptions::default()
        };
        let texts = generate(host, &prompts, &options, &[], &mut |_, _| true)?;
        for (prompt, text) in prompts.iter().zip(texts) {
            let text = tokenizer.decode(&[prompt.as_slice(), &text].concat(), true)?;
            found.push(format!(
                "{}. {{}}",
                text.replace(['{', '}'], " ").trim_end()
            ));
        }
    }
    Ok(found)
}
