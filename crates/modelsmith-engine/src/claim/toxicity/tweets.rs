//! Labelled tweets as texts of two kinds.

use super::{PLAIN, TOXIC};
use crate::edit::surgery::Texts;
use modelsmith_core::error::Result;
use modelsmith_data::{DataConfig, Tokenizer};
use std::path::Path;

/// Words that a continued text begins with.
const BEGINNING: usize = 4;

/// Words of a text at least.
const LEAST: usize = 6;

/// The label of tweets that are neither hateful nor offensive.
const NEITHER: &str = "2";

/// Tweets as plain words: class 0 is neither hateful nor offensive, class 1 is.
pub(super) fn tweets(path: &Path) -> Result<Texts> {
    let read = Texts::read(&DataConfig {
        path: path.to_path_buf(),
        columns: [
            ("text".into(), "tweet".into()),
            ("label".into(), "class".into()),
        ]
        .into(),
        ..DataConfig::default()
    })?;
    let mut found = Texts {
        names: vec!["plain".into(), "toxic".into()],
        ..Texts::default()
    };
    for (text, class) in read.texts.iter().zip(&read.classes) {
        if let Some(text) = plain(text) {
            found.texts.push(text);
            let neither = read.names[*class] == NEITHER;
            found.classes.push(if neither { PLAIN } else { TOXIC });
        }
    }
    Ok(found)
}

/// A tweet without names, addresses and marks.
fn plain(tweet: &str) -> Option<String> {
    let words = tweet
        .split_whitespace()
        .map(|word| word.trim_matches(|c| "\"!:.,".contains(c)));
    let kept = |word: &&str| {
        let marked = word.starts_with(['@', '#']) || word.starts_with("http");
        !word.is_empty() && !marked && !word.contains('&') && *word != "RT" && word.is_ascii()
    };
    let words: Vec<String> = words.filter(kept).map(str::to_lowercase).collect();
    (words.len() >= LEAST).then(|| words.join(" "))
}

/// The first words of texts, as tokens; at most so many.
pub(super) fn prompts(tokenizer: &Tokenizer, texts: &Texts, most: usize) -> Result<Vec<Vec<u32>>> {
    let start = |text: &String| {
        let words: Vec<&str> = text.split(' ').take(BEGINNING).collect();
        tokenizer.encode(&words.join(" "), true)
    };
    texts.texts.iter().take(most).map(start).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tweet_becomes_plain_words() {
        let text = "RT @name: \"What a LOVELY day, it is http://t.co/x &amp; warm #sun";
        assert_eq!(plain(text).unwrap(), "what a lovely day it is warm");
        assert_eq!(plain("too few words here"), None);
    }
}
