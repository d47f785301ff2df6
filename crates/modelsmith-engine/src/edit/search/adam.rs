//! Adam on a few short vectors (Kingma and Ba, arXiv 1412.6980), with PyTorch's defaults.

/// A vector under Adam.
#[derive(Clone, Debug)]
pub(super) struct Adam {
    pub(super) value: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: i32,
}

impl Adam {
    /// Zeros.
    pub(super) fn new(width: usize) -> Self {
        Self {
            value: vec![0.0; width],
            first: vec![0.0; width],
            second: vec![0.0; width],
            steps: 0,
        }
    }

    /// A step against `gradient`.
    pub(super) fn step(&mut self, gradient: &[f32], learning_rate: f64) {
        const B1: f64 = 0.9;
        const B2: f64 = 0.999;
        // Taken from 1 in f32, the second rate would be off in its fifth digit.
        let (b1, b2) = (B1 as f32, B2 as f32);
        let (new1, new2) = ((1.0 - B1) as f32, (1.0 - B2) as f32);
        self.steps += 1;
        let correct = |beta: f64| 1.0 - beta.powi(self.steps);
        let rate = (learning_rate / correct(B1)) as f32;
        let root = correct(B2).sqrt() as f32;
        for (place, g) in gradient.iter().enumerate() {
            let (m, v) = (&mut self.first[place], &mut self.second[place]);
            *m = b1 * *m + new1 * g;
            *v = b2 * *v + new2 * g * g;
            self.value[place] -= rate * *m / (v.sqrt() / root + 1e-8);
        }
    }

    /// Euclidean length.
    pub(super) fn length(&self) -> f64 {
        length(&self.value)
    }

    /// Shortens the vector to `limit` where it is longer.
    pub(super) fn clamp(&mut self, limit: f64) {
        let length = self.length();
        if length > limit {
            let scale = (limit / length) as f32;
            self.value.iter_mut().for_each(|value| *value *= scale);
        }
    }
}

/// Euclidean length of a vector.
pub(super) fn length(values: &[f32]) -> f64 {
    let squares = values.iter().map(|value| f64::from(*value).powi(2));
    squares.sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_steps_go_by_the_learning_rate() {
        let mut vector = Adam::new(2);
        vector.step(&[3.0, -0.1], 0.5);
        assert!((vector.value[0] + 0.5).abs() < 1e-6 && (vector.value[1] - 0.5).abs() < 1e-6);
        vector.clamp(0.1);
        assert!((vector.length() - 0.1).abs() < 1e-7);
        vector.clamp(1.0);
        assert!((vector.length() - 0.1).abs() < 1e-7);
    }
}
