//! Metrics as curves, thinned where there are more points than a screen can show.

use crate::metrics_log::MetricsLine;

/// Most points a curve keeps; beyond, each stretch keeps its lowest and highest.
const MOST: usize = 1200;

/// One curve.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    /// What the legend says.
    pub(super) label: String,
    /// `train` or `eval`.
    pub(super) kind: String,
    /// Metric, for instance `loss`.
    pub(super) metric: String,
    /// Step and value.
    pub(super) points: Vec<(f64, f64)>,
    /// Which colour it has.
    pub(super) color: usize,
}

/// Curves that share their axes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chart {
    /// What it shows.
    pub(super) title: String,
    /// The curves; none is empty.
    pub(super) lines: Vec<Line>,
}

/// A curve for each kind and metric, in the order they first appear.
pub(super) fn lines(records: &[MetricsLine]) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    for record in records {
        for (metric, value) in record.values() {
            let point = (record.step as f64, value);
            match found
                .iter_mut()
                .find(|line| line.kind == record.kind && line.metric == metric)
            {
                Some(line) => line.points.push(point),
                None => found.push(Line {
                    label: spoken_kind(&record.kind).to_owned(),
                    kind: record.kind.clone(),
                    metric: metric.to_owned(),
                    points: vec![point],
                    color: 0,
                }),
            }
        }
    }
    for line in &mut found {
        line.points = thinned(std::mem::take(&mut line.points));
    }
    found
}

/// The charts of one run: a metric each, with the kinds of curves on it.
pub(super) fn of_run(lines: &[Line]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = Vec::new();
    for line in lines {
        let title = spoken(&line.metric);
        let color = usize::from(line.kind != "train");
        let line = Line {
            color,
            ..line.clone()
        };
        match charts.iter_mut().find(|chart| chart.title == title) {
            Some(chart) => chart.lines.push(line),
            None => charts.push(Chart {
                title,
                lines: vec![line],
            }),
        }
    }
    charts
}

/// The charts of several runs: a kind and metric each, with a curve and colour for every run.
pub(super) fn of_runs(runs: &[(&str, &[Line])]) -> Vec<Chart> {
    let mut charts: Vec<Chart> = Vec::new();
    for (color, (name, lines)) in runs.iter().enumerate() {
        for line in *lines {
            let title = format!("{}, {}", spoken(&line.metric), spoken_kind(&line.kind));
            let line = Line {
                label: (*name).to_owned(),
                color,
                ..line.clone()
            };
            match charts.iter_mut().find(|chart| chart.title == title) {
                Some(chart) => chart.lines.push(line),
                None => charts.push(Chart {
                    title,
                    lines: vec![line],
                }),
            }
        }
    }
    // What a method is judged by stands first.
    charts.sort_by_key(|chart| !chart.title.starts_with("Loss"));
    charts
}

fn spoken_kind(kind: &str) -> &str {
    match kind {
        "train" => "training",
        "eval" => "held out",
        other => other,
    }
}

/// `gradient_norm` as `Gradient norm`.
fn spoken(name: &str) -> String {
    let words = name.replace('_', " ");
    let mut letters = words.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

/// Stretches of equal length, each with its lowest and highest point, and both ends.
fn thinned(points: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if points.len() <= MOST {
        return points;
    }
    let stretch = points.len().div_ceil(MOST / 2);
    let mut kept = Vec::with_capacity(MOST + 2);
    kept.extend(points.first().copied());
    for part in points.chunks(stretch) {
        let low = part.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1));
        let high = part.iter().copied().max_by(|a, b| a.1.total_cmp(&b.1));
        let mut both: Vec<(f64, f64)> = low.into_iter().chain(high).collect();
        both.sort_by(|a, b| a.0.total_cmp(&b.0));
        kept.extend(both);
    }
    kept.extend(points.last().copied());
    kept.dedup();
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinning_keeps_ends_and_extremes() {
        let mut points: Vec<(f64, f64)> = (0..50_000).map(|i| (f64::from(i), 1.0)).collect();
        points[31_234].1 = 9.0;
        points[40_001].1 = -3.0;
        let kept = thinned(points.clone());
        assert!(kept.len() <= MOST + 2, "{}", kept.len());
        for wanted in [points[0], points[31_234], points[40_001], points[49_999]] {
            assert!(kept.contains(&wanted), "{wanted:?}");
        }
        assert!(kept.windows(2).all(|pair| pair[0].0 <= pair[1].0));
    }
}
