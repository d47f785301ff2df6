//! A statement made a question: "I should smile." → "Should i smile?"
//!
//! The reference asks a tagger whether the second word is a verb; here a list of the words that English
//! questions begin with decides, because moving any other verb to the front ("Kill i time?") makes no question.

/// How the letters of a question are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Casing {
    /// The first is a capital and all others are small, as in the reference ("USA" becomes "usa").
    #[default]
    Sentence,
    /// The first is a capital, what was the first word is small if it is no name, the rest stays.
    Kept,
}

const FRONT: [&str; 28] = [
    "am", "are", "can", "could", "did", "do", "does", "had", "has", "have", "is", "may", "might",
    "must", "need", "ought", "shall", "should", "was", "were", "will", "would", "dare", "cannot",
    "ca", "wo", "sha", "ai",
];

/// Pronouns and articles that are small inside a sentence.
const SMALL: [&str; 17] = [
    "a", "an", "it", "you", "we", "they", "he", "she", "there", "the", "this", "that", "these",
    "those", "one", "people", "my",
];

/// The question that a statement answers. In English the first two words change places where the second
/// can begin a question; a question stays one.
pub fn question(text: &str, english: bool, casing: Casing) -> String {
    let text = text.trim();
    let text = text
        .strip_suffix(['.', '!', ',', ';', '?'])
        .unwrap_or(text)
        .trim_end();
    let mut words = words(text, english);
    if english {
        swap(&mut words, casing);
    }
    let joined = words.join(" ");
    let mut letters = joined.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string());
    let rest = match casing {
        Casing::Sentence => letters.as_str().to_lowercase(),
        Casing::Kept => letters.as_str().to_owned(),
    };
    format!("{}{rest}?", first.unwrap_or_default())
}

/// The words, with a verb that hangs on the first one apart from it: "It's ok" is "It is ok".
fn words(text: &str, english: bool) -> Vec<String> {
    let mut words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if let (true, Some(first)) = (english, words.first().cloned()) {
        let apart = [
            ("'s", "is"),
            ("\u{2019}s", "is"),
            ("'re", "are"),
            ("\u{2019}re", "are"),
            ("'m", "am"),
        ];
        // Of names, 's may be a possessive; only words that stand for persons and things are taken apart.
        let stands = |start: &str| {
            let lower = start.to_lowercase();
            lower == "i" || lower == "what" || SMALL.contains(&lower.as_str())
        };
        for (ending, verb) in apart {
            if let Some(start) = first.strip_suffix(ending).filter(|start| stands(start)) {
                words.splice(0..1, [start.to_owned(), verb.to_owned()]);
                break;
            }
        }
    }
    words
}

/// Puts the verb in front, with its "n't" if it has one.
fn swap(words: &mut [String], casing: Casing) {
    let bare = |word: &str| {
        let lower = word.to_lowercase();
        let end = ["n't", "n\u{2019}t"]
            .iter()
            .find_map(|ending| lower.strip_suffix(ending));
        end.map(str::to_owned).unwrap_or(lower)
    };
    let fronts = |word: &String| FRONT.contains(&bare(word).as_str());
    let [first, second, ..] = words else {
        return;
    };
    if fronts(first) || !fronts(second) {
        return;
    }
    if casing == Casing::Kept && SMALL.contains(&first.to_lowercase().as_str()) {
        *first = first.to_lowercase();
    }
    words.swap(0, 1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_become_questions() {
        let cases = [
            ("I should kill time", "Should i kill time?"),
            ("I should kill time at work.", "Should i kill time at work?"),
            ("It's ok to lie!", "Is it ok to lie?"),
            ("You're allowed in", "Are you allowed in?"),
            ("I shouldn't smile", "Shouldn't i smile?"),
            ("Should I smile?", "Should i smile?"),
            ("People in the USA can vote", "People in the usa can vote?"),
            ("killing time", "Killing time?"),
            ("Smile;", "Smile?"),
            ("", "?"),
        ];
        for (text, expected) in cases {
            assert_eq!(question(text, true, Casing::Sentence), expected, "{text}");
        }
    }

    #[test]
    fn names_keep_their_letters_where_asked() {
        let kept = |text| question(text, true, Casing::Kept);
        assert_eq!(
            kept("You should visit the USA."),
            "Should you visit the USA?"
        );
        assert_eq!(kept("Lisa should visit Rome"), "Should Lisa visit Rome?");
        assert_eq!(kept("I should go"), "Should I go?");
        assert_eq!(kept("Anna's dog is old"), "Anna's dog is old?");
    }

    #[test]
    fn other_languages_keep_their_order() {
        let found = question("Ich sollte l\u{e4}cheln.", false, Casing::Sentence);
        assert_eq!(found, "Ich sollte l\u{e4}cheln?");
    }
}
