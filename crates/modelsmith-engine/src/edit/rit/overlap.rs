//! How much of a reference's wording an answer has: BLEU (Papineni et al., 2002) and ROUGE-L (Lin, 2004). Words
//! are small letters and digits.

use std::collections::BTreeMap;

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !(c.is_alphanumeric() || c == '\''));
    parts
        .filter(|word| !word.is_empty())
        .map(str::to_lowercase)
        .collect()
}

fn runs(words: &[String], length: usize) -> BTreeMap<&[String], usize> {
    let mut counts = BTreeMap::new();
    for run in words.windows(length) {
        *counts.entry(run).or_insert(0) += 1;
    }
    counts
}

/// BLEU over all pairs `(prediction, truth)` with runs of 1 to `most` words, weighted alike, 0 to 1.
pub fn bleu(pairs: &[(&str, &str)], most: usize) -> f64 {
    let (mut predicted, mut true_length) = (0, 0);
    let mut found = vec![(0, 0); most];
    for (prediction, truth) in pairs {
        let (prediction, truth) = (words(prediction), words(truth));
        predicted += prediction.len();
        true_length += truth.len();
        for length in 1..=most {
            let own = runs(&prediction, length);
            let other = runs(&truth, length);
            let clipped = own
                .iter()
                .map(|(run, count)| (*count).min(other.get(run).copied().unwrap_or(0)));
            found[length - 1].0 += clipped.sum::<usize>();
            found[length - 1].1 += own.values().sum::<usize>();
        }
    }
    if predicted == 0 || found.iter().any(|(hits, _)| *hits == 0) {
        return 0.0;
    }
    let logs = found
        .iter()
        .map(|(hits, all)| (*hits as f64 / *all as f64).ln());
    let brevity = (1.0 - true_length as f64 / predicted as f64).min(0.0);
    (brevity + logs.sum::<f64>() / most as f64).exp()
}

/// The F-measure of the longest common run of words in order, with gaps, mean over pairs.
pub fn rouge_l(pairs: &[(&str, &str)]) -> f64 {
    let one = |(prediction, truth): &(&str, &str)| {
        let (a, b) = (words(prediction), words(truth));
        let common = common(&a, &b) as f64;
        match common > 0.0 {
            true => 2.0 * common / (a.len() + b.len()) as f64,
            false => 0.0,
        }
    };
    pairs.iter().map(one).sum::<f64>() / pairs.len().max(1) as f64
}

fn common(a: &[String], b: &[String]) -> usize {
    let mut row = vec![0; b.len() + 1];
    for x in a {
        let mut before = 0;
        for (at, y) in b.iter().enumerate() {
            let above = row[at + 1];
            row[at + 1] = if x == y {
                before + 1
            } else {
                above.max(row[at])
            };
            before = above;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_cases() {
        let pair = [("the the the cat", "the cat sat down")];
        // Clipped: the once, cat once, of four words.
        assert!((bleu(&pair, 1) - 0.5).abs() < 1e-12);
        // One of three pairs: (1/2 · 1/3)^½.
        assert!((bleu(&pair, 2) - (1.0_f64 / 6.0).sqrt()).abs() < 1e-12);
        let short = [("the cat", "the cat sat down")];
        assert!((bleu(&short, 1) - (-1.0_f64).exp()).abs() < 1e-12);
        assert_eq!(bleu(&[("a", "b")], 1), 0.0);
        // Two of four and four words in order.
        assert!((rouge_l(&pair) - 0.5).abs() < 1e-12);
        assert_eq!(rouge_l(&[("a b c", "a b c")]), 1.0);
    }
}
