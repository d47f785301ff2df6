//! Figures of the host's modules as a grid: layers down, modules across.

use super::data::RunData;
use crate::numbers::decimal;
use crate::site_change::SiteChange;

/// A figure of the host's modules, for one run or several.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct HeatSection {
    /// Heading.
    pub(super) title: String,
    /// How to read it.
    pub(super) caption: String,
    /// Name of the run and its grid; none is empty.
    pub(super) runs: Vec<(String, Heat)>,
}

/// Where the weights changed, and what the methods have to show of their sites.
pub(super) fn sections(runs: &[&RunData]) -> Vec<HeatSection> {
    let mut found = Vec::new();
    let changes = runs
        .iter()
        .map(|run| (*run, run.sites.iter().map(changed).collect()));
    add(
        &mut found,
        "Where it changed",
        "Norm of the change of the host's weights, by layer and module.",
        changes.collect(),
    );
    let mut titles: Vec<&str> = Vec::new();
    for map in runs.iter().flat_map(|run| &run.maps) {
        if titles.contains(&map.title.as_str()) {
            continue;
        }
        titles.push(&map.title);
        let of = |run: &RunData| {
            let same = run.maps.iter().filter(|other| other.title == map.title);
            let values = same.flat_map(|map| &map.values);
            values.map(|(path, value)| figure(path, *value)).collect()
        };
        let marks = runs.iter().map(|run| (*run, of(run))).collect();
        add(&mut found, &map.title, &map.caption, marks);
    }
    found
}

fn add(found: &mut Vec<HeatSection>, title: &str, caption: &str, runs: Vec<(&RunData, Vec<Mark>)>) {
    let largest = runs.iter().flat_map(|(_, marks)| marks);
    let largest = largest.map(|mark| mark.value).fold(0.0, f64::max);
    let filled = runs.into_iter().filter(|(_, marks)| !marks.is_empty());
    let grids = filled.map(|(run, marks)| (run.name().to_owned(), heat(&marks, largest)));
    let runs: Vec<(String, Heat)> = grids.collect();
    if !runs.is_empty() {
        found.push(HeatSection {
            title: title.to_owned(),
            caption: caption.to_owned(),
            runs,
        });
    }
}

/// A module's figure.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Mark {
    /// Module path.
    path: String,
    /// The figure.
    value: f64,
    /// The figure in words.
    title: String,
}

fn changed(site: &SiteChange) -> Mark {
    let relative = match site.base > 0.0 {
        true => format!(
            ", {:.2} % of its weights' norm {}",
            site.change / site.base * 100.0,
            decimal(site.base)
        ),
        false => String::new(),
    };
    Mark {
        path: site.path.clone(),
        value: site.change,
        title: format!(
            "{}: norm of the change {}{relative}",
            site.path,
            decimal(site.change)
        ),
    }
}

fn figure(path: &str, value: f64) -> Mark {
    Mark {
        path: path.to_owned(),
        value,
        title: format!("{path}: {}", decimal(value)),
    }
}

/// A grid of figures, with what lies outside the layers.
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
    /// The figure, as people read it.
    pub(super) text: String,
    /// Path and figures.
    pub(super) title: String,
    /// Strength of the colour in percent of the largest figure.
    pub(super) level: u8,
}

/// The grid of a run, coloured against `largest`.
fn heat(sites: &[Mark], largest: f64) -> Heat {
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

fn position<T>(items: &mut Vec<T>, is: impl Fn(&T) -> bool, make: impl FnOnce() -> T) -> usize {
    items.iter().position(is).unwrap_or_else(|| {
        items.push(make());
        items.len() - 1
    })
}

fn cell(site: &Mark, largest: f64) -> Cell {
    let share = if largest > 0.0 {
        site.value / largest
    } else {
        0.0
    };
    Cell {
        text: decimal(site.value),
        title: site.title.clone(),
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

    fn site(path: &str, change: f64) -> Mark {
        changed(&SiteChange {
            path: path.to_owned(),
            change,
            base: 2.0,
        })
    }

    #[test]
    fn layers_run_down_and_modules_across() {
        let sites = [
            site("model.embed_tokens", 0.5),
            site("model.layers.0.mlp.up", 1.0),
            site("model.layers.1.attn.q", 4.0),
            site("model.layers.1.mlp.up", 2.0),
        ];
        let heat = heat(&sites, 4.0);
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
