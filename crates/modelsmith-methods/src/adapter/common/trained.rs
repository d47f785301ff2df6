//! What is an adapter that consists of trained weights alone? Copies in use instead of the
//! host's, and the options they were chosen by.

use super::copies::Copies;
use super::peft::{describe, sorted};
use super::weights::separated;
use burn::module::Module;
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::Result;
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::parameters::Flat;
use modelsmith_core::roles::{Adapter, AdapterFiles};
use modelsmith_core::sites::Site;
use serde_json::{Map, Value};

/// Trained weights in use instead of the host's. A scale between 0 and 1 uses weights on the line
/// between the two.
#[derive(Module, Debug)]
pub(crate) struct Trained {
    copies: Copies,
    #[module(skip)]
    peft_type: String,
    #[module(skip)]
    options: Map<String, Value>,
}

impl Trained {
    /// Copies chosen by `options`, which are saved with them under `peft_type`.
    pub(crate) fn new(copies: Copies, peft_type: &str, options: Value) -> Self {
        let options = match options {
            Value::Object(options) => options,
            _ => Map::new(),
        };
        Self {
            copies,
            peft_type: peft_type.to_owned(),
            options,
        }
    }
}

impl Adapter for Trained {
    fn hooks(&self) -> &dyn Hooks {
        self
    }

    fn files(&self, host: &dyn Host) -> Result<AdapterFiles> {
        let mut config = describe(host.info(), &self.peft_type);
        config.extend(self.options.clone());
        Ok(AdapterFiles {
            config: sorted(config),
            tensors: self.copies.tensors().collect(),
        })
    }

    fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        match self.copies.merged(host, name)? {
            Some(weight) => Ok(Some(weight)),
            None => separated(host, name, &|site| self.copies.has_weight(site)),
        }
    }

    fn sites(&self) -> Vec<&Site> {
        self.copies.sites().collect()
    }

    fn boxed(&self) -> Box<dyn Adapter> {
        Box::new(self.clone())
    }

    fn set_scale(&mut self, scale: f64) -> Result<()> {
        self.copies.set_effect(scale);
        Ok(())
    }
}

impl Hooks for Trained {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        self.copies.embedding(call, ids)
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.copies.linear(call, x)
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        self.copies.conv(call, x)
    }

    fn acts_at(&self, site: &Site) -> bool {
        self.copies.acts_at(site)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        self.copies.after_linear(call, x, y)
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.copies.norm(call, x)
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        self.copies.head_weight(site, layer, weight)
    }
}
