//! Multiple choice: which of several answers does the model hold for the likeliest?
//!
//! ```text
//! sum          Σ log p(token | prompt, tokens before)      over the tokens of the answer
//! normalised   the same over the answer's characters, so that long answers are not at a loss
//! ```

use crate::model::Model;
use crate::train::{Prepared, outputs};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{Hooks, Pass};
use modelsmith_core::parameters::to_vec;
use modelsmith_data::read::{Location, ReadOptions, Source};
use modelsmith_data::{DataConfig, Tokenizer};
use modelsmith_hosts::{Head, TokenInput};
use serde::Serialize;
use serde_json::{Map, Value};

/// Figures of multiple choice.
#[derive(Clone, Debug, Serialize)]
pub struct ChoiceFigures {
    /// Questions counted.
    pub questions: u64,
    /// Share in which the right answer has the highest likelihood.
    pub accuracy: f64,
    /// Share in which it has the highest likelihood a character.
    pub accuracy_normalised: f64,
    /// Mean over the questions of one over the number of choices: the share of blind guesses.
    pub chance: f64,
}

/// A question with its answers.
struct Question {
    prompt: String,
    choices: Vec<String>,
    answer: usize,
}

/// An answer as tokens behind its prompt, or behind the token that answers of a decoder begin
/// behind.
struct Candidate {
    question: usize,
    choice: usize,
    ids: Vec<u32>,
    /// What an encoder reads; empty where there is none.
    source: Vec<u32>,
    /// Tokens before the answer.
    prefix: usize,
    characters: usize,
}

/// Scores every question of the data.
pub(super) fn measure(
    model: &Model,
    tokenizer: &Tokenizer,
    data: &DataConfig,
) -> Result<ChoiceFigures> {
    if !matches!(model.host.head(), Head::CausalLm | Head::Seq2SeqLm(_)) {
        return Err(Error::Usage(format!(
            "{} is no causal language model, and no encoder with a decoder, one of which --task choices needs",
            model.folder.display()
        )));
    }
    data.check()?;
    let source = Source::open(&data.path, &ReadOptions::from(data))?;
    if source.is_empty() {
        return Err(Error::file(
            &data.path,
            "holds no rows; there is nothing to measure",
        ));
    }
    let limit = model.max_length(tokenizer);
    let mut questions = Vec::new();
    let mut candidates = Vec::new();
    for row in source.rows() {
        let (at, columns) = row?;
        let question = read_question(&at, &columns)?;
        for choice in 0..question.choices.len() {
            let number = questions.len();
            let candidate = match model.host.decoder_start() {
                Some(start) => apart(tokenizer, start, &question, number, choice)?,
                None => candidate(tokenizer, &question, number, choice)?,
            };
            let length = candidate.ids.len().max(candidate.source.len());
            if length > limit && model.host.position_limit().is_some() {
                return Err(at.error(format!(
                    "the prompt with choice {choice} has {length} tokens; the model reads at most {limit}"
                )));
            }
            candidates.push(candidate);
        }
        questions.push(question);
    }
    let scores = score_all(model, tokenizer, candidates, &questions, data.batch_size)?;
    Ok(figures(&questions, &scores))
}

fn figures(questions: &[Question], scores: &[Vec<(f64, f64)>]) -> ChoiceFigures {
    let count = questions.len() as f64;
    let right = |key: fn(&(f64, f64)) -> f64| {
        let hits = questions.iter().zip(scores).filter(|(question, scores)| {
            let best = scores.iter().map(key).enumerate().max_by(|a, b| {
                // Of equal scores the first choice counts.
                a.1.total_cmp(&b.1).then(b.0.cmp(&a.0))
            });
            best.is_some_and(|(choice, _)| choice == question.answer)
        });
        hits.count() as f64 / count
    };
    ChoiceFigures {
        questions: questions.len() as u64,
        accuracy: right(|score| score.0),
        accuracy_normalised: right(|score| score.1),
        chance: questions
            .iter()
            .map(|q| 1.0 / q.choices.len() as f64)
            .sum::<f64>()
            / count,
    }
}

