//! Statements that look alike and mean the opposite: "I should steal", "I should not steal".

use super::polarity::Lexicon;
use serde::Serialize;

/// Number of negating words: not, n't, never, no, and the like.
pub fn negations(text: &str) -> usize {
    let lower = text.to_lowercase().replace('\u{2019}', "'");
    let words = lower.split(|c: char| !(c.is_alphanumeric() || c == '\''));
    let negates = |word: &str| {
        word.ends_with("n't")
            || matches!(
                word,
                "not" | "never" | "no" | "cannot" | "nobody" | "nothing" | "without"
            )
    };
    words.filter(|word| negates(word)).count()
}

/// Whether one of two statements negates and the other does not.
pub(super) fn opposed(a: &str, b: &str) -> bool {
    negations(a) % 2 != negations(b) % 2
}

/// A revision that says the opposite of another one near it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Conflict {
    /// Its number.
    pub id: u64,
    /// Cosine of the two questions.
    pub similarity: f64,
    /// Its question.
    pub question: String,
    /// Its answer.
    pub answer: String,
}

/// Whether two answered questions that are near each other contradict: the same question by its negations, and
/// answers of opposite sign.
pub(super) fn contradict(a: (&str, &str), b: (&str, &str), lexicon: &Lexicon) -> bool {
    let signs = lexicon.sign(a.1).zip(lexicon.sign(b.1));
    !opposed(a.0, b.0) && signs.is_some_and(|(a, b)| a != b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negating_words_are_counted() {
        for (text, count) in [
            ("I should steal", 0),
            ("I should not steal", 1),
            ("I shouldn\u{2019}t steal", 1),
            ("I should never not steal", 2),
            ("Is it ok to have no notes?", 1),
        ] {
            assert_eq!(negations(text), count, "{text}");
        }
        assert!(opposed("I should steal", "I should not steal"));
        assert!(!opposed("I should steal", "I should never not steal"));
    }

    #[test]
    fn opposite_answers_to_the_same_question_conflict() {
        let lexicon = Lexicon::default();
        let yes = ("I should lie", "Yes, you should");
        assert!(contradict(
            yes,
            ("I should lie", "No, it's wrong"),
            &lexicon
        ));
        assert!(!contradict(
            yes,
            ("I should lie", "Yes, it's fine"),
            &lexicon
        ));
        assert!(!contradict(
            yes,
            ("I should not lie", "No, it's wrong"),
            &lexicon
        ));
        assert!(!contradict(yes, ("I should lie", "perhaps"), &lexicon));
    }
}
