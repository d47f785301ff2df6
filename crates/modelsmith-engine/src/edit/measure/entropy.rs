//! How varied a text is: the entropy of its word pairs and triples. A model that repeats itself falls.
//!
//! ```text
//! H_m = −Σ_g f(g) log2 f(g)            over the relative frequencies f of the m-grams g of words
//! GE  = ½ (⅔ H_2 + 4/3 H_3)            tables give GE × 100
//! ```
//!
//! Source: Zhang et al., arXiv 1809.05972, as Meng et al., arXiv 2202.05262, weigh it.

use super::words::words;
use std::collections::BTreeMap;

/// Weights of pairs and triples.
const WEIGHTS: [(usize, f64); 2] = [(2, 2.0 / 3.0), (3, 4.0 / 3.0)];

/// Entropy of the `size`-grams in bits; 0 of none.
pub fn entropy(words: &[String], size: usize) -> f64 {
    let mut counts: BTreeMap<&[String], u64> = BTreeMap::new();
    for gram in words.windows(size.max(1)) {
        *counts.entry(gram).or_default() += 1;
    }
    let total: u64 = counts.values().sum();
    counts
        .values()
        .map(|count| {
            let share = *count as f64 / total as f64;
            -share * share.log2()
        })
        .sum::<f64>()
        .max(0.0)
}

/// GE of a text.
pub fn text_entropy(text: &str) -> f64 {
    let words = words(text);
    let weighted = WEIGHTS.map(|(size, weight)| weight * entropy(&words, size));
    weighted.iter().sum::<f64>() / WEIGHTS.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, pairs: f64, triples: f64, both: f64) {
        let split = words(text);
        for (found, expected) in [
            (entropy(&split, 2), pairs),
            (entropy(&split, 3), triples),
            (text_entropy(text), both),
        ] {
            assert!((found - expected).abs() < 1e-6, "{text}: {found}");
        }
    }

    #[test]
    fn entropies_as_by_hand() {
        let text = "the cat sat on the mat the cat sat on the rug";
        check(text, 2.732_159, 2.721_928, 2.725_338);
        check("Italy Italy Italy Italy Italy Italy", 0.0, 0.0, 0.0);
        check("a b c d e f g h", 7f64.log2(), 6f64.log2(), 2.659_093);
        check("two words", 0.0, 0.0, 0.0);
        check("", 0.0, 0.0, 0.0);
    }
}
