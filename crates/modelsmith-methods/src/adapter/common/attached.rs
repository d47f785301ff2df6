//! What is an adapter with one trained state at each of its dense layers? The sites, the weights trained in full
//! beside them, and how both come into the host's passes and weights.

use super::copies::Copies;
use super::weights::{separated, weight_of};
use burn::module::Module;
use burn::tensor::{Int, Tensor};
use modelsmith_core::error::{Error, Result};
use modelsmith_core::hooks::{ConvCall, EmbeddingCall, Hooks, LinearCall, NormCall, Pass};
use modelsmith_core::host::Host;
use modelsmith_core::layers::Linear;
use modelsmith_core::parameters::Flat;
use modelsmith_core::sites::Site;

/// The state at one dense layer.
pub(crate) trait AtSite: Module + Sync {
    /// Where.
    fn site(&self) -> &Site;

    /// Around the layer, `[batch, time, in]` to `[batch, time, out]`; the rest of the onion is
    /// `copies.linear`, `effect` is not 0. Where [`AtSite::after`] says all, this need not.
    fn linear(
        &self,
        call: LinearCall<'_>,
        effect: f64,
        copies: &Copies,
        x: Tensor<3>,
    ) -> Tensor<3> {
        let pass = call.pass;
        let y = copies.linear(call, x.clone());
        self.after(pass, effect, &x, y.clone()).unwrap_or(y)
    }

    /// What the layer gives for `x` `[batch, time, in]` with this, where it gives `y` without;
    /// `None` where this changes what the layer reads.
    fn after(&self, pass: &Pass, effect: f64, x: &Tensor<3>, y: Tensor<3>) -> Option<Tensor<3>> {
        let _ = (pass, effect, x, y);
        None
    }

    /// The layer's weight as stored with this folded in (`sign` 1) or taken out again (−1).
    ///
    /// # Errors
    /// A state that is no change of weights, as by default.
    fn fold(&self, weight: &Flat, effect: f64, sign: f64) -> Result<Flat> {
        let _ = (weight, effect, sign);
        let path = &self.site().path;
        Err(Error::Usage(format!(
            "the adapter at {path} cannot be merged"
        )))
    }

    /// The layer's bias `[out]`, likewise; `None` where it stays.
    ///
    /// # Errors
    /// As [`AtSite::fold`].
    fn fold_bias(&self, bias: &Flat, effect: f64, sign: f64) -> Result<Option<Flat>> {
        let _ = (bias, effect, sign);
        Ok(None)
    }
}

/// States by site, and copies beside them.
#[derive(Module, Debug)]
pub(crate) struct Attached<S: AtSite> {
    /// By [`modelsmith_core::sites::SiteId`].
    sites: Vec<Option<S>>,
    copies: Copies,
    #[module(skip)]
    effect: f64,
}

impl<S: AtSite> Attached<S> {
    /// `states` at their sites of `host`.
    pub(crate) fn new(host: &dyn Host, states: Vec<S>, copies: Copies) -> Self {
        let mut sites = vec![None; host.sites().len()];
        for state in states {
            let at = state.site().id.0;
            sites[at] = Some(state);
        }
        Self {
            sites,
            copies,
            effect: 1.0,
        }
    }

    /// All states in the order of the sites.
    pub(crate) fn states(&self) -> impl Iterator<Item = &S> {
        self.sites.iter().flatten()
    }

    /// The same, to be changed.
    pub(crate) fn states_mut(&mut self) -> impl Iterator<Item = &mut S> {
        self.sites.iter_mut().flatten()
    }

    /// What is trained in full beside the states.
    pub(crate) fn copies(&self) -> &Copies {
        &self.copies
    }

    /// See [`modelsmith_core::roles::Adapter::set_scale`].
    pub(crate) fn set_scale(&mut self, scale: f64) {
        self.effect = scale;
        self.copies.set_effect(if scale == 0.0 { 0.0 } else { 1.0 });
    }

    /// See [`modelsmith_core::roles::Adapter::sites`].
    pub(crate) fn sites(&self) -> Vec<&Site> {
        let beside = self.copies.sites();
        let beside = beside.filter(|site| self.sites[site.id.0].is_none());
        self.states().map(S::site).chain(beside).collect()
    }

