//! The merge methods as data: names, parameters with their defaults, what they need.

use modelsmith_core::Result;
use modelsmith_core::error::{Error, suggest};
use modelsmith_core::method::{Card, Family};
use std::collections::BTreeSet;

/// A merge method.
#[derive(Clone, Copy, Debug)]
pub struct MergeMethod {
    /// What it is; the id is its `merge_method`.
    pub card: Card,
    /// How it computes.
    pub rule: Rule,
    /// What a base is to it.
    pub base: Base,
    /// Fewest inputs that are not the base.
    pub fewest: usize,
    /// Most inputs that are not the base.
    pub most: usize,
    /// Its parameters.
    pub parameters: &'static [Parameter],
}

/// How a method computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Weighted sum of the models.
    Linear,
    /// One model as it is.
    Passthrough,
    /// Weighted sum of masked task vectors.
    Consensus {
        /// What is kept of a task vector.
        mask: Mask,
        /// Whether a sign is elected for every entry.
        elect: bool,
    },
    /// On the arc between base and model.
    Slerp,
    /// On the arc between two models or their task vectors.
    NuSlerp,
    /// Along the mean tangent at the mean direction.
    MultiSlerp,
    /// Karcher mean of directions.
    Karcher,
    /// Towards the base by the angle between the task vectors.
    ModelStock,
}

/// What is kept of a task vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mask {
    /// Everything.
    None,
    /// The largest entries.
    Magnitude,
    /// Random entries.
    Random,
    /// Random entries, larger ones more often.
    MagPrune,
    /// The largest entries but the very largest.
    Outliers,
}

/// What a base is to a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    /// It has to be named.
    Needed,
    /// Task vectors are taken where it is named.
    Possible,
    /// It says only where names, configuration and tokenizer come from.
    Unused,
}

/// A parameter of a method.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its name in configurations.
    pub name: &'static str,
    /// Its value where none is given; `None` where one has to be.
    pub default: Option<f64>,
    /// Whether it is a flag (0 or 1).
    pub flag: bool,
    /// To what it belongs.
    pub scope: Scope,
    /// What it does.
    pub about: &'static str,
}

/// To what a parameter belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// To each model.
    Model,
    /// To the tensor.
    Tensor,
}

const fn of_model(name: &'static str, default: Option<f64>, about: &'static str) -> Parameter {
    Parameter {
        name,
        default,
        flag: false,
        scope: Scope::Model,
        about,
    }
}

const fn of_tensor(name: &'static str, default: f64, about: &'static str) -> Parameter {
    Parameter {
        name,
        default: Some(default),
        flag: false,
        scope: Scope::Tensor,
        about,
    }
}

const fn flag(name: &'static str, default: bool, about: &'static str) -> Parameter {
    Parameter {
        flag: true,
        ..of_tensor(name, default as u8 as f64, about)
    }
}

const WEIGHT: Parameter = of_model("weight", None, "what the model counts");
const DENSITY: Parameter = of_model("density", Some(1.0), "part of the task vector that is kept");
const EPSILON: Parameter = of_model(
    "epsilon",
    Some(0.15),
    "half the width of the window of probabilities around density",
);
const GAMMA: Parameter = of_model(
    "gamma",
    Some(0.01),
    "part of the largest entries that is dropped",
);
const LAMBDA: Parameter = of_tensor("lambda", 1.0, "factor of the merged task vector");
const INT8_MASK: Parameter = flag(
    "int8_mask",
    false,
    "accepted, and changes nothing: masks take no memory here",
);

const fn normalize(default: bool) -> Parameter {
    flag("normalize", default, "divide by the sum of the weights")
}

const fn rescale(default: bool) -> Parameter {
    flag(
        "rescale",
        default,
        "give masked task vectors their L1 norm back",
    )
}

const NORMALIZE_WEIGHTS: Parameter = flag("normalize_weights", true, "let the weights sum to 1");

const fn card(
    id: &'static str,
    title: &'static str,
    paper: &'static str,
    summary: &'static str,
) -> Card {
    Card {
        id,
        number: None,
        title,
        family: Family::Delta,
        paper,
        summary,
    }
}

const fn consensus(
    card: Card,
    mask: Mask,
    elect: bool,
    parameters: &'static [Parameter],
) -> MergeMethod {
    MergeMethod {
        card,
        rule: Rule::Consensus { mask, elect },
        base: Base::Needed,
        fewest: 1,
        most: usize::MAX,
        parameters,
    }
}

const fn method(
    card: Card,
    rule: Rule,
    base: Base,
    fewest: usize,
    most: usize,
    parameters: &'static [Parameter],
) -> MergeMethod {
    MergeMethod {
        card,
        rule,
        base,
        fewest,
        most,
        parameters,
    }
}

const DARE: &[Parameter] = &[
    WEIGHT,
    DENSITY,
    LAMBDA,
    normalize(false),
    rescale(true),
    INT8_MASK,
];
const BREADCRUMBS: &[Parameter] = &[
    WEIGHT,
    DENSITY,
    GAMMA,
    LAMBDA,
    normalize(false),
    rescale(false),
    INT8_MASK,
];

