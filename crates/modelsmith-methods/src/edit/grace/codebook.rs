//! Keys, values, radii and labels, and the structural step of an edit (algorithm 1).

use super::directions::sum_of_pairs;
use super::index::Index;
use modelsmith_core::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// What is taken from a radius on a conflict, so that both entries keep apart.
const GAP: f64 = 1e-5;

/// An entry beside its key and value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name: the edit that made it.
    pub id: String,
    /// Deferral radius.
    pub radius: f64,
    /// Tokens of the target; entries agree where these are equal.
    pub label: Vec<u32>,
}

/// What the structural step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A new entry, far from all others.
    Added,
    /// A new entry, and the nearest one, which has another label, drew back; where it has the same key, it
    /// became the new one.
    Split,
    /// The nearest entry, which has the same label, reached out.
    Expanded,
    /// The nearest entry of the same label has it already.
    Inside,
}

/// Where an edit went.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placed {
    /// What happened.
    pub operation: Operation,
    /// Place of the entry whose value is to be trained.
    pub entry: usize,
    /// Distance to the entry that was nearest before; `None` where there was none.
    pub distance: Option<f64>,
}

/// A growing set of keys with values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Codebook {
    key_width: usize,
    value_width: usize,
    entries: Vec<Entry>,
    keys: Vec<f32>,
    values: Vec<f32>,
    index: Index,
    largest_radius: f64,
}

impl Codebook {
    /// An empty one for keys and values of these widths.
    pub fn new(key_width: usize, value_width: usize) -> Self {
        Self {
            key_width,
            value_width,
            ..Self::default()
        }
    }

    /// From entries with keys `[entries, key_width]` and values `[entries, value_width]`.
    ///
    /// # Errors
    /// Numbers of another count, or radii and keys that are not finite.
    pub fn from_parts(
        [key_width, value_width]: [usize; 2],
        entries: Vec<Entry>,
        keys: Vec<f32>,
        values: Vec<f32>,
    ) -> Result<Self> {
        let count = entries.len();
        if keys.len() != count * key_width || values.len() != count * value_width {
            return Err(Error::Failed(format!(
                "{count} entries need keys of {key_width} and values of {value_width} numbers; found {} and {} in \
                 all",
                keys.len(),
                values.len()
            )));
        }
        let finite = keys.iter().chain(&values).all(|value| value.is_finite());
        let radii = entries
            .iter()
            .all(|entry| entry.radius.is_finite() && entry.radius > 0.0);
        if !finite || !radii {
            return Err(Error::Numeric(
                "keys, values or radii of the codebook are not finite, or a radius is not above 0"
                    .into(),
            ));
        }
        let mut book = Self {
            key_width,
            value_width,
            entries,
            index: Index::new(&keys, key_width),
            keys,
            values,
            largest_radius: 0.0,
        };
        book.measure_radii();
        Ok(book)
    }

    /// The entries, in the order in which they were made.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no entry.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Widths of keys and values.
    pub fn widths(&self) -> [usize; 2] {
        [self.key_width, self.value_width]
    }

    /// All keys, row by row.
    pub fn keys(&self) -> &[f32] {
        &self.keys
    }

    /// All values, row by row.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The value of an entry.
    pub fn value(&self, entry: usize) -> &[f32] {
        &self.values[entry * self.value_width..(entry + 1) * self.value_width]
    }

    /// Sets the value of an entry.
    pub fn set_value(&mut self, entry: usize, value: &[f32]) {
        let width = self.value_width;
        self.values[entry * width..(entry + 1) * width].copy_from_slice(value);
    }

    /// The entry whose value a query gets: the nearest one, where the query is within its radius.
    pub fn hit(&self, query: &[f32]) -> Option<usize> {
        // Whatever is nearer than a hit is within the largest radius too, so nothing else needs a look.
        let (entry, distance) = self.nearest_within(query, self.largest_radius)?;
        (distance <= self.entries[entry].radius).then_some(entry)
    }

    /// The nearest entry and its Euclidean distance.
    pub fn nearest(&self, query: &[f32]) -> Option<(usize, f64)> {
        self.nearest_within(query, f64::INFINITY)
    }

    fn nearest_within(&self, query: &[f32], limit: f64) -> Option<(usize, f64)> {
        let mut best: Option<(usize, f64)> = None;
        self.index.visit(query, limit, &mut |entry| {
            let limit_now = best.map_or(limit, |(_, nearest)| nearest);
            let key = &self.keys[entry * self.key_width..(entry + 1) * self.key_width];
            // Sums in f32 are off by far less than a thousandth, unless they are infinite.
            if rough(key, query) > (limit_now * limit_now * 1.001 + 1e-9) as f32 {
                return limit_now;
            }
            let found = self.distance(entry, query);
            let is_nearer = best.is_none_or(|(other, nearest)| {
                // The older one of two at the same distance.
                found < nearest || (found == nearest && entry < other)
            });
            if found <= limit && is_nearer {
                best = Some((entry, found));
            }
            best.map_or(limit, |(_, nearest)| nearest)
        });
        best
    }