    /// See [`modelsmith_core::roles::Adapter::merged`].
    pub(crate) fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        if let Some(folded) = self.folded(host, name, 1.0)? {
            return Ok(Some(folded));
        }
        if let Some(copy) = self.copies.merged(host, name)? {
            return Ok(Some(copy));
        }
        separated(host, name, &|site| {
            self.sites[site.0].is_some() || self.copies.has_weight(site)
        })
    }

    /// See [`modelsmith_core::roles::Adapter::unmerged`].
    pub(crate) fn unmerged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
        self.copies.refuse_unmerging(name)?;
        self.folded(host, name, -1.0)
    }

    fn folded(&self, host: &dyn Host, name: &str, sign: f64) -> Result<Option<Flat>> {
        let Some((path, part)) = name.rsplit_once('.') else {
            return Ok(None);
        };
        let Some(state) = self.states().find(|state| state.site().path == path) else {
            return Ok(None);
        };
        match part {
            "weight" => {
                let weight = weight_of(host, state.site())?;
                match self.effect == 0.0 {
                    true => Ok(Some(weight)),
                    false => state.fold(&weight, self.effect, sign).map(Some),
                }
            }
            "bias" if self.effect != 0.0 => {
                let copy = self.copies.merged(host, name)?;
                match copy.or_else(|| host.weight(name)) {
                    Some(bias) => state.fold_bias(&bias, self.effect, sign),
                    None => Ok(None),
                }
            }
            _ => Ok(None),
        }
    }

    fn at(&self, site: &Site) -> Option<&S> {
        let found = self.sites.get(site.id.0)?.as_ref();
        found.filter(|_| self.effect != 0.0)
    }
}

impl<S: AtSite> Hooks for Attached<S> {
    fn embedding(&self, call: EmbeddingCall<'_>, ids: Tensor<2, Int>) -> Tensor<3> {
        self.copies.embedding(call, ids)
    }

    fn linear(&self, call: LinearCall<'_>, x: Tensor<3>) -> Tensor<3> {
        match self.at(call.site) {
            Some(state) => state.linear(call, self.effect, &self.copies, x),
            None => self.copies.linear(call, x),
        }
    }

    fn acts_at(&self, site: &Site) -> bool {
        self.at(site).is_some() || self.copies.acts_at(site)
    }

    fn after_linear(
        &self,
        call: &LinearCall<'_>,
        x: &Tensor<3>,
        y: Tensor<3>,
    ) -> Option<Tensor<3>> {
        let y = self.copies.after_linear(call, x, y)?;
        match self.at(call.site) {
            Some(state) => state.after(call.pass, self.effect, x, y),
            None => Some(y),
        }
    }

    fn conv(&self, call: ConvCall<'_>, x: Tensor<4>) -> Tensor<4> {
        self.copies.conv(call, x)
    }

    fn norm(&self, call: NormCall<'_>, x: Tensor<3>) -> Tensor<3> {
        self.copies.norm(call, x)
    }

    fn head_weight(&self, site: &Site, layer: &Linear, weight: Tensor<2>) -> Option<Tensor<2>> {
        match self.at(site) {
            Some(_) => None,
            None => self.copies.head_weight(site, layer, weight),
        }
    }
}

/// The parts of [`modelsmith_core::roles::Adapter`] that an adapter with a field `attached` hands on;
/// `cannot_merge` is the reason of one that is no change of weights.
macro_rules! attached {
    () => {
        $crate::adapter::common::attached::attached!(@always);

        fn merged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
            self.attached.merged(host, name)
        }

        fn unmerged(&self, host: &dyn Host, name: &str) -> Result<Option<Flat>> {
            self.attached.unmerged(host, name)
        }
    };
    (cannot_merge: $reason:expr) => {
        $crate::adapter::common::attached::attached!(@always);

        fn is_mergeable(&self) -> bool {
            false
        }

        fn merged(&self, _host: &dyn Host, _name: &str) -> Result<Option<Flat>> {
            Err(Error::Usage(
                concat!($reason, " and cannot be merged; keep it as an adapter").into(),
            ))
        }
    };
    (@always) => {
        fn hooks(&self) -> &dyn Hooks {
            &self.attached
        }

        fn sites(&self) -> Vec<&Site> {
            self.attached.sites()
        }

        fn boxed(&self) -> Box<dyn Adapter> {
            Box::new(self.clone())
        }

        fn set_scale(&mut self, scale: f64) -> Result<()> {
            self.attached.set_scale(scale);
            Ok(())
        }
    };
}
pub(crate) use attached;