/// All merge methods, in the order of listings.
pub const TABLE: &[MergeMethod] = &[
    method(
        card(
            "linear",
            "Linear merge",
            "Wortsman et al. 2022, Model soups",
            "Weighted mean of checkpoints",
        ),
        Rule::Linear,
        Base::Unused,
        1,
        usize::MAX,
        &[WEIGHT, normalize(true)],
    ),
    consensus(
        card(
            "task_arithmetic",
            "Task arithmetic",
            "Ilharco et al. 2023, Editing Models with Task Arithmetic",
            "Base plus weighted differences from it",
        ),
        Mask::None,
        false,
        &[WEIGHT, LAMBDA, normalize(false), INT8_MASK],
    ),
    consensus(
        card(
            "ties",
            "TIES merge",
            "Yadav et al. 2023, TIES-Merging",
            "Largest entries of each difference, where their signs agree",
        ),
        Mask::Magnitude,
        true,
        &[
            WEIGHT,
            DENSITY,
            LAMBDA,
            normalize(true),
            rescale(false),
            INT8_MASK,
        ],
    ),
    consensus(
        card(
            "dare_linear",
            "DARE merge",
            "Yu et al. 2024, Language Models are Super Mario",
            "Random entries of each difference, rescaled",
        ),
        Mask::Random,
        false,
        DARE,
    ),
    consensus(
        card(
            "dare_ties",
            "DARE merge with elected signs",
            "Yu et al. 2024, Language Models are Super Mario",
            "Random entries of each difference, where their signs agree",
        ),
        Mask::Random,
        true,
        DARE,
    ),
    consensus(
        card(
            "della",
            "DELLA merge",
            "Deep et al. 2024, DELLA-Merging",
            "Random entries, large ones more often, where their signs agree",
        ),
        Mask::MagPrune,
        true,
        &[
            WEIGHT,
            DENSITY,
            EPSILON,
            LAMBDA,
            normalize(true),
            rescale(true),
            INT8_MASK,
        ],
    ),
    consensus(
        card(
            "della_linear",
            "DELLA merge without signs",
            "Deep et al. 2024, DELLA-Merging",
            "Random entries of each difference, large ones more often",
        ),
        Mask::MagPrune,
        false,
        &[
            WEIGHT,
            DENSITY,
            EPSILON,
            LAMBDA,
            normalize(false),
            rescale(true),
            INT8_MASK,
        ],
    ),
    consensus(
        card(
            "breadcrumbs",
            "Model breadcrumbs",
            "Davari and Belilovsky 2023, Model Breadcrumbs",
            "Differences without their smallest and largest entries",
        ),
        Mask::Outliers,
        false,
        BREADCRUMBS,
    ),
    consensus(
        card(
            "breadcrumbs_ties",
            "Model breadcrumbs with elected signs",
            "Davari and Belilovsky 2023, Model Breadcrumbs",
            "The same, where their signs agree",
        ),
        Mask::Outliers,
        true,
        BREADCRUMBS,
    ),
    method(
        card(
            "slerp",
            "SLERP",
            "Shoemake 1985, Animating rotation with quaternion curves",
            "On the arc from the base to one other model",
        ),
        Rule::Slerp,
        Base::Needed,
        1,
        1,
        &[of_tensor(
            "t",
            0.5,
            "how far along the arc, 0 the base, 1 the other",
        )],
    ),
    method(
        card(
            "nuslerp",
            "SLERP by weights",
            "Shoemake 1985, Animating rotation with quaternion curves",
            "On the arc between two models, or between their differences from a base",
        ),
        Rule::NuSlerp,
        Base::Possible,
        2,
        2,
        &[WEIGHT],
    ),
    method(
        card(
            "multislerp",
            "SLERP of several models",
            "Goddard et al. 2024, Arcee's MergeKit",
            "Along the mean tangent at the mean direction",
        ),
        Rule::MultiSlerp,
        Base::Possible,
        2,
        usize::MAX,
        &[WEIGHT, NORMALIZE_WEIGHTS],
    ),
    method(
        card(
            "karcher",
            "Karcher mean",
            "Karcher 1977, Riemannian center of mass",
            "The direction with the least squared angles to the models'",
        ),
        Rule::Karcher,
        Base::Unused,
        2,
        usize::MAX,
        &[
            of_tensor("max_iter", 10.0, "most steps"),
            of_tensor("tol", 1e-5, "length of a step at which to stop"),
        ],
    ),
    method(
        card(
            "model_stock",
            "Model stock",
            "Jang et al. 2024, Model Stock",
            "From the mean towards the base, by the angle between differences",
        ),
        Rule::ModelStock,
        Base::Needed,
        2,
        usize::MAX,
        &[],
    ),
    method(
        card(
            "passthrough",
            "Passthrough",
            "Goddard et al. 2024, Arcee's MergeKit",
            "Tensors as they are, for stacking layers",
        ),
        Rule::Passthrough,
        Base::Unused,
        1,
        1,
        &[of_model("scale", Some(1.0), "factor of the tensor")],
    ),
];

/// The method of a name.
///
/// # Errors
/// An unknown name, with near ones.
pub fn find(id: &str) -> Result<&'static MergeMethod> {
    TABLE
        .iter()
        .find(|method| method.card.id == id)
        .ok_or_else(|| {
            let near = suggest(id, TABLE.iter().map(|method| method.card.id));
            Error::config("merge_method", format!("unknown method `{id}`; {near}"))
        })
}

/// The names of all parameters of all methods.
pub fn parameter_names() -> BTreeSet<&'static str> {
    let parameters = TABLE.iter().flat_map(|method| method.parameters);
    parameters.map(|parameter| parameter.name).collect()
}
