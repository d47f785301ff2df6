//! How do the vectors of a prompt start (Lester et al., arXiv 2104.08691, section 3.2)?

use crate::adapter::common::weights::weight_of;
use modelsmith_core::error::{Error, Result};
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::roles::Encode;
use modelsmith_core::sites::{Site, SiteKind};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Random vectors are uniform within this distance from 0.
const RANGE: f32 = 0.5;

/// Tokens that vectors are drawn from: the first ids of a vocabulary are its most frequent ones.
const FREQUENT: usize = 5000;

/// How the vectors of a prompt start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Start {
    /// Uniform between -0.5 and 0.5.
    Random,
    /// The embeddings of tokens drawn, none twice, from the 5,000 first of the vocabulary.
    #[default]
    Vocabulary,
    /// The embeddings of a text's tokens, repeated or cut to the number of vectors.
    Text,
    /// The mean embedding of the tokens of each label; further vectors as for `vocabulary`.
    Labels,
}

/// The options that say how vectors start.
pub(crate) struct Words<'a> {
    pub(crate) init: Start,
    pub(crate) text: &'a str,
    pub(crate) labels: &'a [String],
}

impl Words<'_> {
    /// Words that the init does not read are as wrong as words that it lacks.
    ///
    /// # Errors
    /// The key, and what reads it.
    pub(crate) fn check(&self) -> Result<()> {
        let words = [
            ("init_text", Start::Text, self.text.is_empty()),
            ("init_labels", Start::Labels, self.labels.is_empty()),
        ];
        for (key, start, empty) in words {
            if empty == (self.init == start) {
                let name = json!(start);
                let problem = match empty {
                    true => format!("is empty, and init = {name} starts from it"),
                    false => format!("is read with init = {name} only"),
                };
                return Err(Error::config(format!("method.{key}"), problem));
            }
        }
        Ok(())
    }

    /// The tokens of the text, as PEFT takes them with what the tokenizer puts around one, or of each
    /// label without that.
    ///
    /// # Errors
    /// Words that the tokenizer cannot express.
    pub(crate) fn tokens(&self, encode: &Encode<'_>) -> Result<Vec<Vec<u32>>> {
        match self.init {
            Start::Text => Ok(vec![encode(self.text, true)?]),
            Start::Labels => {
                let labels = self.labels.iter().map(|label| encode(label, false));
                labels.collect()
            }
            Start::Random | Start::Vocabulary => Ok(Vec::new()),
        }
    }
}

/// Refuses a number of vectors that no prompt has; `key` names it.
///
/// # Errors
/// The key, the number and the range.
pub(crate) fn check_count(key: &str, count: usize) -> Result<()> {
    match (1..=65536).contains(&count) {
        true => Ok(()),
        false => Err(Error::config(
            key,
            format!("{count} given; must be 1 to 65536"),
        )),
    }
}

/// The site of the token embedding, of which prompts have the width.
///
/// # Errors
/// A host that embeds no tokens.
pub(crate) fn token_embedding(host: &dyn Host) -> Result<&Site> {
    let mut sites = host.sites().iter();
    let found = sites.find(|site| site.kind == SiteKind::Embedding);
    found.ok_or_else(|| {
        Error::Usage(format!(
            "{} embeds no tokens, so that no vectors can stand in front of them",
            host.info().architecture
        ))
    })
}

/// The first vectors `[count, width]`; `tokens` are those of the text, or of each label.
///
/// # Errors
/// Tokens that are missing or that the host does not have; more labels than vectors.
pub(crate) fn first_vectors(
    host: &dyn Host,
    start: Start,
    count: usize,
    tokens: &[Vec<u32>],
    seed: u64,
) -> Result<Flat> {
    let table = Table::of(host)?;
    let mut stream = Stream::new(seed, "prompt");
    let rows = match start {
        Start::Random => {
            let values = stream.uniform(count * table.width, -RANGE, RANGE);
            return Ok(Flat::from_vec(
                values,
                &[count, table.width],
                &host.device(),
            ));
        }
        Start::Vocabulary => table.drawn(&mut stream, count),
        Start::Text => {
            let text = needed(tokens.first())?.iter().cycle().take(count);
            text.map(|id| table.mean(&[*id])).collect::<Result<_>>()?
        }
        Start::Labels if tokens.len() > count => {
            return Err(Error::config(
                "method.virtual_tokens",
                format!(
                    "is {count}; there are {} labels, and each needs one",
                    tokens.len()
                ),
            ));
        }
        Start::Labels => {
            needed(tokens.first())?;
            let labels = tokens.iter().map(|ids| table.mean(needed(Some(ids))?));
            let mut rows: Vec<Vec<f32>> = labels.collect::<Result<_>>()?;
            rows.extend(table.drawn(&mut stream, count - tokens.len()));
            rows
        }
    };
    let values = rows.concat();
    Ok(Flat::from_vec(
        values,
        &[count, table.width],
        &host.device(),
    ))
}

fn needed(tokens: Option<&Vec<u32>>) -> Result<&Vec<u32>> {
    tokens.filter(|tokens| !tokens.is_empty()).ok_or_else(|| {
        Error::config(
            "method.init",
            "the words to start from have no tokens; give some, or another init",
        )
    })
}

/// The host's token embeddings.
struct Table {
    values: Vec<f32>,
    width: usize,
}

impl Table {
    fn of(host: &dyn Host) -> Result<Self> {
        let weight = weight_of(host, token_embedding(host)?)?;
        let width = weight.shape.last().copied().unwrap_or(0);
        let values = weight.to_vec();
        match values.is_empty() {
            true => Err(Error::Failed("the host's token embedding is empty".into())),
            false => Ok(Self { values, width }),
        }
    }

    fn len(&self) -> usize {
        self.values.len() / self.width
    }

    fn row(&self, id: usize) -> &[f32] {
        &self.values[id * self.width..][..self.width]
    }

    /// The mean of these tokens' rows.
    fn mean(&self, ids: &[u32]) -> Result<Vec<f32>> {
        let mut sum = vec![0.0; self.width];
        for id in ids {
            if *id as usize >= self.len() {
                return Err(Error::Failed(format!(
                    "token {id} of the prompt's first words is outside the vocabulary of {}; the \
                     tokenizer and the model do not belong together",
                    self.len()
                )));
            }
            let row = self.row(*id as usize);
            sum.iter_mut().zip(row).for_each(|(sum, x)| *sum += x);
        }
        Ok(sum.into_iter().map(|x| x / ids.len() as f32).collect())
    }

    /// Rows of frequent tokens, each at most once while there are enough.
    fn drawn(&self, stream: &mut Stream, count: usize) -> Vec<Vec<f32>> {
        let mut rows = Vec::with_capacity(count);
        while rows.len() < count {
            let mut ids: Vec<usize> = (0..self.len().min(FREQUENT)).collect();
            stream.shuffle(&mut ids);
            let missing = count - rows.len();
            let ids = ids.into_iter().take(missing);
            rows.extend(ids.map(|id| self.row(id).to_vec()));
        }
        rows
    }
}
