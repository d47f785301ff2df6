//! Adam on plain numbers, for a head that is trained on features alone (Kingma and Ba, algorithm 1).

const BETA: [f64; 2] = [0.9, 0.999];
const EPSILON: f64 = 1e-8;

/// The state of the optimizer.
pub(super) struct Adam {
    learning_rate: f64,
    step: i32,
    moments: Vec<[f64; 2]>,
}

impl Adam {
    pub(super) fn new(learning_rate: f64, count: usize) -> Self {
        Self {
            learning_rate,
            step: 0,
            moments: vec![[0.0; 2]; count],
        }
    }

    /// Moves the parameters against their gradients.
    pub(super) fn step(&mut self, parameters: &mut [f64], gradients: &[f64]) {
        self.step += 1;
        let corrected = BETA.map(|beta| 1.0 - beta.powi(self.step));
        let all = parameters.iter_mut().zip(gradients).zip(&mut self.moments);
        for ((parameter, gradient), [mean, square]) in all {
            *mean = BETA[0] * *mean + (1.0 - BETA[0]) * gradient;
            *square = BETA[1] * *square + (1.0 - BETA[1]) * gradient * gradient;
            let root = (*square / corrected[1]).sqrt() + EPSILON;
            *parameter -= self.learning_rate * (*mean / corrected[0]) / root;
        }
    }
}
