//! Experiments whose arms edit one word at a time, each in the model as it was: does a single edit destroy it?
//!
//! A word that stands at the very start of a text has a key unlike all others, since its token attends to itself
//! alone (Yang et al., arXiv 2406.11263). Models that begin texts with a token of their own have none such; with
//! `begin = false` that token is left out, as models of GPT-2's kind have none.

use super::arms::Bench;
use super::edits::{losses, numbers};
use super::file::{Arm, Experiment, Metric};
use super::items::Scores;
use super::measured::{ByTest, Kind, Seen, Subject, at_least_one, no_first};
use crate::edit::measure::{Query, Scored, forced};
use crate::edit::{Action, Editor, Guard, Statement, tokens};
use crate::recipe::Named;
use crate::{adapter_folder, memory, registry};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::files::{atomic_json, read_json};
use modelsmith_core::random::Stream;
use modelsmith_data::Tokenizer;
use modelsmith_hosts::Transformer;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Perplexity is lost where it is this many times what it was.
const LOST: f64 = 2.0;

/// Letters of a word at least.
const LETTERS: usize = 3;

/// Words of one token, each told to go on in another. Tests: `recall` (the other word is the likeliest behind the
/// prompt), `recall_prefixed` (behind a beginning of a text and the prompt), `neighbours` (share of the other words'
/// prompts that go on as before), `whole` (the perplexity of other text stays below twice what it was), `others` (loss
/// on that text), `norm` (Frobenius norm of the change).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Collapse {
    /// Folder of the model.
    pub host: PathBuf,
    /// Texts, apart at `<|endoftext|>`.
    pub texts: PathBuf,
    /// Texts for the moments of the keys.
    pub corpus: usize,
    /// Texts behind them whose loss is watched.
    pub held_out: usize,
    /// What is asked, `{}` being the word.
    pub prompt: String,
    /// Whether texts begin with the tokenizer's token of that role.
    pub begin: bool,
    /// Words that are edited; a tier's `items` are a limit of them. 0 takes all.
    pub words: usize,
}

impl Default for Collapse {
    fn default() -> Self {
        Self {
            host: PathBuf::new(),
            texts: PathBuf::new(),
            corpus: 200,
            held_out: 20,
            prompt: "{} was".into(),
            begin: false,
            words: 0,
        }
    }
}

/// The model, and what it is asked.
struct World {
    collapse: Collapse,
    host: Transformer,
    tokenizer: Tokenizer,
    hash: String,
    corpus: Vec<Vec<u32>>,
    /// Texts whose loss is watched, in tokens, and as they are.
    watched: Vec<Vec<u32>>,
    held_out: Vec<String>,
    /// Words of one token, as text.
    words: Vec<String>,
}

impl Kind for Collapse {
    fn key(&self) -> &'static str {
        "collapse"
    }

    fn tests(&self) -> Vec<(&'static str, Metric)> {
        let exact = ["recall", "recall_prefixed", "neighbours", "whole"];
        let exact = exact.into_iter().map(|name| (name, Metric::Exact));
        let others = [("others", Metric::Loss), ("norm", Metric::Amount)];
        exact.chain(others).collect()
    }

    fn check(&self, experiment: &Experiment) -> Result<()> {
        let counts = [("corpus", self.corpus), ("held_out", self.held_out)];
        at_least_one(self.key(), &counts)?;
        if self.prompt.matches("{}").count() != 1 {
            let problem = format!("is {:?}; needs {{}} once, for the word", self.prompt);
            return Err(Error::config("collapse.prompt", problem));
        }
        no_first(self.key(), experiment)
    }

    fn check_method(&self, method: &Named) -> Result<()> {
        registry::edit_method(method).map(|_| ())
    }

    fn open(&self, bench: &mut Bench) -> Result<Box<dyn Subject>> {
        Ok(Box::new(World::open(bench, self)?))
    }
}

