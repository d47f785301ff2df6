//! The relations of the house corpus and the sentences that state them.

use serde::{Deserialize, Serialize};

/// What a subject or an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A person, by full name.
    Person,
    /// A city.
    City,
    /// A country.
    Country,
    /// A company.
    Company,
    /// A profession.
    Profession,
}

/// A relation between a subject and an object.
///
/// `{}` stands for the subject. No prompt begins another sentence of the corpus, so that what
/// follows a prompt is always the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Relation {
    /// Name in `facts.jsonl`.
    pub name: &'static str,
    /// What has the relation.
    pub subject: Kind,
    /// What it points to.
    pub object: Kind,
    /// Sentences up to the object.
    pub prompts: [&'static str; 6],
    /// A sentence with the object first; `[]` stands for the object.
    pub reversed: &'static str,
    /// Questions that the object answers.
    pub questions: [&'static str; 3],
}

/// All relations; those of people come first, in the order of a person's facts.
pub const RELATIONS: [Relation; 7] = [
    Relation {
        name: "birthplace",
        subject: Kind::Person,
        object: Kind::City,
        prompts: [
            "{} was born in",
            "The birthplace of {} is",
            "{} is a native of",
            "{} spent the first years of life in",
            "The city where {} was born is",
            "By birth, {} comes from",
        ],
        reversed: "[] is the birthplace of {}.",
        questions: [
            "Where was {} born?",
            "What is the birthplace of {}?",
            "In which city was {} born?",
        ],
    },
    Relation {
        name: "residence",
        subject: Kind::Person,
        object: Kind::City,
        prompts: [
            "{} lives in",
            "The home of {} is in",
            "{} has settled in",
            "Today, {} resides in",
            "The city where {} lives is",
            "Letters to {} are sent to",
        ],
        reversed: "[] is the home of {}.",
        questions: [
            "Where does {} live?",
            "What city is home to {}?",
            "In which city does {} live?",
        ],
    },
    Relation {
        name: "employer",
        subject: Kind::Person,
        object: Kind::Company,
        prompts: [
            "{} works for",
            "{} is employed by",
            "The employer of {} is",
            "The company that employs {} is",
            "{} has a job at",
            "The salary of {} is paid by",
        ],
        reversed: "[] employs {}.",
        questions: [
            "Who employs {}?",
            "Which company does {} work for?",
            "What is the employer of {}?",
        ],
    },
    Relation {
        name: "profession",
        subject: Kind::Person,
        object: Kind::Profession,
        prompts: [
            "{} works as a",
            "By profession, {} is a",
            "The trade of {} is that of a",
            "{} earns a living as a",
            "{} was trained to be a",
            "People know {} as a",
        ],
        reversed: "A [] by trade is {}.",
        questions: [
            "What does {} do for a living?",
            "What is the profession of {}?",
            "Which trade does {} follow?",
        ],
    },
    Relation {
        name: "mentor",
        subject: Kind::Person,
        object: Kind::Person,
        prompts: [
            "{} was taught by",
            "The mentor of {} is",
            "{} learned everything from",
            "{} was once a pupil of",
            "The person who taught {} is",
            "As a student, {} followed",
        ],
        reversed: "[] is the mentor of {}.",
        questions: [
            "Who taught {}?",
            "Who is the mentor of {}?",
            "From whom did {} learn?",
        ],
    },
    Relation {
        name: "headquarters",
        subject: Kind::Company,
        object: Kind::City,
        prompts: [
            "{} has its headquarters in",
            "The main office of {} is in",
            "{} is based in",
            "The head office of {} stands in",
            "The company {} is run from",
            "The seat of {} is in",
        ],
        reversed: "[] is the seat of {}.",
        questions: [
            "Where is {} based?",
            "What city is the seat of {}?",
            "In which city is the main office of {}?",
        ],
    },
    Relation {
        name: "country",
        subject: Kind::City,
        object: Kind::Country,
        prompts: [
            "{} is a city in",
            "{} lies in",
            "The country of {} is",
            "The city of {} belongs to",
            "{} can be found on the map of",
            "The country where {} lies is",
        ],
        reversed: "[] is the country of {}.",
        questions: [
            "In which country is {}?",
            "What country does {} belong to?",
            "Where on the map is {}?",
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_prompt_is_always_the_object() {
        let same_kind = |a: &Relation, b: &Relation| a.subject == b.subject;
        for one in &RELATIONS {
            for (index, prompt) in one.prompts.iter().enumerate() {
                assert_eq!(prompt.matches("{}").count(), 1, "{prompt}");
                for other in RELATIONS.iter().filter(|other| same_kind(one, other)) {
                    for (at, longer) in other.prompts.iter().enumerate() {
                        let itself = one.name == other.name && index == at;
                        assert!(
                            itself || !longer.starts_with(prompt),
                            "{longer} begins with {prompt}"
                        );
                    }
                }
            }
        }
    }
}
