//! The forms in which an edited difference is stored, and back.

/// An edited difference in the form in which it is small.
#[derive(Clone, Debug, PartialEq)]
pub enum Encoded {
    /// Every entry.
    Dense(Vec<f32>),
    /// The entries that are not zero.
    Sparse {
        /// Entries of the whole tensor.
        length: usize,
        /// Places of the entries, ascending.
        indices: Vec<u32>,
        /// The entries.
        values: Vec<f32>,
    },
    /// A sign an entry and one of a few magnitudes.
    Signs {
        /// Entries of the whole tensor.
        length: usize,
        /// Bit `b` of word `w` is set where entry `32 w + b` is negative.
        words: Vec<u32>,
        /// The magnitudes, ascending by block.
        scales: Vec<f32>,
        /// For every entry the number of its magnitude; empty where there is one only.
        levels: Vec<u8>,
    },
    /// `U diag(S) Vᵀ`.
    LowRank {
        /// Rows of the tensor.
        rows: usize,
        /// Columns of the tensor.
        columns: usize,
        /// Left vectors, row-major `rows x rank`.
        u: Vec<f32>,
        /// Singular values, descending.
        s: Vec<f32>,
        /// Right vectors, row-major `columns x rank`.
        v: Vec<f32>,
    },
}

impl Encoded {
    /// A difference as it is, or without its zeros where an index for each other entry takes less.
    pub fn dense_or_sparse(delta: Vec<f32>) -> Self {
        let kept = delta.iter().filter(|value| **value != 0.0).count();
        if kept * 3 > delta.len() || u32::try_from(delta.len()).is_err() {
            return Self::Dense(delta);
        }
        let pairs = (0_u32..).zip(&delta).filter(|(_, value)| **value != 0.0);
        let (indices, values) = pairs.map(|(index, value)| (index, *value)).unzip();
        Self::Sparse {
            length: delta.len(),
            indices,
            values,
        }
    }

    /// Every entry of the difference.
    pub fn decode(&self) -> Vec<f32> {
        match self {
            Self::Dense(values) => values.clone(),
            Self::Sparse {
                length,
                indices,
                values,
            } => {
                let mut delta = vec![0.0; *length];
                for (index, value) in indices.iter().zip(values) {
                    if let Some(place) = delta.get_mut(*index as usize) {
                        *place = *value;
                    }
                }
                delta
            }
            Self::Signs {
                length,
                words,
                scales,
                levels,
            } => (0..*length)
                .map(|index| {
                    let level = levels.get(index).map_or(0, |level| usize::from(*level));
                    let scale = scales.get(level).copied().unwrap_or(0.0);
                    let word = words.get(index / 32).copied().unwrap_or(0);
                    if word >> (index % 32) & 1 == 1 {
                        -scale
                    } else {
                        scale
                    }
                })
                .collect(),
            Self::LowRank {
                rows,
                columns,
                u,
                s,
                v,
            } => product(*rows, *columns, u, s, v),
        }
    }

    /// Bits that an entry of the tensor takes on average, indices, signs and scales included, at `value_bits` a value.
    pub fn bits(&self, value_bits: usize) -> usize {
        match self {
            Self::Dense(values) => values.len() * value_bits,
            Self::Sparse { values, .. } => values.len() * (32 + value_bits),
            Self::Signs {
                words,
                scales,
                levels,
                ..
            } => 32 * (words.len() + scales.len()) + levels.len() * level_bits(scales.len()),
            Self::LowRank { u, s, v, .. } => 32 * (u.len() + s.len() + v.len()),
        }
    }

    /// The form's name in records.
    pub fn form(&self) -> &'static str {
        match self {
            Self::Dense(_) => "dense",
            Self::Sparse { .. } => "sparse",
            Self::Signs { .. } => "signs",
            Self::LowRank { .. } => "low_rank",
        }
    }
}

/// Bits of a number that tells `count` magnitudes apart.
pub(super) fn level_bits(count: usize) -> usize {
    count.max(1).next_power_of_two().trailing_zeros() as usize
}

/// `U diag(S) Vᵀ` in `f32`, row by row.
fn product(rows: usize, columns: usize, u: &[f32], s: &[f32], v: &[f32]) -> Vec<f32> {
    let rank = s.len();
    let mut delta = vec![0.0; rows * columns];
    for (row, out) in delta.chunks_mut(columns.max(1)).enumerate() {
        let left: Vec<f32> = (0..rank).map(|k| u[row * rank + k] * s[k]).collect();
        for (column, value) in out.iter_mut().enumerate() {
            let right = &v[column * rank..(column + 1) * rank];
            *value = left.iter().zip(right).map(|(a, b)| a * b).sum();
        }
    }
    delta
}
