//! Perplexity sentence by sentence, the alarm of a collapse (Yang et al., arXiv 2402.09656): the mean over
//! texts of `exp(mean NLL)`, so that a single lost sentence shows.

use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Pass;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::to_vec;
use modelsmith_hosts::{TokenInput, Transformer};

/// Tokens of a pass at most, and logits.
const TOKENS: usize = 4096;
const LOGITS: usize = 32 << 20;

/// Mean over texts of at least two tokens of the exponential of their mean loss.
///
/// # Errors
/// No such text, texts longer than the model's positions.
pub fn perplexity(host: &Transformer, texts: &[Vec<u32>]) -> Result<f64> {
    let mut texts: Vec<&Vec<u32>> = texts.iter().filter(|text| text.len() > 1).collect();
    if texts.is_empty() {
        return Err(Error::Usage(
            "the texts whose perplexity is wanted have no two tokens".into(),
        ));
    }
    texts.sort_by_key(|text| text.len());
    let tokens = TOKENS.min(LOGITS / host.vocab_size().max(1)).max(1);
    let (mut sum, mut begin) = (0.0, 0);
    while begin < texts.len() {
        let fits =
            |end: &usize| *end == begin + 1 || texts[*end - 1].len() * (end - begin) <= tokens;
        let end = (begin + 1..=texts.len()).take_while(fits).last();
        let end = end.unwrap_or(begin + 1);
        sum += losses(host, &texts[begin..end])?
            .iter()
            .map(|loss| loss.exp())
            .sum::<f64>();
        begin = end;
    }
    Ok(sum / texts.len() as f64)
}

/// Mean loss of each text.
fn losses(host: &Transformer, texts: &[&Vec<u32>]) -> Result<Vec<f64>> {
    let rows: Vec<Vec<u32>> = texts
        .iter()
        .map(|text| text[..text.len() - 1].to_vec())
        .collect();
    let input = TokenInput::from_ids(&rows, host.pad_token().unwrap_or(0), false, &host.device());
    let pass = Pass::default();
    let hidden = host.hidden(&input, &pass, &[], None)?;
    let [batch, time, width] = hidden.dims();
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    for (row, text) in texts.iter().enumerate() {
        places.extend((0..text.len() - 1).map(|column| (row * time + column) as i64));
        targets.extend(text[1..].iter().map(|token| i64::from(*token)));
    }
    let count = places.len();
    let places = Tensor::<1, Int>::from_data(TensorData::new(places, [count]), &host.device());
    let targets = Tensor::<2, Int>::from_data(TensorData::new(targets, [count, 1]), &host.device());
    let states = hidden.reshape([batch * time, width]).select(0, places);
    let logits = host.logits(states.unsqueeze_dim(0), &input, &pass, &[]);
    let all: Tensor<2> = modelsmith_kernels::log_softmax(logits).squeeze_dim(0);
    let chosen = to_vec(all.gather(1, targets));
    let mut begin = 0;
    let mean = |text: &&Vec<u32>| {
        let own = &chosen[begin..begin + text.len() - 1];
        begin += own.len();
        -own.iter().copied().map(f64::from).sum::<f64>() / own.len() as f64
    };
    Ok(texts.iter().map(mean).collect())
}
