//! What a pass needs once, before the first layer: checked ids, positions and masks.

use super::cache::KvCache;
use super::config::{Config, Counting, Positions};
use super::input::{TokenInput, bool_rows, int_rows, ints};
use super::rope::Rotation;
use burn::tensor::{Device, Int, Tensor, TensorData};
use modelsmith_core::error::{Error, Result};

/// Inputs of all layers.
pub(crate) struct Prepared {
    /// Rows of the learned position table.
    pub(crate) places: Option<Tensor<2, Int>>,
    /// Rotation of queries and keys.
    pub(crate) rotation: Option<Rotation>,
    /// Token types, where the model has them.
    pub(crate) types: Option<Tensor<2, Int>>,
    /// Added to the scores of layers without a window.
    pub(crate) full: Option<Tensor<4>>,
    /// Added to the scores of layers with a window.
    pub(crate) sliding: Option<Tensor<4>>,
    /// The mask, where anything is masked.
    pub(crate) mask: Option<Vec<Vec<bool>>>,
}

/// The input as plain rows.
struct Rows {
    ids: Vec<Vec<i64>>,
    mask: Option<Vec<Vec<bool>>>,
    segments: Option<Vec<Vec<i64>>>,
    time: usize,
    /// Columns in the cache before this pass.
    offset: usize,
}

impl Prepared {
    /// Checks the input against the configuration and lays out positions and masks.
    pub(crate) fn new(
        config: &Config,
        input: &TokenInput,
        cache: Option<&KvCache>,
        device: &Device,
    ) -> Result<Self> {
        let rows = Rows::read(input, cache)?;
        check_ids(&rows.ids, config.vocabulary, "token id", "the vocabulary")?;
        let positions = match &input.positions {
            Some(given) => given_positions(given, input.dims())?,
            None => rows.positions(config, cache),
        };
        check_length(config, &positions)?;
        let positions = shared(positions);
        let (places, rotation) = match &config.positions {
            Positions::Rope(rope) => (None, Some(rope.rotation(&positions, device))),
            Positions::Learned { offset, .. } => (Some(places(&positions, *offset, device)), None),
        };
        let window = config.attention.windows.iter().flatten().max().copied();
        let any_full = config.attention.windows.iter().any(Option::is_none);
        let causal = config.attention.causal;
        Ok(Self {
            places,
            rotation,
            types: token_types(config, input, device)?,
            full: if any_full {
                rows.bias(causal, None, cache, device)
            } else {
                None
            },
            sliding: window.and_then(|window| rows.bias(causal, Some(window), cache, device)),
            mask: rows.mask,
        })
    }
}

impl Rows {
    fn read(input: &TokenInput, cache: Option<&KvCache>) -> Result<Self> {
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
                Some(bool_rows(mask)).filter(|rows| rows.iter().flatten().any(|real| !real))
            }
            None => None,
        };
        let segments = match &input.segments {
            Some(segments) => {
                same("segment table", segments.dims())?;
                Some(int_rows(segments))
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
            time,
            offset: cache.map_or(0, KvCache::len),
        })
    }

    /// Positions that follow from mask, segments and cache; -1 where padding has none.
    fn positions(&self, config: &Config, cache: Option<&KvCache>) -> Vec<Vec<i64>> {
        let counting = match &config.positions {
            Positions::Learned { counting, .. } => *counting,
            Positions::Rope(_) => Counting::Mask,
        };
        let counts = |row: usize, column: usize| match counting {
            Counting::Columns => true,
            Counting::Mask => self.mask.as_ref().is_none_or(|mask| mask[row][column]),
            Counting::NotPad => config
                .pad
                .is_none_or(|pad| self.ids[row][column] != pad as i64),
        };
        let padding = if counting == Counting::NotPad { -1 } else { 0 };
        (0..self.ids.len())
            .map(|row| {
                let mut next = match counting {
                    Counting::Columns => self.offset as i64,
                    _ => cache.map_or(0, |cache| cache.count(row)) as i64,
                };
                (0..self.time)
                    .map(|column| {
                        if column > 0 && self.starts_segment(row, column) {
                            next = 0;
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

    fn starts_segment(&self, row: usize, column: usize) -> bool {
        let differs = |rows: &Vec<Vec<i64>>| rows[row][column] != rows[row][column - 1];
        self.segments.as_ref().is_some_and(differs)
    }

    /// What is added to the scores, `[1 or batch, 1, time, keys]`; `None` when nothing is hidden.
    fn bias(
        &self,
        causal: bool,
        window: Option<usize>,
        cache: Option<&KvCache>,
        device: &Device,
    ) -> Option<Tensor<4>> {
        let keys = self.offset + self.time;
        let past = cache.and_then(KvCache::real);
        let by_row = self.mask.is_some() || self.segments.is_some() || past.is_some();
        let hidden = causal && self.time > 1 || window.is_some_and(|window| keys > window);
        if !by_row && !hidden {
            return None;
        }
        let batch = if by_row { self.ids.len() } else { 1 };
        let mut bias = vec![f32::MIN; batch * self.time * keys];
        for (line, values) in bias.chunks_mut(keys).enumerate() {
            let (row, column) = (line / self.time, line % self.time);
            let here = self.offset + column;
            let last = if causal { here } else { keys - 1 };
            let first = window.map_or(0, |window| (here + 1).saturating_sub(window));
            for (key, value) in (first..).zip(&mut values[first..=last]) {
                if !by_row || self.visible(row, column, key, past) {
                    *value = 0.0;
                }
            }
        }
        let shape = [batch, 1, self.time, keys];
        Some(Tensor::from_data(TensorData::new(bias, shape), device))
    }

    /// Whether a key holds a real token of the query's segment.
    fn visible(&self, row: usize, column: usize, key: usize, past: Option<&[Vec<bool>]>) -> bool {
        let Some(key) = key.checked_sub(self.offset) else {
            return past.is_none_or(|past| past[row][key]);
        };
        let real = self.mask.as_ref().is_none_or(|mask| mask[row][key]);
        let same = |rows: &Vec<Vec<i64>>| rows[row][key] == rows[row][column];
        real && self.segments.as_ref().is_none_or(same)
    }
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

fn check_length(config: &Config, positions: &[Vec<i64>]) -> Result<()> {
    let Some(limit) = config.limit else {
        return Ok(());
    };
    let longest = positions.iter().flatten().max().map_or(0, |last| last + 1);
    if longest as usize <= limit {
        return Ok(());
    }
    Err(Error::Failed(format!(
        "a sequence of {longest} tokens is longer than the {limit} positions of this model; \
         shorten or split the text"
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

fn token_types(
    config: &Config,
    input: &TokenInput,
    device: &Device,
) -> Result<Option<Tensor<2, Int>>> {
    match (config.token_types, &input.token_types) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err(Error::Failed(
            "token types were given, but this model has none; leave them out".into(),
        )),
        (Some(_), None) => Ok(Some(ints(
            vec![0; input.dims()[1]],
            [1, input.dims()[1]],
            device,
        ))),
        (Some(bound), Some(types)) => {
            check_ids(&int_rows(types), bound, "token type", "the table")?;
            Ok(Some(types.clone()))
        }
    }
}