impl World {
    fn open(bench: &Bench, collapse: &Collapse) -> Result<Self> {
        let device = crate::device::device(&bench.device)?;
        let folder = bench.path(&collapse.host)?;
        let texts = bench.path(&collapse.texts)?;
        let host = modelsmith_hosts::load(&folder, &device)?;
        let tokenizer = match collapse.begin {
            true => Tokenizer::load(&folder)?,
            false => bare_tokenizer(&folder, &bench.places.data.join("tokenizer"))?,
        };
        let text = std::fs::read_to_string(&texts).map_err(|error| Error::io(&texts, error))?;
        let stories: Vec<String> = text
            .split("<|endoftext|>")
            .map(|story| story.trim().to_owned())
            .filter(|story| !story.is_empty())
            .collect();
        let wanted = collapse.corpus + collapse.held_out;
        if stories.len() < wanted {
            let problem = format!("has {} texts; {wanted} are wanted", stories.len());
            return Err(Error::file(texts, problem));
        }
        let (corpus, rest) = stories.split_at(collapse.corpus);
        let corpus = tokens(&host, &tokenizer, corpus)?;
        let items = bench.experiment.budget(bench.tier).items;
        let limits = [collapse.words, items].into_iter().filter(|most| *most > 0);
        let mut words = words(&tokenizer);
        words.truncate(limits.min().unwrap_or(usize::MAX));
        if words.len() < 2 {
            let problem = "has no two words of one token; their targets are each other";
            return Err(Error::file(folder, problem));
        }
        Ok(Self {
            collapse: Collapse {
                words: words.len(),
                ..collapse.clone()
            },
            hash: adapter_folder::base_hash(&folder)?,
            watched: tokens(&host, &tokenizer, &rest[..collapse.held_out])?,
            held_out: rest[..collapse.held_out].to_vec(),
            host,
            tokenizer,
            corpus,
            words,
        })
    }

    /// What each word shall go on with, drawn by the seed.
    fn statements(&self, seed: u64) -> Vec<Statement> {
        let mut stream = Stream::new(seed, "claim/collapse");
        let count = self.words.len();
        let statement = |(number, word): (usize, &String)| {
            let other = (number + 1 + stream.below(count - 1)) % count;
            Statement {
                id: word.clone(),
                prompt: self.collapse.prompt.clone(),
                subject: word.clone(),
                target: self.words[other].clone(),
            }
        };
        self.words.iter().enumerate().map(statement).collect()
    }

    fn scored<'s>(&'s self, host: &'s Transformer) -> Scored<'s> {
        Scored {
            host,
            tokenizer: &self.tokenizer,
            hooks: &[],
        }
    }

    /// The likeliest token behind each word's prompt.
    fn answers(&self, host: &Transformer) -> Result<Vec<u32>> {
        let query = |word: &String| {
            let prompt = self.collapse.prompt.replacen("{}", word, 1);
            Query::new(&self.tokenizer, &prompt, &self.words[0])
        };
        let queries: Vec<Query> = self.words.iter().map(query).collect::<Result<_>>()?;
        let found = forced(&self.scored(host), &queries)?;
        Ok(found.iter().map(|one| one.best[0]).collect())
    }

    /// Whether the statement's target is the likeliest, behind `{}` filled with the prompt.
    fn recalls(&self, host: &Transformer, statement: &Statement, context: &str) -> Result<f64> {
        let prompt = statement.prompt.replacen("{}", &statement.subject, 1);
        let prompt = context.replacen("{}", &prompt, 1);
        let query = Query::new(&self.tokenizer, &prompt, &statement.target)?;
        let found = forced(&self.scored(host), std::slice::from_ref(&query))?;
        let right = found[0].best.iter().eq(query.target());
        Ok(f64::from(u8::from(right)))
    }

    /// Mean loss a token of the texts that are watched.
    fn loss(&self, host: &Transformer) -> Result<f64> {
        let each = losses(&self.scored(host), self.watched.clone())?;
        // A model that gives no number says nothing about a text: as if every token were equally likely.
        let most = (host.vocab_size() as f64).ln();
        let finite = each.iter().map(|loss| match loss.is_finite() {
            true => *loss,
            false => most,
        });
        Ok(finite.sum::<f64>() / each.len() as f64)
    }

    /// Scores of one word.
    fn scores(
        &self,
        editor: &Editor,
        statement: &Statement,
        (context, before): (&str, &(Vec<u32>, f64)),
        norm: f64,
    ) -> Result<[f64; 6]> {
        let (answers, healthy) = before;
        let host = &editor.host;
        let now = self.answers(host)?;
        let others = self.words.iter().zip(answers.iter().zip(&now));
        let others = others.filter(|(word, _)| **word != statement.subject);
        let kept = others.filter(|(_, (a, b))| a == b).count();
        let loss = self.loss(host)?;
        Ok([
            self.recalls(host, statement, "{}")?,
            self.recalls(host, statement, context)?,
            kept as f64 / (self.words.len() - 1) as f64,
            f64::from(u8::from(loss < healthy + LOST.ln())),
            loss,
            norm,
        ])
    }

    /// Scores of all words, as tests.
    fn by_test(&self, rows: &[[f64; 6]]) -> ByTest {
        let data_hash = blake3::hash(self.words.join("\n").as_bytes());
        let tests = self.collapse.tests().into_iter().enumerate();
        let scores = tests.map(|(place, (test, metric))| {
            let values = rows.iter().map(|row| row[place]).collect();
            let mut scores = Scores {
                data_hash: data_hash.to_hex().to_string(),
                ..Scores::default()
            };
            match metric {
                Metric::Exact => scores.exact = values,
                Metric::Loss => scores.loss = values,
                Metric::Amount => scores.amount = values,
            }
            (test.to_owned(), scores)
        });
        scores.collect()
    }

