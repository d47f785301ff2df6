//! Sites: the named places of a host that methods attach to, and the patterns that choose them.

use crate::error::{Error, Result, suggest};
use fancy_regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a site computes; there is one hook per kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SiteKind {
    /// Token ids to vectors.
    Embedding,
    /// A dense layer.
    Linear,
    /// A two-dimensional convolution.
    Conv,
    /// A normalisation layer.
    Norm,
    /// Scaled dot-product attention over queries, keys and values.
    Attention,
    /// One whole block of the residual stream.
    Residual,
    /// A recurrent state update.
    State,
    /// The projection from the last hidden state to the logits.
    Output,
}

/// Position of a site in its host's list; adapters index their state by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SiteId(pub usize);

/// A named place in a host where activations or weights can be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Site {
    /// Position in the host's list.
    pub id: SiteId,
    /// Hugging Face module path, for instance `model.layers.3.self_attn.q_proj`.
    pub path: String,
    /// What it computes.
    pub kind: SiteKind,
    /// Input width (vocabulary size for an embedding; 0 where it has none).
    pub inputs: usize,
    /// Output width.
    pub outputs: usize,
    /// Whether the layer adds a bias.
    pub bias: bool,
    /// The weight is stored as (in, out), as GPT-2's `Conv1D` does, instead of (out, in).
    pub fan_in_fan_out: bool,
    /// A linear site that maps to the vocabulary or the classes; `all-linear` leaves it out.
    pub head: bool,
    /// Path of the module that owns the shared weight, when this site's weight is tied to it: a site,
    /// or a module that is nothing but its weight, as T5's `shared`.
    pub tied_to: Option<String>,
}

impl Site {
    /// Whether the site has a weight matrix that an adapter can extend.
    pub fn has_weight(&self) -> bool {
        matches!(
            self.kind,
            SiteKind::Embedding | SiteKind::Linear | SiteKind::Conv
        )
    }

    /// Shape of the weight as stored in the checkpoint: (out, in), or (in, out) with
    /// `fan_in_fan_out` and for embeddings (vocabulary, width).
    pub fn weight_shape(&self) -> [usize; 2] {
        if self.fan_in_fan_out || self.kind == SiteKind::Embedding {
            [self.inputs, self.outputs]
        } else {
            [self.outputs, self.inputs]
        }
    }

    /// The number of the block the path runs through, if any.
    pub fn layer(&self) -> Option<usize> {
        self.path
            .split('.')
            .rev()
            .find_map(|part| part.parse().ok())
    }
}

/// Which sites a method attaches to, in the forms PEFT knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TargetModules {
    /// Path suffixes: a site matches when its path equals an item or ends with `.item`.
    Suffixes(Vec<String>),
    /// `all-linear` for every linear site but the head, or a regular expression that must match
    /// the whole path.
    Pattern(String),
}

/// A choice of sites: targets, exclusions and layers, with PEFT's meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection<'a> {
    /// What to take; the host's own default when absent.
    pub target_modules: Option<&'a TargetModules>,
    /// What to leave out again.
    pub exclude_modules: Option<&'a TargetModules>,
    /// Only these block numbers.
    pub layers_to_transform: Option<&'a [usize]>,
    /// The name before the block number (`layers`, `h`), when a path holds several numbers.
    pub layers_pattern: Option<&'a str>,
}

