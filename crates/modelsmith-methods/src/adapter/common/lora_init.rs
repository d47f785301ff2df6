//! With which values does a low-rank pair start?
//!
//! ```text
//! kaiming   A ~ U(±1/√in), B = 0            gaussian  A ~ N(0, 1/rank²), B = 0
//! embedding A = 0, B ~ N(0, 1)              random    A and B drawn, for tests
//! pissa     W ≈ U S Vᵀ: A = √(S/s) Vᵀ, B = U √(S/s)
//! olora     W = Q R:    A = R[..rank],  B = Q[.., ..rank]
//! ```
//!
//! Draws are keyed by the seed and the site's path, so no site's values depend on another's.

use super::factor::{truncated_qr, truncated_svd};
use super::low_rank::LowRank;
use super::pair::{Plan, Values, first_magnitude};
use super::weights::weight_of;
use crate::adapter::lora::{Init, LoraConfig};
use modelsmith_core::error::Result;
use modelsmith_core::host::Host;
use modelsmith_core::parameters::Flat;
use modelsmith_core::random::Stream;
use modelsmith_core::sites::SiteKind;

impl LoraConfig {
    pub(crate) fn first_values(&self, host: &dyn Host, plan: &Plan, seed: u64) -> Result<Values> {
        let start = self.start(host, plan)?;
        let device = host.device().without_autodiff();
        let (a, b) = match &start {
            Some(start) => (Flat::new(start.a.clone()), Flat::new(start.b.clone())),
            None => {
                let (a, b) = self.first_factors(plan, seed);
                (
                    Flat::from_vec(a, &plan.a_shape(), &device),
                    Flat::from_vec(b, &plan.b_shape(), &device),
                )
            }
        };
        let zeros = || Flat::from_vec(vec![0.0; plan.site.outputs], &[plan.site.outputs], &device);
        let bias = self.lora_bias.then(zeros);
        let mut values = Values {
            a,
            b,
            bias,
            magnitude: None,
            start,
        };
        if self.dora {
            values.magnitude = Some(first_magnitude(host, plan, &values)?);
        }
        Ok(values)
    }

    /// Random factors, drawn under the seed and the site's path.
    fn first_factors(&self, plan: &Plan, seed: u64) -> (Vec<f32>, Vec<f32>) {
        let count = |shape: &[usize]| shape.iter().product::<usize>();
        let (count_a, count_b) = (count(&plan.a_shape()), count(&plan.b_shape()));
        let stream = |factor: &str| Stream::new(seed, &format!("lora/{}/{factor}", plan.site.path));
        let uniform = |factor: &str, count: usize, inputs: usize| {
            let bound = 1.0 / (inputs as f32).sqrt();
            stream(factor).uniform(count, -bound, bound)
        };
        let normal = |factor, count, deviation| stream(factor).normal(count, 0.0, deviation);
        let (inputs_a, inputs_b) = (count_a / plan.rank, plan.rank / plan.groups());
        match (plan.site.kind, self.init) {
            (SiteKind::Embedding, Init::Random) => {
                (normal("A", count_a, 1.0), normal("B", count_b, 1.0))
            }
            (SiteKind::Embedding, _) => (vec![0.0; count_a], normal("B", count_b, 1.0)),
            (_, Init::Gaussian) => (
                normal("A", count_a, 1.0 / plan.rank as f32),
                vec![0.0; count_b],
            ),
            (_, Init::Random) => (
                uniform("A", count_a, inputs_a),
                uniform("B", count_b, inputs_b),
            ),
            _ => (uniform("A", count_a, inputs_a), vec![0.0; count_b]),
        }
    }

    /// The factors that PiSSA and OLoRA take out of a dense weight.
    pub(crate) fn start(&self, host: &dyn Host, plan: &Plan) -> Result<Option<LowRank>> {
        if plan.site.kind != SiteKind::Linear {
            return Ok(None);
        }
        let weight = || plan.as_matrix(&weight_of(host, &plan.site)?);
        let scale = plan.scale;
        Ok(match self.init {
            Init::Pissa => {
                let factors = truncated_svd(&weight()?, plan.rank, 0.5)?;
                let root = scale.abs().sqrt();
                Some(LowRank {
                    a: factors.right / root,
                    b: factors.left / root * scale.signum(),
                    scale,
                })
            }
            Init::Olora => {
                let factors = truncated_qr(&weight()?, plan.rank);
                Some(LowRank {
                    a: factors.right,
                    b: factors.left,
                    scale,
                })
            }
            _ => None,
        })
    }
}