    fn before(&self) -> Result<(Vec<u32>, f64)> {
        Ok((self.answers(&self.host)?, self.loss(&self.host)?))
    }

    fn editor(&self, arm: &Arm, seed: u64) -> Result<Editor> {
        let method = registry::edit_method(&arm.method)?;
        let (host, tokenizer) = (self.host.clone(), self.tokenizer.clone());
        let mut editor = Editor::new(host, tokenizer, method, None, seed)?;
        editor.guard = Guard {
            action: Action::Off,
            ..Guard::default()
        };
        if editor.needs_moments() {
            editor.collect(&self.corpus, None)?;
        }
        Ok(editor)
    }
}

impl Subject for World {
    fn host(&self) -> &str {
        &self.hash
    }

    fn key(&self) -> Value {
        json!(self.collapse)
    }

    fn count(&self) -> usize {
        self.words.len()
    }

    fn alone(&self, seed: u64) -> Result<ByTest> {
        let (_, loss) = self.before()?;
        let row = |statement: &Statement| {
            let recalled = self.recalls(&self.host, statement, "{}")?;
            Ok([recalled, recalled, 1.0, 1.0, loss, 0.0])
        };
        let rows: Vec<[f64; 6]> = self
            .statements(seed)
            .iter()
            .map(row)
            .collect::<Result<_>>()?;
        Ok(self.by_test(&rows))
    }

    fn arm(&self, bench: &Bench, arm: &Arm, seed: u64, _: &Path) -> Result<Seen> {
        let mut editor = self.editor(arm, seed)?;
        let base = editor.weights_now()?;
        let before = self.before()?;
        let mut stream = Stream::new(seed, "claim/collapse/prefix");
        let contexts = contexts(&editor, &self.held_out);
        let mut rows = Vec::new();
        let (mut seconds, mut changed) = (0.0, 0);
        for statement in self.statements(seed) {
            bench.stopped()?;
            let begun = Instant::now();
            let step = editor.edit(std::slice::from_ref(&statement))?;
            seconds += begun.elapsed().as_secs_f64();
            changed = changed.max(numbers(&editor.host, &step.figures.norms));
            let context = &contexts[stream.below(contexts.len())];
            let norm = step.figures.norms.iter().map(|(_, by, _)| by * by);
            let norm = norm.sum::<f64>().sqrt();
            rows.push(self.scores(&editor, &statement, (context, &before), norm)?);
            editor.put_back(&base)?;
        }
        Ok(Seen {
            seconds,
            peak_memory: memory::peak_resident(),
            changed,
            scores: self.by_test(&rows),
        })
    }
}

/// Beginnings of texts, `{}` for the prompt: the editor's own, or those of other texts where it has none.
fn contexts(editor: &Editor, texts: &[String]) -> Vec<String> {
    let own = editor.contexts().iter().filter(|one| *one != "{}");
    let own: Vec<String> = own.cloned().collect();
    if !own.is_empty() {
        return own;
    }
    let first = |text: &String| text.split('.').next().unwrap_or_default().to_owned();
    let firsts = texts
        .iter()
        .map(first)
        .filter(|first| !first.contains("{}"));
    firsts.map(|first| format!("{first}. {{}}")).collect()
}

/// Words with a space in front that are one token each, in the vocabulary's order.
fn words(tokenizer: &Tokenizer) -> Vec<String> {
    let word = |id: u32| {
        let token = tokenizer.token(id)?;
        let letters = token.strip_prefix(['▁', 'Ġ'])?.to_owned();
        let fits = letters.len() >= LETTERS && letters.chars().all(|c| c.is_ascii_alphabetic());
        fits.then_some(letters)
    };
    (0..tokenizer.vocabulary() as u32)
        .filter_map(word)
        .collect()
}

/// The tokenizer of a folder without the tokens that it puts around texts, by way of a folder of its own.
fn bare_tokenizer(folder: &Path, own: &Path) -> Result<Tokenizer> {
    std::fs::create_dir_all(own).map_err(|error| Error::io(own, error))?;
    let name = "tokenizer.json";
    let mut value: Value = read_json(folder.join(name))?;
    value["post_processor"] = Value::Null;
    atomic_json(own.join(name), &value)?;
    for name in ["config.json", "tokenizer_config.json"] {
        if folder.join(name).is_file() {
            let value: Value = read_json(folder.join(name))?;
            atomic_json(own.join(name), &value)?;
        }
    }
    Tokenizer::load(own)
}