impl Selection<'_> {
    /// The chosen sites, in host order.
    ///
    /// # Errors
    /// A pattern that is no regular expression, that matches nothing (with near matches), or an
    /// item of a suffix list that matches nothing.
    pub fn select<'s>(&self, sites: &'s [Site], defaults: &[&str]) -> Result<Vec<&'s Site>> {
        let fallback =
            TargetModules::Suffixes(defaults.iter().map(|name| (*name).to_owned()).collect());
        let targets = self.target_modules.unwrap_or(&fallback);
        let matcher = Matcher::new("target_modules", targets)?;
        let exclude = self
            .exclude_modules
            .map(|targets| Matcher::new("exclude_modules", targets))
            .transpose()?;
        matcher.refuse_idle_items(sites)?;
        let chosen: Vec<&Site> = sites
            .iter()
            .filter(|site| site.has_weight() && matcher.matches(site))
            .filter(|site| !exclude.as_ref().is_some_and(|e| e.matches(site)))
            .filter(|site| self.in_layers(site))
            .collect();
        if chosen.is_empty() {
            return Err(Error::config(
                "target_modules",
                format!(
                    "{} matches no site that has a weight; {}; `modelsmith inspect` lists the sites",
                    matcher.describe(),
                    nearest(matcher.first_word(), sites)
                ),
            ));
        }
        Ok(chosen)
    }

    fn in_layers(&self, site: &Site) -> bool {
        let Some(wanted) = self.layers_to_transform else {
            return true;
        };
        let number = match self.layers_pattern {
            Some(pattern) => layer_after(&site.path, pattern),
            None => site.layer(),
        };
        number.is_some_and(|number| wanted.contains(&number))
    }
}

/// The block number that follows the component `pattern` of a path.
fn layer_after(path: &str, pattern: &str) -> Option<usize> {
    let parts: Vec<&str> = path.split('.').collect();
    parts
        .windows(2)
        .find(|pair| pair[0] == pattern)
        .and_then(|pair| pair[1].parse().ok())
}