    fn distance(&self, entry: usize, query: &[f32]) -> f64 {
        let key = &self.keys[entry * self.key_width..(entry + 1) * self.key_width];
        let squares = key.iter().zip(query);
        let squares = squares.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// The structural step of an edit: afterwards the entry given is the nearest to the query, and holds it.
    /// A new entry has a value of zeros.
    pub fn place(
        &mut self,
        id: &str,
        query: &[f32],
        label: &[u32],
        radius: f64,
        moving_average: bool,
    ) -> Placed {
        let Some((nearest, distance)) = self.nearest(query) else {
            return self.added(id, query, label, radius, Operation::Added, None);
        };
        let found = &mut self.entries[nearest];
        if distance > radius + found.radius {
            return self.added(id, query, label, radius, Operation::Added, Some(distance));
        }
        if found.label != label && distance <= 2.0 * GAP {
            // There is no room between the two: the newer edit takes the entry over.
            found.id = id.to_owned();
            found.label = label.to_vec();
            return Placed {
                operation: Operation::Split,
                entry: nearest,
                distance: Some(distance),
            };
        }
        if found.label != label {
            let half = distance / 2.0;
            found.radius = (half - GAP).max(f64::MIN_POSITIVE);
            let half = half.max(f64::MIN_POSITIVE);
            return self.added(id, query, label, half, Operation::Split, Some(distance));
        }
        let operation = match distance > found.radius {
            true => Operation::Expanded,
            false => Operation::Inside,
        };
        if operation == Operation::Expanded {
            found.radius = distance;
            if moving_average {
                let width = self.key_width;
                let key = &mut self.keys[nearest * width..(nearest + 1) * width];
                for (key, query) in key.iter_mut().zip(query) {
                    *key = 0.5 * *key + 0.5 * query;
                }
                self.index.set(nearest, key);
            }
            self.measure_radii();
        }
        Placed {
            operation,
            entry: nearest,
            distance: Some(distance),
        }
    }

    fn added(
        &mut self,
        id: &str,
        query: &[f32],
        label: &[u32],
        radius: f64,
        operation: Operation,
        distance: Option<f64>,
    ) -> Placed {
        self.entries.push(Entry {
            id: id.to_owned(),
            radius,
            label: label.to_vec(),
        });
        self.keys.extend_from_slice(query);
        self.values
            .extend(std::iter::repeat_n(0.0, self.value_width));
        self.index.add(&self.keys, self.key_width);
        self.measure_radii();
        Placed {
            operation,
            entry: self.entries.len() - 1,
            distance,
        }
    }

    /// Takes the entry of an edit out.
    ///
    /// # Errors
    /// No entry of that id.
    pub fn delete(&mut self, id: &str) -> Result<()> {
        let Some(place) = self.entries.iter().position(|entry| entry.id == id) else {
            return Err(Error::Usage(format!(
                "the codebook has no entry of edit {id:?}; it may have gone into another edit's entry"
            )));
        };
        self.entries.remove(place);
        self.keys
            .drain(place * self.key_width..(place + 1) * self.key_width);
        self.values
            .drain(place * self.value_width..(place + 1) * self.value_width);
        self.index.remove(place);
        self.measure_radii();
        Ok(())
    }

    /// Takes the entries of another codebook in, one structural step after the other; values are kept as
    /// they were trained.
    ///
    /// # Errors
    /// A codebook of other widths.
    pub fn merge(&mut self, other: &Self, radius: f64) -> Result<()> {
        if self.widths() != other.widths() {
            return Err(Error::Usage(format!(
                "codebooks of widths {:?} and {:?} are of different layers and do not merge",
                self.widths(),
                other.widths()
            )));
        }
        for (place, entry) in other.entries.iter().enumerate() {
            let key = &other.keys[place * self.key_width..(place + 1) * self.key_width];
            let placed = self.place(&entry.id, key, &entry.label, radius, false);
            if matches!(placed.operation, Operation::Added | Operation::Split) {
                self.set_value(placed.entry, other.value(place));
            }
        }
        Ok(())
    }

    fn measure_radii(&mut self) {
        let radii = self.entries.iter().map(|entry| entry.radius);
        self.largest_radius = radii.fold(0.0, f64::max);
    }
}

/// The square of a distance, nearly.
#[inline(always)]
fn rough(a: &[f32], b: &[f32]) -> f32 {
    sum_of_pairs(a, b, |a, b| (a - b) * (a - b))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The worked stream of two-dimensional keys at a radius of 1.
    fn worked() -> (Codebook, Vec<(Operation, Option<f64>)>) {
        let stream: [([f32; 2], u32); 7] = [
            ([0.0, 0.0], 0),
            ([3.0, 0.0], 1),
            ([1.5, 0.0], 0),
            ([1.6, 0.0], 1),
            ([0.2, 0.1], 0),
            ([0.5, 0.0], 2),
            ([-2.0, 0.0], 0),
        ];
        let mut book = Codebook::new(2, 1);
        let mut found = Vec::new();
        for (number, (query, label)) in stream.iter().enumerate() {
            let placed = book.place(&number.to_string(), query, &[*label], 1.0, false);
            found.push((placed.operation, placed.distance));
            assert_eq!(book.nearest(query).unwrap().0, placed.entry);
        }
        (book, found)
    }

    #[test]
    fn the_worked_stream() {
        let (book, found) = worked();
        use Operation::{Added, Expanded, Inside, Split};
        let operations: Vec<Operation> = found.iter().map(|(operation, _)| *operation).collect();
        assert_eq!(
            operations,
            [Added, Added, Expanded, Expanded, Inside, Split, Added]
        );
        let expected = [
            None,
            Some(3.0),
            Some(1.5),
            Some(1.4),
            Some(0.2236),
            Some(0.5),
            Some(2.0),
        ];
        for ((_, found), expected) in found.iter().zip(expected) {
            assert_eq!(found.is_some(), expected.is_some());
            let gap = found.unwrap_or(0.0) - expected.unwrap_or(0.0);
            assert!(gap.abs() < 1e-4, "{found:?} {expected:?}");
        }
        let state: Vec<(u32, f64)> = book
            .entries()
            .iter()
            .map(|entry| (entry.label[0], entry.radius))
            .collect();
        let expected = [(0, 0.249_99), (1, 1.4), (2, 0.25), (0, 1.0)];
        for (found, expected) in state.iter().zip(expected) {
            assert!(
                found.0 == expected.0 && (found.1 - expected.1).abs() < 1e-6,
                "{state:?}"
            );
        }
        assert_eq!(book.hit(&[0.3, 0.0]), Some(2));
        assert_eq!(book.hit(&[0.249, 0.0]), Some(0));
        // The reach of an earlier expansion was lost to the split.
        assert_eq!(book.hit(&[1.5, 0.0]), None);
    }

    #[test]
    fn the_moving_average_draws_the_key_along() {
        let mut book = Codebook::new(1, 1);
        book.place("a", &[0.0], &[1], 1.0, true);
        let placed = book.place("b", &[1.5], &[1], 1.0, true);
        assert_eq!(placed.operation, Operation::Expanded);
        assert_eq!(book.keys(), [0.75]);
        assert_eq!(book.entries()[0].radius, 1.5);
    }

    #[test]
    fn another_target_at_the_same_key_takes_its_entry_over() {
        let mut book = Codebook::new(2, 1);
        book.place("a", &[1.0, 2.0], &[1], 1.0, false);
        let placed = book.place("b", &[1.0, 2.0], &[2], 1.0, false);
        assert_eq!(
            (placed.operation, placed.entry, book.len()),
            (Operation::Split, 0, 1)
        );
        let entry = &book.entries()[book.hit(&[1.5, 2.0]).unwrap()];
        assert_eq!((entry.id.as_str(), &entry.label[..]), ("b", &[2][..]));
    }

    #[test]
    fn deleting_and_merging() {
        let (mut book, _) = worked();
        assert!(
            book.delete("2")
                .unwrap_err()
                .to_string()
                .contains("another edit's entry")
        );
        let whole = book.clone();
        for id in ["0", "1", "5", "6"] {
            book.delete(id).unwrap();
        }
        assert!(book.is_empty() && book.hit(&[0.0, 0.0]).is_none());
        book.merge(&whole, 1.0).unwrap();
        assert_eq!(book.len(), 4);
        assert!(book.merge(&Codebook::new(3, 1), 1.0).is_err());
    }

    #[test]
    fn broken_parts_are_refused() {
        let entry = |radius: f64| Entry {
            id: "a".into(),
            radius,
            label: vec![1],
        };
        assert!(Codebook::from_parts([2, 1], vec![entry(1.0)], vec![0.0], vec![0.0]).is_err());
        assert!(Codebook::from_parts([1, 1], vec![entry(0.0)], vec![0.0], vec![0.0]).is_err());
        assert!(Codebook::from_parts([1, 1], vec![entry(1.0)], vec![f32::NAN], vec![0.0]).is_err());
        assert!(Codebook::from_parts([1, 1], vec![entry(1.0)], vec![0.0], vec![0.0]).is_ok());
    }
}
