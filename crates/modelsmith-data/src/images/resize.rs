//! Bilinear resizing with the filter widened where a picture shrinks, as Pillow's `resize(.., BILINEAR)` does it.
//!
//! ```text
//! s = in / out,  f = max(s, 1),  c = (o + ½) s
//! weight of input i for output o:  max(0, 1 - |i + ½ - c| / f),  over their sum,  for |i + ½ - c| < f
//! ```
//!
//! Rows are resized first, then columns, each pass in fixed point and rounded to bytes: so the values are Pillow's own.

use super::picture::Picture;

/// Bits behind the point of a weight: a byte, the sum's sign and one spare bit stand in front of them.
const BITS: u32 = 32 - 8 - 2;

/// Values of a pixel.
const CHANNELS: usize = 3;

/// The inputs of one output value with their weights.
struct Window {
    first: usize,
    weights: Vec<i32>,
}

impl Picture {
    /// The picture at another size; `width` and `height` are at least 1.
    pub fn resized(&self, width: usize, height: usize) -> Self {
        let mut picture = self.clone();
        if width != picture.width {
            picture = picture.wide(width);
        }
        if height != picture.height {
            picture = picture.high(height);
        }
        picture
    }

    fn wide(&self, width: usize) -> Self {
        let windows = windows(self.width, width);
        let mut pixels = Vec::with_capacity(width * self.height * CHANNELS);
        for row in self.pixels.chunks_exact(self.width * CHANNELS) {
            for window in &windows {
                for channel in 0..CHANNELS {
                    pixels.push(window.sum(|at| row[at * CHANNELS + channel]));
                }
            }
        }
        Self {
            width,
            height: self.height,
            pixels,
        }
    }

    fn high(&self, height: usize) -> Self {
        let windows = windows(self.height, height);
        let length = self.width * CHANNELS;
        let mut pixels = Vec::with_capacity(length * height);
        for window in &windows {
            for at in 0..length {
                pixels.push(window.sum(|row| self.pixels[row * length + at]));
            }
        }
        Self {
            width: self.width,
            height,
            pixels,
        }
    }
}

impl Window {
    fn sum(&self, value: impl Fn(usize) -> u8) -> u8 {
        let half = 1 << (BITS - 1);
        let terms = self.weights.iter().enumerate();
        let sum = terms.fold(half, |sum, (at, weight)| {
            sum + weight * i32::from(value(self.first + at))
        });
        (sum >> BITS).clamp(0, 255) as u8
    }
}

/// The window of every output of an axis.
fn windows(inputs: usize, outputs: usize) -> Vec<Window> {
    let scale = inputs as f64 / outputs as f64;
    let reach = scale.max(1.0);
    let window = |output: usize| {
        let centre = (output as f64 + 0.5) * scale;
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(inputs);
        let weight = |at: usize| {
            let distance = (at as f64 - centre + 0.5) * (1.0 / reach);
            (1.0 - distance.abs()).max(0.0)
        };
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: &f64| (weight / sum * f64::from(1 << BITS) + 0.5) as i32;
        Window {
            first,
            weights: weights.iter().map(fixed).collect(),
        }
    };
    (0..outputs).map(window).collect()
}