enum Matcher<'a> {
    Suffixes(&'a [String]),
    AllLinear,
    Regex(Box<Regex>, &'a str),
}

impl<'a> Matcher<'a> {
    fn new(key: &str, targets: &'a TargetModules) -> Result<Self> {
        match targets {
            TargetModules::Suffixes(items) if items.is_empty() => {
                Err(Error::config(key, "an empty list matches nothing"))
            }
            TargetModules::Suffixes(items) => Ok(Self::Suffixes(items)),
            TargetModules::Pattern(word) if word == "all-linear" => Ok(Self::AllLinear),
            TargetModules::Pattern(pattern) => Regex::new(&format!("^(?:{pattern})$"))
                .map(|regex| Self::Regex(Box::new(regex), pattern))
                .map_err(|error| {
                    Error::config(
                        key,
                        format!("`{pattern}` is not a regular expression: {error}"),
                    )
                }),
        }
    }

    fn matches(&self, site: &Site) -> bool {
        match self {
            Self::Suffixes(items) => items.iter().any(|item| has_suffix(&site.path, item)),
            Self::AllLinear => site.kind == SiteKind::Linear && !site.head,
            // A pattern whose backtracking limit is hit matches nothing.
            Self::Regex(regex, _) => regex.is_match(&site.path).unwrap_or(false),
        }
    }

    fn refuse_idle_items(&self, sites: &[Site]) -> Result<()> {
        let Self::Suffixes(items) = self else {
            return Ok(());
        };
        let idle = |item: &&String| {
            !sites
                .iter()
                .any(|site| site.has_weight() && has_suffix(&site.path, item))
        };
        match items.iter().find(idle) {
            Some(item) => Err(Error::config(
                "target_modules",
                format!(
                    "`{item}` matches no site that has a weight; {}; `modelsmith inspect` lists the sites",
                    nearest(item, sites)
                ),
            )),
            None => Ok(()),
        }
    }

    fn describe(&self) -> String {
        match self {
            Self::Suffixes(items) => format!("[{}]", items.join(", ")),
            Self::AllLinear => "`all-linear`".into(),
            Self::Regex(_, pattern) => format!("`{pattern}`"),
        }
    }

    fn first_word(&self) -> &str {
        match self {
            Self::Suffixes(items) => items.first().map_or("", String::as_str),
            Self::AllLinear => "linear",
            Self::Regex(_, pattern) => pattern,
        }
    }
}

/// Whether a module path equals `item` or ends with `.item`.
pub fn has_suffix(path: &str, item: &str) -> bool {
    path.strip_suffix(item)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Near matches of a word among the last components of the sites' paths.
fn nearest(word: &str, sites: &[Site]) -> String {
    let mut names: Vec<&str> = sites
        .iter()
        .filter(|site| site.has_weight())
        .filter_map(|site| site.path.rsplit('.').next())
        .collect();
    names.sort_unstable();
    names.dedup();
    suggest(word.rsplit('.').next().unwrap_or(word), names)
}

/// The value a pattern table gives to a path: an exact or suffix name, or a regular expression
/// that matches the end of the path (PEFT's `rank_pattern` and `alpha_pattern`).
///
/// # Errors
/// A key that is no regular expression.
pub fn pattern_value<T: Copy>(
    key: &str,
    table: &std::collections::BTreeMap<String, T>,
    path: &str,
) -> Result<Option<T>> {
    for (pattern, value) in table {
        let regex = Regex::new(&format!(r"^(?:.*\.)?(?:{pattern})$")).map_err(|error| {
            Error::config(
                key,
                format!("`{pattern}` is not a regular expression: {error}"),
            )
        })?;
        if regex.is_match(path).unwrap_or(false) {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(id: usize, path: &str, kind: SiteKind) -> Site {
        Site {
            id: SiteId(id),
            path: path.into(),
            kind,
            inputs: 4,
            outputs: 4,
            bias: false,
            fan_in_fan_out: false,
            head: path == "lm_head",
            tied_to: None,
        }
    }

    fn sites() -> Vec<Site> {
        let paths = [
            ("model.embed_tokens", SiteKind::Embedding),
            ("model.layers.0.self_attn.q_proj", SiteKind::Linear),
            ("model.layers.0.mlp.up_proj", SiteKind::Linear),
            ("model.layers.1.self_attn.q_proj", SiteKind::Linear),
            ("model.layers.1", SiteKind::Residual),
            ("lm_head", SiteKind::Linear),
        ];
        paths
            .iter()
            .enumerate()
            .map(|(id, (path, kind))| site(id, path, *kind))
            .collect()
    }

    fn chosen(selection: &Selection<'_>) -> Vec<usize> {
        let sites = sites();
        let found = selection.select(&sites, &["q_proj"]).unwrap();
        found.iter().map(|site| site.id.0).collect()
    }

    #[test]
    fn suffixes_patterns_and_layers_choose_as_peft_does() {
        let all = TargetModules::Pattern("all-linear".into());
        let regex = TargetModules::Pattern(r".*\.0\..*_proj".into());
        let suffix = TargetModules::Suffixes(vec!["mlp.up_proj".into()]);
        let take = |target_modules| Selection {
            target_modules,
            ..Selection::default()
        };
        assert_eq!(chosen(&take(None)), [1, 3]);
        assert_eq!(chosen(&take(Some(&all))), [1, 2, 3]);
        assert_eq!(chosen(&take(Some(&regex))), [1, 2]);
        assert_eq!(chosen(&take(Some(&suffix))), [2]);
        let last = Selection {
            layers_to_transform: Some(&[1]),
            layers_pattern: Some("layers"),
            ..Selection::default()
        };
        assert_eq!(chosen(&last), [3]);
        let without = Selection {
            target_modules: Some(&all),
            exclude_modules: Some(&suffix),
            ..Selection::default()
        };
        assert_eq!(chosen(&without), [1, 3]);
    }

    #[test]
    fn an_unmatched_target_names_near_matches() {
        let wrong = TargetModules::Suffixes(vec!["qproj".into()]);
        let selection = Selection {
            target_modules: Some(&wrong),
            ..Selection::default()
        };
        let message = selection.select(&sites(), &[]).unwrap_err().to_string();
        assert!(message.contains("`qproj` matches no site"), "{message}");
        assert!(message.contains("did you mean q_proj"), "{message}");
    }

    #[test]
    fn a_suffix_matches_whole_components_only() {
        assert!(has_suffix("a.b.q_proj", "q_proj"));
        assert!(has_suffix("q_proj", "q_proj"));
        assert!(!has_suffix("a.b.xq_proj", "q_proj"));
    }

    #[test]
    fn pattern_tables_take_names_and_expressions() {
        let table = [("q_proj".to_owned(), 2), (r"layers\.1\..*".to_owned(), 3)].into();
        let value = |path| pattern_value("rank_pattern", &table, path).unwrap();
        assert_eq!(value("model.layers.0.self_attn.q_proj"), Some(2));
        assert_eq!(value("model.layers.1.mlp.up_proj"), Some(3));
        assert_eq!(value("model.layers.0.mlp.up_proj"), None);
    }
}
