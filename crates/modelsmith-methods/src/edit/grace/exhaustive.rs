//! Look-ups are those of a search through all keys, to the bit, however the codebook came about.

use super::codebook::{Codebook, Entry};
use modelsmith_core::random::Stream;

/// The nearest entry, the older one of two at the same distance, by looking at all.
fn nearest(book: &Codebook, query: &[f32]) -> Option<(usize, f64)> {
    let distance = |key: &[f32]| {
        let pairs = key.iter().zip(query);
        let squares = pairs.map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        squares.sum::<f64>().sqrt()
    };
    let all = book.keys().chunks_exact(book.widths()[0]).map(distance);
    let numbers = all.enumerate().filter(|(_, distance)| !distance.is_nan());
    numbers.min_by(|a, b| a.1.total_cmp(&b.1))
}

fn check(book: &Codebook, query: &[f32]) {
    let found = nearest(book, query);
    assert_eq!(book.nearest(query), found);
    let hit = found.filter(|(entry, distance)| *distance <= book.entries()[*entry].radius);
    assert_eq!(book.hit(query), hit.map(|(entry, _)| entry), "{found:?}");
}

/// Queries at keys, near them, at the edge of a radius, and anywhere.
fn check_around(book: &Codebook, stream: &mut Stream) {
    let width = book.widths()[0];
    for number in 0..60 {
        let mut query = stream.normal(width, 0.0, 1.0);
        if !book.is_empty() && number % 4 > 0 {
            let entry = stream.below(book.len());
            let length = query.iter().map(|value| value * value).sum::<f32>().sqrt();
            let radius = book.entries()[entry].radius as f32;
            let step = [0.0, radius / length, 0.01][number % 4 - 1];
            let key = &book.keys()[entry * width..(entry + 1) * width];
            let pairs = query.iter_mut().zip(key);
            pairs.for_each(|(query, key)| *query = key + *query * step);
        }
        check(book, &query);
    }
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e30, 1e-30] {
        check(book, &vec![odd; width]);
        let mut query = vec![0.0; width];
        query[width / 2] = odd;
        check(book, &query);
    }
}

/// Keys at random, in crowds, on a line, all but equal, equal, and very large or small.
fn keys(kind: usize, count: usize, width: usize, stream: &mut Stream) -> Vec<f32> {
    let centres = stream.normal(3 * width, 0.0, 5.0);
    let scale = [1.0, 0.1, 0.0, 1e-6, 0.0, 1e18, 1e-18][kind];
    let mut keys = Vec::new();
    for number in 0..count {
        let centre = &centres[number % 3 * width..][..width];
        let own = stream.normal(width, 0.0, scale);
        let pairs = own.iter().zip(centre);
        keys.extend(pairs.map(|(own, centre)| match kind {
            0 | 5 | 6 => *own,
            2 => centres[0] * number as f32,
            _ => own + centre,
        }));
    }
    keys
}

#[test]
fn loaded_codebooks_of_any_keys() {
    let mut stream = Stream::new(3, "grace");
    for (kind, count) in (0..7).flat_map(|kind| [1, 2, 15, 16, 17, 300].map(|count| (kind, count)))
    {
        let width = [1, 3, 16, 40][(kind + count) % 4];
        let keys = keys(kind, count, width, &mut stream);
        let entry = |number: usize| Entry {
            id: number.to_string(),
            radius: [f64::MIN_POSITIVE, 0.3, 1.0, 5.0][number % 4],
            label: vec![0],
        };
        let entries = (0..count).map(entry).collect();
        let book = Codebook::from_parts([width, 1], entries, keys, vec![0.0; count]).unwrap();
        check_around(&book, &mut stream);
    }
}

#[test]
fn codebooks_that_grow_move_and_shrink() {
    let mut stream = Stream::new(4, "grace");
    for (kind, moving_average) in [(0, false), (0, true), (1, true), (4, false)] {
        let width = 20;
        let mut book = Codebook::new(width, 1);
        check_around(&book, &mut stream);
        let all = keys(kind, 120, width, &mut stream);
        for (number, key) in all.chunks_exact(width).enumerate() {
            let label = [number as u32 % 2];
            book.place(&number.to_string(), key, &label, 1.5, moving_average);
            if number % 20 == 0 {
                check_around(&book, &mut stream);
            }
        }
        while !book.is_empty() {
            let id = book.entries()[stream.below(book.len())].id.clone();
            book.delete(&id).unwrap();
            if book.len() % 10 < 2 {
                check_around(&book, &mut stream);
            }
        }
        book.place("again", &all[..width], &[0], 1.0, false);
        check_around(&book, &mut stream);
    }
}
