//! Does it work? Answers with and without revisions, apart by whether there was a revision to use.

use super::engine::{Answer, Engine, Hit};
use super::overlap::{bleu, rouge_l};
use super::polarity::{Lexicon, balanced_yes_no, polarity_right, polarity_right_negation_aware};
use super::speak::Speaker;
use super::store::{Filter, Revision};
use modelsmith_core::error::Result;
use modelsmith_core::random::Stream;
use serde::Serialize;

/// A question with the answer wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// The statement or question.
    pub question: String,
    /// The answer.
    pub answer: String,
}

/// Figures of answers to some cases.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Scores {
    /// Cases.
    pub cases: usize,
    /// Mean over yes and no of the share of answers that begin with the right one.
    pub yes_no: Option<f64>,
    /// Share of answers that judge as is wanted.
    pub polarity: f64,
    /// The same where negations are minded.
    pub polarity_negation_aware: f64,
    /// BLEU with runs of 1 to 4 words.
    pub bleu: [f64; 4],
    /// ROUGE-L.
    pub rouge_l: f64,
}

impl Scores {
    fn of(pairs: &[(&str, &str)]) -> Self {
        let lexicon = Lexicon::default();
        let share = |right: &dyn Fn(&str, &str) -> bool| {
            let right = pairs
                .iter()
                .filter(|(answer, truth)| right(answer, truth))
                .count();
            right as f64 / pairs.len().max(1) as f64
        };
        Self {
            cases: pairs.len(),
            yes_no: balanced_yes_no(pairs),
            polarity: share(&|answer, truth| polarity_right(answer, truth, &lexicon)),
            polarity_negation_aware: share(&|answer, truth| {
                polarity_right_negation_aware(answer, truth, &lexicon)
            }),
            bleu: [1, 2, 3, 4].map(|most| bleu(pairs, most)),
            rouge_l: rouge_l(pairs),
        }
    }
}

/// The rows of an evaluation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Table {
    /// Share of cases with a revision to use.
    pub coverage: f64,
    /// The model alone, on all cases.
    pub baseline: Scores,
    /// The deployed system, on all cases.
    pub deployed: Scores,
    /// The deployed system where there was a revision.
    pub context: Scores,
    /// The model alone on the same cases.
    pub context_baseline: Scores,
    /// The nearest revision's answer copied, on the same cases.
    pub copied: Scores,
    /// The model behind as many revisions drawn at random, on the same cases: what a longer prompt does.
    pub random: Scores,
    /// The model alone where there was none.
    pub residual: Scores,
    /// Answers that changed though there was no revision: 0, or locality is broken.
    pub drift: usize,
}

/// Asks all cases, of a scope, with the model alone and with the engine.
///
/// # Errors
/// What model or embedder refuse.
pub fn evaluate(
    engine: &Engine<'_>,
    speaker: &dyn Speaker,
    cases: &[Case],
    scope: &str,
) -> Result<Table> {
    let texts: Vec<&str> = cases.iter().map(|case| case.question.as_str()).collect();
    let alone = alone(engine, speaker, &texts)?;
    let revised = engine.answer(speaker, &texts, scope)?;
    let copies: Vec<Option<String>> = texts
        .iter()
        .map(|text| engine.copied(text, scope))
        .collect::<Result<_>>()?;
    let drawn = behind_random(engine, speaker, &texts, &revised, scope)?;
    let has = |at: &usize| !revised[*at].hits.is_empty();
    let all: Vec<usize> = (0..cases.len()).collect();
    let (with, without): (Vec<usize>, Vec<usize>) = all.iter().copied().partition(has);
    let score = |numbers: &[usize], answer: &dyn Fn(usize) -> String| {
        let answers: Vec<(String, &str)> = numbers
            .iter()
            .map(|at| (answer(*at), cases[*at].answer.as_str()))
            .collect();
        let pairs: Vec<(&str, &str)> = answers
            .iter()
            .map(|(a, truth)| (a.as_str(), *truth))
            .collect();
        Scores::of(&pairs)
    };
    let bare = |at: usize| alone[at].clone();
    let deployed = |at: usize| revised[at].text.clone();
    Ok(Table {
        coverage: with.len() as f64 / cases.len().max(1) as f64,
        baseline: score(&all, &bare),
        deployed: score(&all, &deployed),
        context: score(&with, &deployed),
        context_baseline: score(&with, &bare),
        copied: score(&with, &|at| copies[at].clone().unwrap_or_default()),
        random: score(&with, &|at| drawn[at].clone()),
        residual: score(&without, &bare),
        drift: without
            .iter()
            .filter(|at| revised[**at].text != alone[**at])
            .count(),
    })
}

