//! How far training moved the host's effective weights, site by site: `‖W' − W‖` over the weights
//! of each module, whatever the method, since an adapter tells what each weight becomes.

use modelsmith_core::error::Result;
use modelsmith_core::host::Host;
use modelsmith_core::roles::Adapter;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The change at one module of the host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SiteChange {
    /// Module path, for instance `model.layers.3.self_attn.q_proj`.
    pub path: String,
    /// Frobenius norm of the change of its weights.
    pub change: f64,
    /// Frobenius norm of its weights before.
    pub base: f64,
}

/// The changed modules in the host's order.
///
/// # Errors
/// An adapter that is no change of weights.
pub fn measure(host: &dyn Host, adapter: &dyn Adapter) -> Result<Vec<SiteChange>> {
    let mut order: Vec<String> = Vec::new();
    let mut squares: BTreeMap<String, (f64, f64)> = BTreeMap::new();
    for name in host.weight_names() {
        let Some(new) = adapter.merged(host, &name)? else {
            continue;
        };
        let Some(old) = host.weight(&name) else {
            continue;
        };
        let module = name
            .rsplit_once('.')
            .map_or(name.as_str(), |(module, _)| module);
        let sums = squares.entry(module.to_owned()).or_insert_with(|| {
            order.push(module.to_owned());
            (0.0, 0.0)
        });
        for (old, new) in old.to_vec().into_iter().zip(new.to_vec()) {
            sums.0 += f64::from(new - old).powi(2);
            sums.1 += f64::from(old).powi(2);
        }
    }
    let found = order.into_iter().map(|path| {
        let (change, base) = squares[&path];
        SiteChange {
            path,
            change: change.sqrt(),
            base: base.sqrt(),
        }
    });
    Ok(found.collect())
}
