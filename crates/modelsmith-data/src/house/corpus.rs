//! The facts as documents to train on, as questions, and as files.

use std::path::{Path, PathBuf};

use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::atomic_bytes;
use modelsmith_core::random::Stream;
use serde::{Deserialize, Serialize};

use super::relations::Relation;
use super::world::{Fact, HouseConfig, facts, is_personal, relation};

/// One biography in this many sentences states its fact with the object first.
const REVERSED_IN: usize = 10;

/// A question with its answer, in a form that the base model has not seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The question up to where the answer begins.
    pub prompt: String,
    /// The answer, with the space before it.
    pub completion: String,
    /// Who or what it is about.
    pub subject: String,
    /// Name of the relation asked for.
    pub relation: String,
}

/// The files that [`write()`] makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HouseFiles {
    /// Documents to pretrain on, one `text` a line.
    pub corpus: PathBuf,
    /// All facts.
    pub facts: PathBuf,
    /// Questions to fine-tune on.
    pub questions: PathBuf,
    /// The same kinds of questions about other people.
    pub held_out: PathBuf,
}

/// Biographies and single statements, shuffled. Each sentence has its own line, so a sentence
/// begins with the same tokens wherever it stands.
///
/// # Errors
/// As [`facts`].
pub fn documents(config: &HouseConfig) -> Result<Vec<String>> {
    let facts = facts(config)?;
    let mut stream = Stream::new(config.seed, "house/documents");
    let mut documents = Vec::new();
    let groups: Vec<&[Fact]> = facts.chunk_by(|a, b| a.subject == b.subject).collect();
    for _ in 0..config.biographies {
        for group in &groups {
            let mut order: Vec<&Fact> = group.iter().collect();
            stream.shuffle(&mut order);
            let lines = order
                .iter()
                .filter_map(|fact| Some(sentence(fact, relation(&fact.relation)?, &mut stream)));
            documents.push(lines.collect::<Vec<_>>().join("\n"));
        }
    }
    for _ in 0..config.statements {
        let all = facts.iter().flat_map(|fact| {
            fact.prompts
                .iter()
                .map(|prompt| format!("{prompt} {}.", fact.object))
        });
        documents.extend(all);
    }
    stream.shuffle(&mut documents);
    Ok(documents)
}

fn sentence(fact: &Fact, relation: &Relation, stream: &mut Stream) -> String {
    if stream.below(REVERSED_IN) == 0 {
        return relation
            .reversed
            .replace("{}", &fact.subject)
            .replace("[]", &fact.object);
    }
    format!(
        "{} {}.",
        fact.prompts[stream.below(fact.prompts.len())],
        fact.object
    )
}

/// Questions about people to fine-tune on, and questions about the people held out.
///
/// # Errors
/// As [`facts`].
pub fn questions(config: &HouseConfig) -> Result<(Vec<Question>, Vec<Question>)> {
    let facts = facts(config)?;
    let mut people: Vec<&str> = facts
        .iter()
        .filter(|fact| is_personal(fact))
        .map(|fact| fact.subject.as_str())
        .collect();
    people.dedup();
    let mut stream = Stream::new(config.seed, "house/questions");
    stream.shuffle(&mut people);
    let held = (people.len() as f64 * config.held_out).round() as usize;
    let held: std::collections::BTreeSet<&str> =
        people.drain(..held.min(people.len() - 1)).collect();
    let (mut train, mut held_out) = (Vec::new(), Vec::new());
    for fact in facts.iter().filter(|fact| is_personal(fact)) {
        let side = if held.contains(fact.subject.as_str()) {
            &mut held_out
        } else {
            &mut train
        };
        let wordings = relation(&fact.relation)
            .map(|relation| relation.questions)
            .unwrap_or_default();
        side.extend(wordings.iter().map(|wording| Question {
            prompt: format!(
                "Question: {}\nAnswer:",
                wording.replace("{}", &fact.subject)
            ),
            completion: format!(" {}.", fact.object),
            subject: fact.subject.clone(),
            relation: fact.relation.clone(),
        }));
    }
    stream.shuffle(&mut train);
    stream.shuffle(&mut held_out);
    Ok((train, held_out))
}

/// Writes `corpus.jsonl`, `facts.jsonl`, `questions.jsonl` and `questions-held-out.jsonl`.
///
/// # Errors
/// [`Error::Config`] for numbers out of range, [`Error::Io`] when a file cannot be written.
pub fn write(config: &HouseConfig, folder: &Path) -> Result<HouseFiles> {
    #[derive(Serialize)]
    struct Document {
        text: String,
    }
    std::fs::create_dir_all(folder).map_err(|error| Error::io(folder, error))?;
    let files = HouseFiles {
        corpus: folder.join("corpus.jsonl"),
        facts: folder.join("facts.jsonl"),
        questions: folder.join("questions.jsonl"),
        held_out: folder.join("questions-held-out.jsonl"),
    };
    let (train, held_out) = questions(config)?;
    let documents = documents(config)?.into_iter().map(|text| Document { text });
    write_lines(&files.corpus, documents)?;
    write_lines(&files.facts, facts(config)?)?;
    write_lines(&files.questions, train)?;
    write_lines(&files.held_out, held_out)?;
    Ok(files)
}

fn write_lines<T: Serialize>(path: &Path, rows: impl IntoIterator<Item = T>) -> Result<()> {
    let mut bytes = Vec::new();
    for row in rows {
        serde_json::to_writer(&mut bytes, &row).map_err(|error| Error::file(path, error))?;
        bytes.push(b'\n');
    }
    atomic_bytes(path, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fact_stands_in_every_wording() {
        let config = HouseConfig {
            people: 20,
            ..HouseConfig::default()
        };
        let documents: std::collections::BTreeSet<String> =
            documents(&config).unwrap().into_iter().collect();
        for fact in facts(&config).unwrap() {
            for prompt in &fact.prompts {
                assert!(documents.contains(&format!("{prompt} {}.", fact.object)));
            }
        }
        assert_eq!(
            super::documents(&config).unwrap(),
            super::documents(&config).unwrap()
        );
    }

    #[test]
    fn held_out_questions_are_about_other_people() {
        let (train, held) = questions(&HouseConfig::default()).unwrap();
        assert_eq!((train.len(), held.len()), (160 * 15, 40 * 15));
        assert!(
            held.iter()
                .all(|question| train.iter().all(|other| other.subject != question.subject))
        );
    }
}
