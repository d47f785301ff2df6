//! Does a freely written answer say what it should?
//!
//! The normalised exact match of question answering (Rajpurkar et al., arXiv 1606.05250).

/// A text in lower case without punctuation and articles, with single spaces.
pub fn normalised(text: &str) -> String {
    let plain: String = text
        .to_lowercase()
        .chars()
        .filter(|character| !character.is_ascii_punctuation())
        .collect();
    let words = plain.split_whitespace();
    let words: Vec<&str> = words
        .filter(|word| !matches!(*word, "a" | "an" | "the"))
        .collect();
    words.join(" ")
}

/// Whether an answer is one of those that are right.
pub fn matches_any<'a>(answer: &str, right: impl IntoIterator<Item = &'a str>) -> bool {
    let answer = normalised(answer);
    right.into_iter().any(|right| normalised(right) == answer)
}

/// The answer in what a model wrote: behind the last `Answer:` or `A:`, up to the end of its line.
pub fn stated_answer(text: &str) -> &str {
    let behind = ["Answer:", "A:"].iter().filter_map(|mark| {
        let at = text.rfind(mark)?;
        Some(at + mark.len())
    });
    let begin = behind.max().unwrap_or(0);
    let rest = text[begin..].trim_start();
    rest.lines().next().unwrap_or_default().trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_match_up_to_case_articles_and_punctuation() {
        assert!(matches_any(" The  United\tStates!", ["an united states"]));
        assert!(matches_any("U.S.", ["USA", "us"]));
        assert!(!matches_any("Oslo, Norway", ["Oslo"]));
        assert!(!matches_any("Oslo", []));
    }

    #[test]
    fn an_answer_stands_behind_its_mark() {
        let thought = "Thoughts: he was born in Oslo. A: Rome\nAnswer: Oslo \nQuestion: where";
        assert_eq!(stated_answer(thought), "Oslo");
        assert_eq!(stated_answer(" Rome\nand more"), "Rome");
        assert_eq!(stated_answer(""), "");
    }
}
