//! Where the weights changed: layers down, modules across.

use crate::numbers::decimal;
use crate::site_change::SiteChange;

/// A grid of changes, with what lies outside the layers.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Heat {
    /// Modules within a layer.
    pub(super) columns: Vec<String>,
    /// Layers.
    pub(super) rows: Vec<Row>,
    /// Modules outside the layers.
    pub(super) outside: Vec<(String, Cell)>,
}

/// A layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Its number, after its stack where there are several.
    pub(super) label: String,
    /// A cell a column.
    pub(super) cells: Vec<Option<Cell>>,
}

/// A module of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Cell {
    /// Norm of the change, as people read it.
    pub(super) text: String,
    /// Path and figures.
    pub(super) title: String,
    /// Strength of the colour in percent of the largest change.
    pub(super) level: u8,
}

/// The grid of a run, coloured against `largest`.
pub(super) fn heat(sites: &[SiteChange], largest: f64) -> Heat {
    let mut heat = Heat::default();
    let stacks: std::collections::BTreeSet<&str> = sites
        .iter()
        .filter_map(|site| Some(parts(&site.path)?.0))
        .collect();
    for site in sites {
        let Some((stack, layer, module)) = parts(&site.path) else {
            heat.outside.push((site.path.clone(), cell(site, largest)));
            continue;
        };
        let label = if stacks.len() > 1 {
            format!("{stack} {layer}")
        } else {
            layer.to_owned()
        };
        let column = position(
            &mut heat.columns,
            |name| name == module,
            || module.to_owned(),
        );
        let row = position(
            &mut heat.rows,
            |row| row.label == label,
            || Row {
                label: label.clone(),
                cells: Vec::new(),
            },
        );
        let cells = &mut heat.rows[row].cells;
        cells.resize(cells.len().max(column + 1), None);
        cells[column] = Some(cell(site, largest));
    }
    for row in &mut heat.rows {
        row.cells.resize(heat.columns.len(), None);
    }
    heat
}

/// The largest change of all.
pub(super) fn largest(sites: &[SiteChange]) -> f64 {
    sites.iter().map(|site| site.change).fold(0.0, f64::max)
}

fn position<T>(items: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    items.iter().position(is).unwrap_or_else(|| {
        items.push(make());
        items.len() - 1
    })
}

fn cell(site: &SiteChange, largest: f64) -> Cell {
    let share = if largest > 0.0 {
        site.change / largest
    } else {
        0.0
    };
    let relative = if site.base > 0.0 {
        format!(
            ", {:.2} % of its weights' norm {}",
            site.change / site.base * 100.0,
            decimal(site.base)
        )
    } else {
        String::new()
    };
    Cell {
        text: decimal(site.change),
        title: format!(
            "{}: norm of the change {}{relative}",
            site.path,
            decimal(site.change)
        ),
        level: (share * 100.0).round().clamp(0.0, 100.0) as u8,
    }
}

/// `model.layers.3.mlp.up_proj` as stack, number and module.
fn parts(path: &str) -> Option<(&str, &str, &str)> {
    let mut start = 0;
    for part in path.split('.') {
        let end = start + part.len();
        if start > 0 && end < path.len() && part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Some((&path[..start - 1], part, &path[end + 1..]));
        }
        start = end + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site(path: &str, change: f64) -> SiteChange {
        SiteChange {
            path: path.to_owned(),
            change,
            base: 2.0,
        }
    }

    #[test]
    fn layers_run_down_and_modules_across() {
        let sites = [
            site("model.embed_tokens", 0.5),
            site("model.layers.0.mlp.up", 1.0),
            site("model.layers.1.attn.q", 4.0),
            site("model.layers.1.mlp.up", 2.0),
        ];
        let heat = heat(&sites, largest(&sites));
        assert_eq!(heat.columns, ["mlp.up", "attn.q"]);
        let labels: Vec<&str> = heat.rows.iter().map(|row| row.label.as_str()).collect();
        assert_eq!(labels, ["0", "1"]);
        assert_eq!(heat.rows[0].cells[1], None);
        assert_eq!(heat.rows[1].cells[1].as_ref().unwrap().level, 100);
        assert!(
            heat.rows[1].cells[0]
                .as_ref()
                .unwrap()
                .title
                .contains("100.00 %")
        );
        assert_eq!(heat.outside[0].0, "model.embed_tokens");
    }
}