/// Summed and normalised log-likelihood of every choice of every question.
fn score_all(
    model: &Model,
    tokenizer: &Tokenizer,
    mut candidates: Vec<Candidate>,
    questions: &[Question],
    batch_size: usize,
) -> Result<Vec<Vec<(f64, f64)>>> {
    let mut scores: Vec<Vec<(f64, f64)>> = questions
        .iter()
        .map(|question| vec![(0.0, 0.0); question.choices.len()])
        .collect();
    // Rows of like length share a batch, so that little is padding.
    candidates.sort_by_key(|candidate| candidate.ids.len() + candidate.source.len());
    let pad = tokenizer.special().pad.unwrap_or(0);
    let hooks = model.hooks();
    for batch in candidates.chunks(batch_size) {
        let sums = sums(model, batch, pad, &hooks)?;
        for (candidate, sum) in batch.iter().zip(sums) {
            if !sum.is_finite() {
                return Err(Error::Numeric(format!(
                    "the log-likelihood of choice {} of question {} is {sum}",
                    candidate.choice, candidate.question
                )));
            }
            let each = sum / candidate.characters.max(1) as f64;
            scores[candidate.question][candidate.choice] = (sum, each);
        }
    }
    Ok(scores)
}

/// The summed log-likelihood of each row's answer.
fn sums(model: &Model, rows: &[Candidate], pad: u32, hooks: &[&dyn Hooks]) -> Result<Vec<f64>> {
    let ids: Vec<Vec<u32>> = rows.iter().map(|row| row.ids.clone()).collect();
    let time = ids.iter().map(Vec::len).max().unwrap_or(0);
    let sources: Vec<Vec<u32>> = rows.iter().map(|row| row.source.clone()).collect();
    let input = TokenInput {
        source: model
            .host
            .decoder_start()
            .map(|_| Box::new(TokenInput::from_ids(&sources, pad, false, &model.device))),
        ..TokenInput::from_ids(&ids, pad, false, &model.device)
    };
    let (mut places, mut targets) = (Vec::new(), Vec::new());
    for (number, row) in rows.iter().enumerate() {
        for at in row.prefix..row.ids.len() {
            // A token is predicted from the place before it.
            places.push((number * time + at) as i64 - 1);
            targets.push(i64::from(row.ids[at]));
        }
    }
    let count = targets.len();
    let prepared = Prepared {
        input,
        places,
        targets,
        rows: Vec::new(),
        tokens: 0,
    };
    let pass = Pass::default();
    let hidden = model.host.hidden(&prepared.input, &pass, hooks, None)?;
    let logits = outputs(&model.host, hidden, &prepared, &pass, hooks);
    let data = TensorData::new(prepared.targets, [count, 1]);
    let chosen = Tensor::<2, Int>::from_data(data, &model.device);
    let mut each = to_vec(log_softmax(logits, 1).gather(1, chosen))
        .into_iter()
        .map(f64::from);
    Ok(rows
        .iter()
        .map(|row| each.by_ref().take(row.ids.len() - row.prefix).sum())
        .collect())
}

/// Tokens that reach beyond the prompt's text belong to the answer.
fn candidate(
    tokenizer: &Tokenizer,
    question: &Question,
    number: usize,
    choice: usize,
) -> Result<Candidate> {
    let (prompt, answer) = (&question.prompt, &question.choices[choice]);
    let apart = prompt.ends_with(char::is_whitespace) || answer.starts_with(char::is_whitespace);
    let gap = if apart || prompt.is_empty() { "" } else { " " };
    let text = format!("{prompt}{gap}{answer}");
    let encoded = tokenizer.encode_with_offsets(&text, true, false)?;
    let mut ids = encoded.ids;
    let behind = |span: &(usize, usize)| span.1 > prompt.len();
    // Tokens that the tokenizer adds at the end have no text and are no part of the answer.
    let end = encoded
        .offsets
        .iter()
        .rposition(behind)
        .map_or(0, |at| at + 1);
    ids.truncate(end);
    // The first token of all is predicted from nothing.
    let prefix = encoded
        .offsets
        .iter()
        .position(behind)
        .unwrap_or(end)
        .max(1);
    if prefix >= ids.len() {
        return Err(Error::Failed(format!(
            "question {number}: choice {choice} {answer:?} has no token of its own behind the prompt"
        )));
    }
    Ok(Candidate {
        question: number,
        choice,
        ids,
        source: Vec::new(),
        prefix,
        characters: answer.trim().chars().count(),
    })
}

