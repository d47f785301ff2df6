//! A text as words in the way of the Penn Treebank: punctuation, quotes, brackets and clitics stand apart.
//!
//! The rules are those of Robert MacIntyre's `tokenizer.sed` for the Penn Treebank as NLTK's
//! `TreebankWordTokenizer` applies them: a full stop is parted at the end of the text only.

use regex::Regex;
use std::sync::LazyLock;

/// Opening quotes, punctuation, brackets, dashes: what is matched, and what stands in its place.
const APART: [(&str, &str); 14] = [
    (r#"^""#, "``"),
    ("(``)", " ${1} "),
    (r#"([ (\[{<])("|'{2})"#, "${1} `` "),
    (r"([:,])([^\d])", " ${1} ${2}"),
    ("([:,])$", " ${1} "),
    (r"\.\.\.", " ... "),
    ("([;@#$%&])", " ${1} "),
    (r#"([^.])(\.)([\])}>"']*)\s*$"#, "${1} ${2}${3} "),
    ("([?!])", " ${1} "),
    ("([^'])' ", "${1} ' "),
    (r"([\]\[(){}<>])", " ${1} "),
    ("--", " -- "),
    // A text with a space around it: the rules from here on look for one.
    (r"\A", " "),
    (r"\z", " "),
];

/// Closing quotes and clitics.
const CLITICS: [(&str, &str); 14] = [
    ("''", " '' "),
    ("\"", " '' "),
    ("([^' ])('[sS]|'[mM]|'[dD]|') ", "${1} ${2} "),
    ("([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", "${1} ${2} "),
    (r"(?i)\b(can)(not)\b", " ${1} ${2} "),
    (r"(?i)\b(d)('ye)\b", " ${1} ${2} "),
    (r"(?i)\b(gim)(me)\b", " ${1} ${2} "),
    (r"(?i)\b(gon)(na)\b", " ${1} ${2} "),
    (r"(?i)\b(got)(ta)\b", " ${1} ${2} "),
    (r"(?i)\b(lem)(me)\b", " ${1} ${2} "),
    (r"(?i)\b(more)('n)\b", " ${1} ${2} "),
    (r"(?i)\b(wan)(na)(\s)", " ${1} ${2} ${3}"),
    (r"(?i) ('t)(is)\b", " ${1} ${2} "),
    (r"(?i) ('t)(was)\b", " ${1} ${2} "),
];

/// The rules, compiled; a test compiles each of them.
static RULES: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let all = APART.iter().chain(&CLITICS);
    all.filter_map(|(pattern, with)| Some((Regex::new(pattern).ok()?, *with)))
        .collect()
});

/// The words of a text.
pub fn words(text: &str) -> Vec<String> {
    let mut text = text.to_owned();
    for (pattern, with) in RULES.iter() {
        let changed = pattern.replace_all(&text, *with);
        text = changed.into_owned();
    }
    text.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_a_pattern() {
        assert_eq!(RULES.len(), APART.len() + CLITICS.len());
    }

    #[test]
    fn words_stand_apart() {
        let text = "\"They'll save (and invest) more,\" I can't say; it's 3,36.";
        let expected = "`` They 'll save ( and invest ) more , '' I ca n't say ; it 's 3,36 .";
        assert_eq!(words(text).join(" "), expected);
        assert!(words(" ").is_empty());
    }
}
