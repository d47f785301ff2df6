//! Fine-tuning of one MLP matrix on the facts alone, the baseline of editing (Zhu et al., arXiv 2012.00363):
//! Adam until the facts are known, unconstrained (FT), with every entry kept near where it began (FT-L), or by a
//! change of low rank (Hu et al., arXiv 2106.09685).

use super::{Edit, Layers, Way};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::method::{Card, Family, Method};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::borrow::Cow;

/// What the engine needs of a fine-tuning editor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct FineTune {
    /// The block whose MLP is edited, as a list of one; empty for one about a third of the way up.
    pub layers: Layers,
    /// Steps of Adam at most.
    pub steps: usize,
    /// Learning rate of Adam.
    pub learning_rate: f64,
    /// Stops at a loss below this.
    pub loss_stop: f64,
    /// How far an entry may move from where this batch found it; 0 for any distance.
    pub clamp: f64,
    /// Rank of the change, which is `alpha / rank · B A`; 0 for a change of any rank.
    pub rank: usize,
    /// Scale of a change of low rank.
    pub alpha: f64,
    /// How strongly entries that earlier facts depend on stay where they are; 0 for not at all. The loss gets
    /// `elastic · Σ F (w - w₀)²`, `F` being the mean squared gradient of the log-likelihood of the last
    /// `elastic_facts` (elastic weight consolidation, Kirkpatrick et al., arXiv 1612.00796).
    pub elastic: f64,
    /// Earlier facts that this dependence is taken from, the last ones.
    pub elastic_facts: usize,
    /// After so many facts all facts so far are trained on again; 0 for never.
    pub retrain_every: usize,
    /// Passes over all facts then, in batches of ten.
    pub retrain_passes: usize,
}

impl Default for FineTune {
    fn default() -> Self {
        Self {
            layers: Layers::default(),
            steps: 25,
            learning_rate: 5e-4,
            loss_stop: 0.01,
            clamp: 0.0,
            rank: 0,
            alpha: 32.0,
            elastic: 0.0,
            elastic_facts: 10,
            retrain_every: 0,
            retrain_passes: 5,
        }
    }
}

impl FineTune {
    /// Whether earlier facts matter to a batch.
    pub fn looks_back(&self) -> bool {
        self.elastic > 0.0 || self.retrain_every > 0
    }

    fn check(&self) -> Result<()> {
        let wrong = |key: &str, found: f64, expected: &str| {
            let problem = format!("is {found}; must be {expected}");
            Err(Error::config(format!("method.{key}"), problem))
        };
        if self.layers.0.len() > 1 {
            let problem = format!("is {:?}; name one block", self.layers.0);
            return Err(Error::config("method.layers", problem));
        }
        if self.steps == 0 {
            return wrong("steps", 0.0, "at least 1");
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return wrong("learning_rate", self.learning_rate, "a number above 0");
        }
        let others = [
            ("loss_stop", self.loss_stop),
            ("clamp", self.clamp),
            ("alpha", self.alpha),
            ("elastic", self.elastic),
        ];
        for (key, value) in others {
            if !(value.is_finite() && value >= 0.0) {
                return wrong(key, value, "0 or a number above it");
            }
        }
        if self.rank > 0 && self.clamp > 0.0 {
            return wrong("clamp", self.clamp, "0 for a change of low rank");
        }
        if self.rank > 0 && self.elastic > 0.0 {
            return wrong("elastic", self.elastic, "0 for a change of low rank");
        }
        if self.elastic > 0.0 && self.elastic_facts == 0 {
            return wrong("elastic_facts", 0.0, "at least 1");
        }
        if self.retrain_every > 0 && self.retrain_passes == 0 {
            return wrong("retrain_passes", 0.0, "at least 1");
        }
        Ok(())
    }
}

macro_rules! fine_tuning {
    ($(#[$doc:meta])* $name:ident, $options:expr, $card:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub FineTune);

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                FineTune::schema_name()
            }

            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                FineTune::json_schema(generator)
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self($options)
            }
        }

        impl Method for $name {
            const CARD: Card = $card;
        }

        impl Edit for $name {
            fn way(&self) -> Way<'_> {
                Way::FineTune(&self.0)
            }

            fn check(&self) -> Result<()> {
                self.0.check()
            }

            fn options(&self) -> Value {
                serde_json::to_value(self).unwrap_or(Value::Null)
            }
        }
    };
}

fine_tuning!(
    /// Options of FT.
    Ft,
    FineTune::default(),
    Card {
        id: "ft",
        number: None,
        title: "FT",
        family: Family::Edit,
        paper: "Zhu et al. 2020, arXiv 2012.00363",
        summary: "Fine-tunes one MLP matrix on the facts until they are known.",
    }
);

fine_tuning!(
    /// Options of FT-L.
    FtL,
    FineTune { clamp: 5e-4, ..FineTune::default() },
    Card {
        id: "ft_l",
        number: None,
        title: "FT-L",
        family: Family::Edit,
        paper: "Zhu et al. 2020, arXiv 2012.00363",
        summary: "FT with every entry kept within a small distance of where it began.",
    }
);

fine_tuning!(
    /// Options of FT with elastic weights.
    FtEwc,
    FineTune { elastic: 0.1, ..FineTune::default() },
    Card {
        id: "ft_ewc",
        number: None,
        title: "FT+EWC",
        family: Family::Edit,
        paper: "Kirkpatrick et al. 2017, arXiv 1612.00796",
        summary: "FT that keeps the entries that the last facts depend on near where they are.",
    }
);

fine_tuning!(
    /// Options of FT with rehearsal.
    FtRetrain,
    FineTune { retrain_every: 50, ..FineTune::default() },
    Card {
        id: "ft_retrain",
        number: None,
        title: "FT+Retrain",
        family: Family::Edit,
        paper: "Hartvigsen et al. 2023, arXiv 2211.11031",
        summary: "FT that trains on all facts so far again from time to time.",
    }
);

fine_tuning!(
    /// Options of fine-tuning by a change of low rank.
    LoraEdit,
    FineTune {
        steps: 70,
        learning_rate: 5e-3,
        rank: 8,
        ..FineTune::default()
    },
    Card {
        id: "lora_edit",
        number: None,
        title: "LoRA as an editor",
        family: Family::Edit,
        paper: "Hu et al. 2021, arXiv 2106.09685",
        summary: "Fine-tunes a low-rank change of one MLP matrix on the facts until they are known.",
    }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_named() {
        let ft = Ft(FineTune {
            steps: 0,
            ..FineTune::default()
        });
        let error = ft.check().unwrap_err().to_string();
        assert_eq!(error, "method.steps: is 0; must be at least 1");
        assert!(FtL::default().check().is_ok());
        assert_eq!(FtL::default().0.clamp, 5e-4);
        assert!(FtEwc::default().0.looks_back() && FtRetrain::default().0.looks_back());
        assert!(!Ft::default().0.looks_back());
        for (options, expected) in [
            (
                FineTune {
                    rank: 2,
                    elastic: 0.1,
                    ..FineTune::default()
                },
                "method.elastic: is 0.1; must be 0 for a change of low rank",
            ),
            (
                FineTune {
                    retrain_every: 3,
                    retrain_passes: 0,
                    ..FineTune::default()
                },
                "method.retrain_passes: is 0; must be at least 1",
            ),
        ] {
            assert_eq!(Ft(options).check().unwrap_err().to_string(), expected);
        }
    }
}
