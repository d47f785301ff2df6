//! Perplexity of running text, in the two forms that papers on editing report.

use super::forced::{Forced, Scored, forced};
use super::outcome::mean;
use super::query::Query;
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// exp of the mean loss of the predicted tokens; of N tokens N − 1 are predicted, and by N − 1 the sum
/// is divided.
pub fn text_perplexity(log_probs: &[f32]) -> f64 {
    let sum: f64 = log_probs.iter().copied().map(f64::from).sum();
    (-sum / log_probs.len().max(1) as f64).exp()
}

/// Arithmetic mean over sentences of each one's perplexity, without special tokens (Yang et al., arXiv
/// 2402.09656). One lost sentence dominates it, which makes it the alarm of a collapse. Sentences of
/// fewer than two tokens are left out.
///
/// # Errors
/// No sentence of two tokens, and as [`forced`].
pub fn perplexity_me(model: &Scored<'_>, texts: &[String]) -> Result<f64> {
    let rows = texts.iter().map(|text| model.tokenizer.encode(text, false));
    perplexity_rows(model, rows.collect::<Result<_>>()?)
}

/// [`perplexity_me`] of texts in tokens.
///
/// # Errors
/// As there.
pub fn perplexity_rows(model: &Scored<'_>, rows: Vec<Vec<u32>>) -> Result<f64> {
    let long = rows.into_iter().filter(|ids| ids.len() > 1);
    let queries: Vec<Query> = long.map(|ids| Query { ids, prefix: 1 }).collect();
    let found = forced(model, &queries)?;
    let each = found.iter().map(|one| text_perplexity(&one.log_probs));
    mean(each).ok_or_else(|| {
        Error::Usage("the texts whose perplexity is wanted have no two tokens".into())
    })
}

/// Perplexity of a corpus, and how it was counted.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct CorpusPerplexity {
    /// exp(Σ loss / Σ predicted tokens).
    pub value: f64,
    /// Predicted tokens.
    pub tokens: usize,
    /// Tokens of a window.
    pub window: usize,
    /// Whether the token that begins a text stood before every window.
    pub begin: bool,
}

/// Perplexity over all tokens of texts, each cut into windows that do not overlap. With `begin`, every
/// window begins with the tokenizer's token of that role, and all its own tokens are predicted.
///
/// # Errors
/// A window of fewer than two tokens, a tokenizer without such a token, nothing to predict, and as
/// [`forced`].
pub fn perplexity_corpus(
    model: &Scored<'_>,
    texts: &[String],
    window: usize,
    begin: bool,
) -> Result<CorpusPerplexity> {
    let first = match (begin, model.tokenizer.special().bos) {
        (false, _) => None,
        (true, Some(id)) => Some(id),
        (true, None) => {
            return Err(Error::Usage(
                "the tokenizer has no token that begins a text; measure without one".into(),
            ));
        }
    };
    let own = window.saturating_sub(usize::from(begin));
    if window < 2 {
        return Err(Error::Usage(format!(
            "a window of {window} tokens predicts nothing; take two or more"
        )));
    }
    let mut queries = Vec::new();
    for text in texts {
        let ids = model.tokenizer.encode(text, false)?;
        for part in ids.chunks(own) {
            let ids: Vec<u32> = first.iter().chain(part).copied().collect();
            queries.extend((ids.len() > 1).then_some(Query { ids, prefix: 1 }));
        }
    }
    let found: Vec<Forced> = forced(model, &queries)?;
    let all: Vec<f32> = found.into_iter().flat_map(|one| one.log_probs).collect();
    if all.is_empty() {
        return Err(Error::Usage(
            "the texts whose perplexity is wanted have no two tokens".into(),
        ));
    }
    Ok(CorpusPerplexity {
        value: text_perplexity(&all),
        tokens: all.len(),
        window,
        begin,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_divided_by_the_predicted_tokens() {
        let found = text_perplexity(&[-1.0, -2.0, -0.5]);
        assert!((found - 3.211_271).abs() < 1e-6, "{found}");
        // Divided by all four tokens it would be this.
        assert!(((3.5f64 / 4.0).exp() - 2.398_875).abs() < 1e-6);
    }
}
