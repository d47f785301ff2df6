//! Which keys may be within a distance of a query? Few are, of ten thousand.
//!
//! Every key has a signature of a few numbers that lies no further from a query's than the key from the query.
//! All signatures are compared, in blocks of keys side by side, so that an instruction compares many; the first
//! numbers, which tell most apart, rule most blocks out.

use super::directions::{Directions, NUMBERS};
use modelsmith_kernels::vectorised;

/// Keys of a block: some vectors of any processor, since loops over a single one are not made vector code.
const LANES: usize = 64;

/// Numbers that are compared before a block may be ruled out.
const GROUP: usize = 4;

/// A number of every key of a block.
type Lanes = [f32; LANES];

/// Signatures of keys.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    directions: Directions,
    /// The first numbers of the signatures, block by block, then the next ones, and so on. What is behind the
    /// last key of the last block is infinite.
    groups: [Vec<[Lanes; GROUP]>; NUMBERS / GROUP],
    count: usize,
    /// Length of the longest signature so far.
    longest: f32,
    chosen_at: usize,
}

impl Index {
    /// An index of keys `[count, width]`.
    pub(super) fn new(keys: &[f32], width: usize) -> Self {
        let mut index = Self {
            directions: Directions::new(keys, width),
            chosen_at: keys.len() / width.max(1),
            ..Self::default()
        };
        keys.chunks_exact(width.max(1))
            .for_each(|key| index.push(key));
        index
    }

    /// Takes one key more.
    pub(super) fn add(&mut self, keys: &[f32], width: usize) {
        // Directions found among few keys are not those of many.
        if keys.len() / width.max(1) >= 2 * self.chosen_at {
            *self = Self::new(keys, width);
        } else {
            self.push(&keys[keys.len() - width..]);
        }
    }

    fn push(&mut self, key: &[f32]) {
        if self.count.is_multiple_of(LANES) {
            for group in &mut self.groups {
                group.push([[f32::INFINITY; LANES]; GROUP]);
            }
        }
        self.count += 1;
        self.set(self.count - 1, key);
    }

    /// Puts another key in the place of one.
    pub(super) fn set(&mut self, number: usize, key: &[f32]) {
        let signature = self.directions.signature(key);
        self.longest = self.longest.max(length(&signature));
        self.write(number, &signature);
    }

    /// Takes a key out; those behind it move up.
    pub(super) fn remove(&mut self, number: usize) {
        for after in number + 1..self.count {
            self.write(after - 1, &self.read(after));
        }
        self.count -= 1;
        self.write(self.count, &[f32::INFINITY; NUMBERS]);
        for group in &mut self.groups {
            group.truncate(self.count.div_ceil(LANES));
        }
    }

    fn read(&self, number: usize) -> [f32; NUMBERS] {
        let (block, lane) = (number / LANES, number % LANES);
        std::array::from_fn(|at| self.groups[at / GROUP][block][at % GROUP][lane])
    }

    fn write(&mut self, number: usize, signature: &[f32; NUMBERS]) {
        let (block, lane) = (number / LANES, number % LANES);
        for (at, value) in signature.iter().enumerate() {
            self.groups[at / GROUP][block][at % GROUP][lane] = *value;
        }
    }

    /// Calls `look` with every key that may be within `limit` of the query; it returns the limit that
    /// holds from then on, the same or a smaller one.
    pub(super) fn visit(&self, query: &[f32], limit: f64, look: &mut dyn FnMut(usize) -> f64) {
        let signature = self.directions.signature(query);
        let room = self.directions.rounding() * (self.longest + length(&signature));
        let squares = |limit: f64| ((limit + f64::from(room)).powi(2) * 1.0002) as f32;
        vectorised(
            #[inline(always)]
            || self.scan(&signature, squares(limit), &mut |key| squares(look(key))),
        );
    }

    /// Calls `look` with the keys whose signature is not further away than the root of `squares`. Numbers that
    /// are not finite rule nothing out.
    #[inline(always)]
    fn scan(&self, query: &[f32; NUMBERS], mut squares: f32, look: &mut dyn FnMut(usize) -> f32) {
        'blocks: for block in 0..self.count.div_ceil(LANES) {
            let mut apart = [0.0; LANES];
            for (group, query) in self.groups.iter().zip(query.as_chunks::<GROUP>().0) {
                sum(&mut apart, &group[block], query);
                if all_beyond(&apart, squares) {
                    continue 'blocks;
                }
            }
            for (key, apart) in (block * LANES..self.count).zip(apart) {
                if apart > squares {
                    continue;
                }
                squares = look(key);
            }
        }
    }
}

/// Adds the squares of the differences to a query's numbers.
#[inline(always)]
fn sum(apart: &mut Lanes, numbers: &[Lanes; GROUP], query: &[f32; GROUP]) {
    for (lanes, query) in numbers.iter().zip(query) {
        for (apart, value) in apart.iter_mut().zip(lanes) {
            *apart += (value - query) * (value - query);
        }
    }
}

/// Whether no key of a block is near enough.
#[inline(always)]
fn all_beyond(apart: &Lanes, squares: f32) -> bool {
    let mut all = true;
    for apart in apart {
        all &= *apart > squares;
    }
    all
}

fn length(signature: &[f32; NUMBERS]) -> f32 {
    signature
        .iter()
        .map(|value| value * value)
        .sum::<f32>()
        .sqrt()
}