/// The prompt for an encoder, and the answer for its decoder.
fn apart(
    tokenizer: &Tokenizer,
    start: u32,
    question: &Question,
    number: usize,
    choice: usize,
) -> Result<Candidate> {
    let answer = &question.choices[choice];
    let eos = tokenizer.special().eos;
    let mut source = tokenizer.encode(&question.prompt, true)?;
    source.extend(eos.filter(|eos| source.last() != Some(eos)));
    let mut ids = vec![start];
    ids.extend(tokenizer.encode(answer, false)?);
    if ids.len() == 1 {
        return Err(Error::Failed(format!(
            "question {number}: choice {choice} {answer:?} has no token"
        )));
    }
    Ok(Candidate {
        question: number,
        choice,
        ids,
        source,
        prefix: 1,
        characters: answer.trim().chars().count(),
    })
}

fn read_question(at: &Location, columns: &Map<String, Value>) -> Result<Question> {
    let text = |name: &str| columns.get(name).and_then(Value::as_str);
    let prompt = ["prompt", "question"].into_iter().find_map(text);
    let prompt = prompt.ok_or_else(|| at.error("no column prompt or question with a text"))?;
    let prompt = match text("context") {
        Some(context) => format!("{context}\n{prompt}"),
        None => prompt.to_owned(),
    };
    let choices = columns.get("choices").and_then(Value::as_array);
    let choices: Option<Vec<String>> = choices.and_then(|all| {
        all.iter()
            .map(|one| one.as_str().map(str::to_owned))
            .collect()
    });
    let choices = choices
        .filter(|choices| choices.len() > 1)
        .ok_or_else(|| at.error("column choices must be a list of two texts or more"))?;
    let answer = columns
        .get("answer")
        .ok_or_else(|| at.error("no column answer"))?;
    let answer = answer_of(answer, &choices).ok_or_else(|| {
        at.error(format!(
            "answer {answer} is neither the number (from 0), the letter nor the text of one of {} choices",
            choices.len()
        ))
    })?;
    Ok(Question {
        prompt,
        choices,
        answer,
    })
}

/// A number from 0, the text of a choice, or its letter.
fn answer_of(answer: &Value, choices: &[String]) -> Option<usize> {
    let inside = |number: usize| (number < choices.len()).then_some(number);
    match answer {
        Value::Number(number) => inside(usize::try_from(number.as_u64()?).ok()?),
        Value::String(text) => {
            let named = choices.iter().position(|choice| choice == text);
            let lettered = || match text.as_bytes() {
                [letter] if letter.is_ascii_alphabetic() => {
                    inside(usize::from(letter.to_ascii_uppercase() - b'A'))
                }
                _ => inside(text.parse().ok()?),
            };
            named.or_else(lettered)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn answers_are_numbers_letters_or_texts() {
        let choices = ["red".to_owned(), "b".to_owned()];
        let found = |answer: Value| answer_of(&answer, &choices);
        assert_eq!(found(json!(1)), Some(1));
        assert_eq!(found(json!("A")), Some(0));
        assert_eq!(found(json!("red")), Some(0));
        // The text of a choice goes before its letter.
        assert_eq!(found(json!("b")), Some(1));
        assert_eq!(found(json!("0")), Some(0));
        assert_eq!(found(json!(2)), None);
        assert_eq!(found(json!(-1)), None);
    }

    #[test]
    fn length_counts_in_one_figure_only() {
        let question = |answer| Question {
            prompt: String::new(),
            choices: vec!["ab".into(), "abcd".into()],
            answer,
        };
        let scores = vec![vec![(-2.0, -1.0), (-3.0, -0.75)]; 2];
        let found = figures(&[question(0), question(1)], &scores);
        assert_eq!(
            (found.accuracy, found.accuracy_normalised, found.chance),
            (0.5, 0.5, 0.5)
        );
        let one = figures(&[question(1)], &scores[..1]);
        assert_eq!((one.accuracy, one.accuracy_normalised), (0.0, 1.0));
    }
}