/// Answers behind other revisions of the scope than the nearest, as many, drawn at random.
fn behind_random(
    engine: &Engine<'_>,
    speaker: &dyn Speaker,
    texts: &[&str],
    revised: &[Answer],
    scope: &str,
) -> Result<Vec<String>> {
    let filter = Filter {
        scope: Some(scope),
        ..Filter::default()
    };
    let all: Vec<u64> = engine
        .store()
        .list(filter)
        .map(|revision| revision.id)
        .collect();
    let prompts = texts
        .iter()
        .zip(revised)
        .enumerate()
        .map(|(number, (text, answer))| {
            let used = |id: &u64| answer.hits.iter().any(|hit| hit.id == *id);
            let mut others: Vec<u64> = all.iter().copied().filter(|id| !used(id)).collect();
            Stream::new(number as u64, "rit/random").shuffle(&mut others);
            let others = others.into_iter().take(answer.hits.len());
            let hits: Vec<Hit> = others
                .map(|id| Hit {
                    id,
                    similarity: 0.0,
                })
                .collect();
            engine.prompt(text, &hits)
        });
    let prompts: Vec<String> = prompts.collect();
    stripped(&speaker.speak(&prompts)?, &prompts)
}

fn stripped(spoken: &[String], prompts: &[String]) -> Result<Vec<String>> {
    let pairs = spoken.iter().zip(prompts);
    let own = pairs.map(|(text, prompt)| text.strip_prefix(prompt.as_str()).unwrap_or(text));
    Ok(own.map(|text| text.trim().to_owned()).collect())
}

/// Answers of the model alone, in the engine's wording.
fn alone(engine: &Engine<'_>, speaker: &dyn Speaker, texts: &[&str]) -> Result<Vec<String>> {
    let prompts: Vec<String> = texts.iter().map(|text| engine.prompt(text, &[])).collect();
    stripped(&speaker.speak(&prompts)?, &prompts)
}

/// A store of some of the complaints, and what it does.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Share of the complaints in the store.
    pub share: f64,
    /// Revisions in the store.
    pub revisions: usize,
    /// With the complaints as they are.
    pub table: Table,
    /// With their answers shuffled among them: where this is as good, the store is not at work.
    pub shuffled: Table,
}

/// The simulated user's run: stores of growing shares of `complaints` (see [`simulate`]), made by `empty`, asked
/// all cases, and each again with the answers shuffled.
///
/// # Errors
/// What model or embedder refuse.
pub fn trials<'a>(
    empty: &dyn Fn() -> Result<Engine<'a>>,
    speaker: &dyn Speaker,
    complaints: &[Revision],
    cases: &[Case],
    shares: &[f64],
    seed: u64,
) -> Result<Vec<Trial>> {
    let asked = |revisions: Vec<Revision>| {
        let mut engine = empty()?;
        engine.extend(revisions)?;
        evaluate(&engine, speaker, cases, "")
    };
    let one = |share: &f64| {
        let count = (complaints.len() as f64 * share).ceil() as usize;
        let some = &complaints[..count.min(complaints.len())];
        let mut answers: Vec<String> = some.iter().map(|found| found.answer.clone()).collect();
        Stream::new(seed, "rit/shuffled").shuffle(&mut answers);
        let shuffled = some.iter().zip(answers).map(|(found, answer)| Revision {
            answer,
            ..found.clone()
        });
        Ok(Trial {
            share: *share,
            revisions: some.len(),
            table: asked(some.to_vec())?,
            shuffled: asked(shuffled.collect())?,
        })
    };
    shares.iter().map(one).collect()
}

/// What a user who reads the model's answers complains of: the cases that it judges wrongly, in an order drawn by
/// the seed, as revisions.
///
/// # Errors
/// What the model refuses.
pub fn simulate(
    engine: &Engine<'_>,
    speaker: &dyn Speaker,
    cases: &[Case],
    author: &str,
    seed: u64,
) -> Result<Vec<Revision>> {
    let lexicon = Lexicon::default();
    let texts: Vec<&str> = cases.iter().map(|case| case.question.as_str()).collect();
    let answers = alone(engine, speaker, &texts)?;
    let wrong = cases
        .iter()
        .zip(answers)
        .filter(|(case, answer)| !polarity_right_negation_aware(answer, &case.answer, &lexicon));
    let mut complaints: Vec<Revision> = wrong
        .map(|(case, _)| Revision {
            question: case.question.clone(),
            answer: case.answer.clone(),
            author: author.to_owned(),
            ..Revision::default()
        })
        .collect();
    Stream::new(seed, "rit/complaints").shuffle(&mut complaints);
    Ok(complaints)
}

/// How far answers follow the store.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Follow {
    /// Answers that had a revision.
    pub answers: usize,
    /// Share of them that judge as their nearest revision does.
    pub rate: f64,
}

/// Whether a model does what its user's revisions say, right or wrong.
pub fn follow(engine: &Engine<'_>, answers: &[Answer]) -> Follow {
    let lexicon = Lexicon::default();
    let nearest = |answer: &Answer| engine.store().get(answer.hits.first()?.id).cloned();
    let pairs = answers
        .iter()
        .filter_map(|answer| Some((answer, nearest(answer)?)));
    let (mut count, mut followed) = (0, 0);
    for (answer, revision) in pairs {
        count += 1;
        followed += usize::from(polarity_right_negation_aware(
            &answer.text,
            &revision.answer,
            &lexicon,
        ));
    }
    Follow {
        answers: count,
        rate: followed as f64 / count.max(1) as f64,
    }
}
