//! Which keys may be within a distance of a query? Few are, of ten thousand.
//!
//! Keys are listed by their place along the direction in which they vary most, and beside each a few of its
//! coordinates. Neither differs between a key and a query by more than their distance, so all others are
//! ruled out without it, and none wrongly.

/// Coordinates of a signature.
const SIGNATURE: usize = 16;

/// Rounds of the power method that finds the direction.
const ROUNDS: usize = 12;

/// Keys that the direction is found from at most.
const SAMPLE: usize = 2048;

/// Keys along a direction, with signatures.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Index {
    /// A unit vector.
    direction: Vec<f32>,
    /// Those that vary most.
    coordinates: Vec<usize>,
    /// Numbers of the keys along the direction.
    order: Vec<u32>,
    /// Places of the same.
    places: Vec<f32>,
    /// Signatures of the same, filled up with zeros.
    signatures: Vec<[f32; SIGNATURE]>,
    chosen_at: usize,
}

impl Index {
    /// An index of keys `[count, width]`.
    pub(super) fn new(keys: &[f32], width: usize) -> Self {
        let count = keys.len() / width.max(1);
        let step = count.div_ceil(SAMPLE).max(1);
        let sample: Vec<&[f32]> = keys.chunks_exact(width.max(1)).step_by(step).collect();
        let (mean, spread) = moments(&sample, width);
        let mut coordinates: Vec<usize> = (0..width).collect();
        coordinates.sort_by(|a, b| spread[*b].total_cmp(&spread[*a]).then(a.cmp(b)));
        coordinates.truncate(SIGNATURE);
        let mut index = Self {
            direction: direction(&sample, &mean, &spread),
            coordinates,
            chosen_at: count,
            ..Self::default()
        };
        let mut listed: Vec<(f32, u32)> = keys
            .chunks_exact(width.max(1))
            .zip(0..)
            .map(|(key, number)| (index.place(key), number))
            .collect();
        listed.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        for (place, number) in listed {
            let begin = number as usize * width;
            index.order.push(number);
            index.places.push(place);
            index
                .signatures
                .push(index.signature(&keys[begin..begin + width]));
        }
        index
    }

    /// Number of keys for which direction and coordinates were chosen.
    pub(super) fn chosen_at(&self) -> usize {
        self.chosen_at
    }

    /// Lists one key more.
    pub(super) fn add(&mut self, number: usize, key: &[f32]) {
        let place = self.place(key);
        let at = self.places.partition_point(|other| *other <= place);
        self.order.insert(at, number as u32);
        self.places.insert(at, place);
        self.signatures.insert(at, self.signature(key));
    }

    /// Calls `look` with every key that may be within `limit` of the query; it returns the limit that
    /// holds from then on, the same or a smaller one.
    pub(super) fn visit(&self, query: &[f32], limit: f64, look: &mut dyn FnMut(usize) -> f64) {
        if self.order.is_empty() {
            return;
        }
        let signature = self.signature(query);
        let place = self.place(query);
        // Room for the rounding of sums in f32.
        let room = 1e-4 * (place.abs() + 1.0);
        let bounds = |limit: f64| (limit as f32 + room, (limit * limit * 1.0002 + 1e-9) as f32);
        let (reach, mut squares) = bounds(limit);
        let begin = self.places.partition_point(|other| *other < place - reach);
        let end = self.places.partition_point(|other| *other <= place + reach);
        for at in begin..end {
            let row = &self.signatures[at];
            // Four coordinates rule most keys out.
            let first = apart(row.first_chunk::<4>(), signature.first_chunk::<4>());
            if first <= squares && apart(Some(row), Some(&signature)) <= squares {
                squares = bounds(look(self.order[at] as usize)).1;
            }
        }
    }

    fn place(&self, key: &[f32]) -> f32 {
        let products = self.direction.iter().zip(key).map(|(a, b)| a * b);
        products.sum()
    }

    fn signature(&self, key: &[f32]) -> [f32; SIGNATURE] {
        let mut signature = [0.0; SIGNATURE];
        for (value, place) in signature.iter_mut().zip(&self.coordinates) {
            *value = key[*place];
        }
        signature
    }
}

/// The square of the distance, in a fixed number of coordinates.
#[inline(always)]
fn apart<const N: usize>(a: Option<&[f32; N]>, b: Option<&[f32; N]>) -> f32 {
    let (Some(a), Some(b)) = (a, b) else {
        return 0.0;
    };
    let mut sum = 0.0;
    for place in 0..N {
        sum += (a[place] - b[place]) * (a[place] - b[place]);
    }
    sum
}

/// Means and variances of the coordinates.
fn moments(sample: &[&[f32]], width: usize) -> (Vec<f32>, Vec<f32>) {
    let count = sample.len().max(1) as f32;
    let mut mean = vec![0.0_f32; width];
    for key in sample {
        mean.iter_mut()
            .zip(*key)
            .for_each(|(mean, value)| *mean += value / count);
    }
    let mut spread = vec![0.0_f32; width];
    for key in sample {
        let pairs = key.iter().zip(&mean);
        let squares = pairs.map(|(value, mean)| (value - mean).powi(2) / count);
        spread
            .iter_mut()
            .zip(squares)
            .for_each(|(spread, square)| *spread += square);
    }
    (mean, spread)
}

/// The direction in which keys vary most, a unit vector, by the power method.
fn direction(sample: &[&[f32]], mean: &[f32], spread: &[f32]) -> Vec<f32> {
    let mut found: Vec<f32> = spread.iter().map(|value| value.sqrt()).collect();
    for _ in 0..ROUNDS {
        if !unit(&mut found) {
            break;
        }
        let mut next = vec![0.0_f32; found.len()];
        for key in sample {
            let along: f32 = key
                .iter()
                .zip(mean)
                .zip(&found)
                .map(|((a, b), c)| (a - b) * c)
                .sum();
            for ((next, value), mean) in next.iter_mut().zip(*key).zip(mean) {
                *next += along * (value - mean);
            }
        }
        found = next;
    }
    if !unit(&mut found) {
        // Keys that are all the same lie anywhere along any direction.
        found = vec![0.0; found.len()];
        found.iter_mut().take(1).for_each(|first| *first = 1.0);
    }
    found
}

/// Makes a vector as long as 1; false where it has no direction.
fn unit(vector: &mut [f32]) -> bool {
    let length = vector.iter().map(|value| value * value).sum::<f32>().sqrt();
    let sound = length.is_finite() && length > 1e-20;
    if sound {
        vector.iter_mut().for_each(|value| *value /= length);
    }
    sound
}
