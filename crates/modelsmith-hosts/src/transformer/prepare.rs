//! What a pass needs once, before the first layer: checked ids, positions and masks.

use super::cache::KvCache;
use super::config::{Config, Counting, Positions};
use super::input::{TokenInput, bool_rows, int_rows, ints};
use super::rope::Rotation;
use burn::tensor::{Device, Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::Around;

/// Inputs of all layers.
pub(crate) struct Prepared {
    /// Rows of the learned position table.
    pub(crate) places: Option<Tensor<2, Int>>,
    /// Rotation of queries and keys.
    pub(crate) rotation: Option<Rotation>,
    /// Token types, where the model has them.
    pub(crate) types: Option<Tensor<2, Int>>,
    /// Added to the scores, `[batch, 1, 1 or time, keys]`; what follows from places alone is not in it.
    pub(crate) bias: Option<Tensor<4>>,
    /// The mask, where anything is masked.
    pub(crate) mask: Option<Vec<Vec<bool>>>,
    /// Vectors in front of the embedded tokens, `[1 or batch, count, width]`.
    pub(crate) prompt: Option<Tensor<3>>,
    /// Columns of the pass: those of the prompt, and those of the tokens.
    pub(crate) columns: usize,
    /// Keys that these see: those of the cache, and their own.
    pub(crate) keys: usize,
}

/// Marks the columns of a prompt, which tokens of all segments see.
const EVERY_SEGMENT: i64 = i64::MIN;

/// The input as plain rows; mask and segments cover the prompt too.
struct Rows {
    ids: Vec<Vec<i64>>,
    mask: Option<Vec<Vec<bool>>>,
    segments: Option<Vec<Vec<i64>>>,
    /// Columns of the prompt and of the tokens.
    time: usize,
    /// Columns of the prompt.
    lead: usize,
    /// Keys that hooks put in front of all columns.
    prefix: usize,
    /// Columns in the cache before this pass.
    offset: usize,
}

impl Prepared {
    /// Checks the input against the configuration and lays out positions and masks. Vectors of
    /// `lead` stand in front of the tokens.
    pub(crate) fn new(
        config: &Config,
        input: &TokenInput,
        lead: Option<&Around<'_>>,
        cache: Option<&KvCache>,
        device: &Device,
    ) -> Result<Self> {
        let first = cache.is_none_or(KvCache::is_empty);
        let prompt = lead.filter(|_| first).and_then(Around::prompt);
        check_prompt(config, input, prompt.as_ref())?;
        let virtual_tokens = || lead.map_or(0, Around::virtual_tokens);
        let prefix = lead.map_or(0, Around::prefix);
        let lead = prompt.as_ref().map_or(0, |prompt| prompt.dims()[1]);
        let rows = Rows::read(input, cache, lead, prefix)?;
        check_ids(&rows.ids, config.vocabulary, "token id", "the vocabulary")?;
        let positions = match &input.positions {
            Some(given) if first => rows.behind_prompt(given_positions(given, input.dims())?),
            Some(given) => {
                let before = virtual_tokens() as i64;
                let rows = given_positions(given, input.dims())?.into_iter();
                rows.map(|row| row.iter().map(|at| at + before).collect())
                    .collect()
            }
            None => rows.positions(config, cache),
        };
        check_length(config, &positions, rows.prefix + lead)?;
        let positions = shared(positions);
        let (places, rotation) = match &config.positions {
            Positions::Rope(rope) => (None, Some(rope.rotation(&positions, device))),
            Positions::Learned { offset, .. } => (Some(places(&positions, *offset, device)), None),
            Positions::Relative(_) => (None, None),
        };
        Ok(Self {
            places,
            rotation,
            types: token_types(config, input, lead, device)?,
            bias: rows.bias(cache, device),
            mask: rows.mask,
            prompt,
            columns: rows.time,
            keys: rows.offset + rows.time,
        })
    }
}

impl Rows {
    fn read(
        input: &TokenInput,
        cache: Option<&KvCache>,
        lead: usize,
        prefix: usize,
    ) -> Result<Self> {
        let [batch, time] = input.dims();
        if batch == 0 || time == 0 {
            return Err(Error::Failed(format!(
                "a batch of {batch} rows and {time} columns holds no token"
            )));
        }
        let same = |name: &str, dims: [usize; 2]| match dims == [batch, time] {
            true => Ok(()),
            false => Err(Error::Failed(format!(
                "the {name} has shape {dims:?}; the ids have {:?}",
                [batch, time]
            ))),
        };
        let mask = match &input.mask {
            Some(mask) => {
                same("mask", mask.dims())?;
                let rows = behind(true, lead, bool_rows(mask));
                Some(rows).filter(|rows| rows.iter().flatten().any(|real| !real))
            }
            None => None,
        };
        let segments = match &input.segments {
            Some(segments) => {
                same("segment table", segments.dims())?;
                Some(behind(EVERY_SEGMENT, lead, int_rows(segments)))
            }
            None => None,
        };
        if segments.is_some() && cache.is_some() {
            return Err(Error::Failed(
                "packed segments cannot be read through a key-value cache; leave out one of them"
                    .into(),
            ));
        }
        Ok(Self {
            ids: int_rows(&input.ids),
            mask,
            segments,
            time: lead + time,
            lead,
            prefix,
            offset: cache.map_or(0, KvCache::len),
        })
    }

    /// Positions that follow from mask, segments and cache; -1 where padding has none.
    fn positions(&self, config: &Config, cache: Option<&KvCache>) -> Vec<Vec<i64>> {
        let counting = match &config.positions {
            Positions::Learned { counting, .. } => *counting,
            Positions::Rope(_) | Positions::Relative(_) => Counting::Mask,
        };
        let counts = |row: usize, column: usize| match counting {
            Counting::Columns => true,
            Counting::Mask => self.mask.as_ref().is_none_or(|mask| mask[row][column]),
            Counting::NotPad => {
                let token = column.checked_sub(self.lead);
                let token = token.map(|column| self.ids[row][column]);
                config.pad.is_none_or(|pad| token != Some(pad as i64))
            }
        };
        let padding = if counting == Counting::NotPad { -1 } else { 0 };
        (0..self.ids.len())
            .map(|row| {
                let before = match counting {
                    Counting::Columns => self.offset,
                    _ => cache.map_or(0, |cache| cache.count(row)),
                };
                let mut next = (self.prefix + before) as i64;
                (0..self.time)
                    .map(|column| {
                        if column > self.lead && self.starts_segment(row, column) {
                            next = (self.prefix + self.lead) as i64;
                        }
                        if !counts(row, column) {
                            return padding;
                        }
                        next += 1;
                        next - 1
                    })
                    .collect()
            })
            .collect()
    }

    /// The positions of the prompt, and then those given for the tokens.
    fn behind_prompt(&self, given: Vec<Vec<i64>>) -> Vec<Vec<i64>> {
        let (first, text) = (self.prefix as i64, (self.prefix + self.lead) as i64);
        let whole = |row: Vec<i64>| (first..text).chain(row.into_iter().map(|at| at + text));
        given.into_iter().map(|row| whole(row).collect()).collect()
    }

    fn starts_segment(&self, row: usize, column: usize) -> bool {
        let differs = |rows: &Vec<Vec<i64>>| rows[row][column] != rows[row][column - 1];
        self.segments.as_ref().is_some_and(differs)
    }

    /// What padding and segments add to the scores; `None` where there is neither.
    fn bias(&self, cache: Option<&KvCache>, device: &Device) -> Option<Tensor<4>> {
        let past = cache.and_then(KvCache::real);
        if self.mask.is_none() && self.segments.is_none() && past.is_none() {
            return None;
        }
        // Without segments a key is hidden from all queries of its row alike.
        let queries = if self.segments.is_some() {
            self.time
        } else {
            1
        };
        let (batch, keys) = (self.ids.len(), self.offset + self.time);
        let mut bias = vec![f32::MIN; batch * queries * keys];
        for (line, values) in bias.chunks_mut(keys).enumerate() {
            let (row, column) = (line / queries, line % queries);
            for (key, value) in values.iter_mut().enumerate() {
                if self.visible(row, column, key, past) {
                    *value = 0.0;
                }
            }
        }
        let shape = [batch, 1, queries, keys];
        Some(Tensor::from_data(TensorData::new(bias, shape), device))
    }

    /// Whether a key holds a real token of the query's segment.
    fn visible(&self, row: usize, column: usize, key: usize, past: Option<&[Vec<bool>]>) -> bool {
        let Some(key) = key.checked_sub(self.offset) else {
            return past.is_none_or(|past| past[row][key]);
        };
        let real = self.mask.as_ref().is_none_or(|mask| mask[row][key]);
        let same = |rows: &Vec<Vec<i64>>| {
            rows[row][key] == rows[row][column] || rows[row][key] == EVERY_SEGMENT
        };
        real && self.segments.as_ref().is_none_or(same)
    }
}

/// Every row behind `count` values of `lead`.
fn behind<T: Clone>(lead: T, count: usize, rows: Vec<Vec<T>>) -> Vec<Vec<T>> {
    let lead = vec![lead; count];
    rows.into_iter()
        .map(|row| [lead.clone(), row].concat())
        .collect()
}

fn check_prompt(config: &Config, input: &TokenInput, prompt: Option<&Tensor<3>>) -> Result<()> {
    let Some([rows, count, width]) = prompt.map(Tensor::dims) else {
        return Ok(());
    };
    let batch = input.dims()[0];
    if width != config.embedding_width || (rows != 1 && rows != batch) {
        return Err(Error::Failed(format!(
            "the prompt has shape {:?}; {batch} rows of this model take [1 or {batch}, count, {}]",
            [rows, count, width],
            config.embedding_width
        )));
    }
    if input.segments.is_some() && !config.attention.causal {
        return Err(Error::Failed(
            "packed rows share no prompt in a model that reads in both directions: their texts \
             would meet in it; turn packing off"
                .into(),
        ));
    }
    Ok(())
}

fn check_ids(rows: &[Vec<i64>], bound: usize, what: &str, table: &str) -> Result<()> {
    let wrong = rows
        .iter()
        .flatten()
        .find(|id| !(0..bound as i64).contains(*id));
    match wrong {
        Some(id) => Err(Error::Failed(format!(
            "{what} {id} is outside {table} of {bound}; the tokenizer and the model do not belong \
             together, or the ids were made for another model"
        ))),
        None => Ok(()),
    }
}

fn given_positions(given: &Tensor<2, Int>, dims: [usize; 2]) -> Result<Vec<Vec<i64>>> {
    let found = given.dims();
    if found[1] != dims[1] || (found[0] != dims[0] && found[0] != 1) {
        return Err(Error::Failed(format!(
            "the positions have shape {found:?}; the ids have {dims:?}"
        )));
    }
    let rows = int_rows(given);
    match rows.iter().flatten().find(|position| **position < 0) {
        Some(position) => Err(Error::Failed(format!(
            "position {position} is negative; positions count from 0"
        ))),
        None => Ok(rows),
    }
}

fn check_length(config: &Config, positions: &[Vec<i64>], lead: usize) -> Result<()> {
    let Some(limit) = config.limit else {
        return Ok(());
    };
    let longest = positions.iter().flatten().max().map_or(0, |last| last + 1);
    if longest as usize <= limit {
        return Ok(());
    }
    let counted = match lead {
        0 => String::new(),
        lead => format!(", {lead} virtual ones among them,"),
    };
    Err(Error::Failed(format!(
        "a sequence of {longest} tokens{counted} is longer than the {limit} positions of this \
         model; shorten or split the text"
    )))
}

/// One row in place of equal ones.
fn shared(mut rows: Vec<Vec<i64>>) -> Vec<Vec<i64>> {
    if rows.windows(2).all(|pair| pair[0] == pair[1]) {
        rows.truncate(1);
    }
    rows
}

fn places(positions: &[Vec<i64>], offset: usize, device: &Device) -> Tensor<2, Int> {
    let shape = [positions.len(), positions[0].len()];
    let places = positions
        .iter()
        .flatten()
        .map(|position| position + offset as i64)
        .collect();
    ints(places, shape, device)
}

/// Token types, those of a prompt of `lead` columns being 0.
fn token_types(
    config: &Config,
    input: &TokenInput,
    lead: usize,
    device: &Device,
) -> Result<Option<Tensor<2, Int>>> {
    match (config.token_types, &input.token_types) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::Failed(
            "token types were given, but this model has none; leave them out".into(),
        )),
        (Some(_), None) => Ok(Some(ints(
            vec![0; lead + input.dims()[1]],
            [1, lead + input.dims()[1]],
            device,
        ))),
        (Some(bound), Some(types)) => {
            let rows = int_rows(types);
            check_ids(&rows, bound, "token type", "the table")?;
            let shape = [rows.len(), lead + input.dims()[1]];
            let whole = behind(0, lead, rows).concat();
            Ok(Some(ints(whole, shape, device)))
        }
    }
}
