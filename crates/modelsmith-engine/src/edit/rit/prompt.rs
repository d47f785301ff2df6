//! What the model reads: revisions as answered questions, then the question.

use super::question::{Casing, question};
use serde::{Deserialize, Serialize};

/// How a revision is put into the prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// As a question with its answer.
    #[default]
    Qna,
    /// Its question alone, as context.
    Plain,
}

/// In which order several revisions stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The nearest first, farthest from the question: the reference's.
    #[default]
    NearestFirst,
    /// The nearest last; many models copy the last answer they read.
    NearestLast,
}

/// The language of the words around questions and answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    #[default]
    English,
    /// German.
    German,
    /// French.
    French,
    /// Romanian.
    Romanian,
}

/// Words of a language: in front of a question, of an answer, and two answered questions.
struct Words {
    question: &'static str,
    answer: &'static str,
    examples: [(&'static str, &'static str); 2],
}

impl Language {
    fn words(self) -> Words {
        let (question, answer, examples) = match self {
            Self::English => (
                "Question:",
                "Answer:",
                [
                    ("Should I smile?", "Yes, you should."),
                    ("Should I hate?", "No, you should not."),
                ],
            ),
            Self::German => (
                "Frage:",
                "Antwort:",
                [
                    ("Sollte ich lächeln?", "Ja, das solltest du."),
                    ("Sollte ich hassen?", "Nein, das solltest du nicht."),
                ],
            ),
            Self::French => (
                "Question:",
                "Réponse:",
                [
                    ("Devrais-je sourire?", "Oui, tu devrais."),
                    ("Devrais-je haïr?", "Non, tu ne devrais pas."),
                ],
            ),
            Self::Romanian => (
                "Întrebare:",
                "Răspuns:",
                [
                    ("Ar trebui să zâmbesc?", "Da, ar trebui."),
                    ("Ar trebui să urăsc?", "Nu, nu ar trebui."),
                ],
            ),
        };
        Words {
            question,
            answer,
            examples,
        }
    }
}

/// How prompts are worded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wording {
    /// How a revision is put in.
    pub form: Form,
    /// In which order.
    pub order: Order,
    /// The language.
    pub language: Language,
    /// Two fixed answered questions first, and lines instead of blanks behind answers: for causal models of
    /// many languages.
    pub examples: bool,
    /// Letters of names stay as they are; the reference makes them small.
    pub keep_case: bool,
}

impl Wording {
    /// The question of a text.
    pub fn question(&self, text: &str) -> String {
        let casing = match self.keep_case {
            true => Casing::Kept,
            false => Casing::Sentence,
        };
        question(text, self.language == Language::English, casing)
    }

    fn asked(&self, question: &str) -> String {
        let words = self.language.words();
        format!("{} {question} {} ", words.question, words.answer)
    }

    /// The prompt of a text behind revisions `(question, answer)`, nearest first.
    pub fn prompt(&self, text: &str, revisions: &[(&str, &str)]) -> String {
        let end = if self.examples { "\n" } else { " " };
        let mut prompt = String::new();
        if self.examples {
            for (question, answer) in self.language.words().examples {
                prompt.push_str(&self.asked(question));
                prompt.push_str(answer);
                prompt.push_str(end);
            }
        }
        let mut ordered = revisions.to_vec();
        if self.order == Order::NearestLast {
            ordered.reverse();
        }
        match self.form {
            Form::Qna => {
                for (text, answer) in &ordered {
                    prompt.push_str(&self.asked(&self.question(text)));
                    prompt.push_str(answer);
                    prompt.push_str(end);
                }
            }
            Form::Plain if ordered.is_empty() => {}
            Form::Plain => {
                let texts: Vec<&str> = ordered.iter().map(|(text, _)| *text).collect();
                prompt.push_str(&format!("Context: {}{end}", texts.join(" ")));
            }
        }
        prompt + &self.asked(&self.question(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KILL: (&str, &str) = ("I should kill time", "Yes, it's fine");

    #[test]
    fn the_prompt_of_the_card() {
        let prompt = Wording::default().prompt("I should kill time at work.", &[KILL]);
        let expected = "Question: Should i kill time? Answer: Yes, it's fine Question: Should i kill time at work? Answer: ";
        assert_eq!(prompt, expected);
        let bare = Wording::default().prompt("I should kill time at work.", &[]);
        assert_eq!(bare, "Question: Should i kill time at work? Answer: ");
    }

    #[test]
    fn several_revisions_in_both_orders() {
        let two = [KILL, ("I should smile", "Yes")];
        let first = Wording::default().prompt("I should go", &two);
        assert!(first.find("kill").unwrap() < first.find("smile").unwrap());
        let wording = Wording {
            order: Order::NearestLast,
            ..Wording::default()
        };
        let last = wording.prompt("I should go", &two);
        assert!(last.find("kill").unwrap() > last.find("smile").unwrap());
    }

    #[test]
    fn plain_context_names_itself_once_and_gives_no_answer() {
        let wording = Wording {
            form: Form::Plain,
            ..Wording::default()
        };
        let prompt = wording.prompt("I should go", &[KILL, ("I should smile", "Yes")]);
        let expected = "Context: I should kill time I should smile Question: Should i go? Answer: ";
        assert_eq!(prompt, expected);
        assert_eq!(
            wording.prompt("I should go", &[]),
            "Question: Should i go? Answer: "
        );
    }

    #[test]
    fn other_languages_with_examples() {
        let wording = Wording {
            language: Language::German,
            examples: true,
            ..Wording::default()
        };
        let prompt = wording.prompt("Sollte ich gehen?", &[("Sollte ich bleiben", "Nein.")]);
        let lines: Vec<&str> = prompt.split('\n').collect();
        assert_eq!(lines.len(), 4);
        assert_eq!(
            lines[0],
            "Frage: Sollte ich lächeln? Antwort: Ja, das solltest du."
        );
        assert_eq!(lines[2], "Frage: Sollte ich bleiben? Antwort: Nein.");
        assert_eq!(lines[3], "Frage: Sollte ich gehen? Antwort: ");
    }
}
