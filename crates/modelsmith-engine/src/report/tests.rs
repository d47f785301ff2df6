use super::*;
use crate::recipe::Recipe;
use crate::run_folder::RunFolder;
use serde_json::json;
use std::fs;

const TRICK: &str = "</script><script>alert(\"x\")</script>";

/// A finished run whose every text tries to break out of the page.
fn run(dir: &Path, name: &str, rank: u64) -> PathBuf {
    let mut recipe = Recipe::default();
    recipe.output.dir = dir.to_path_buf();
    recipe.output.name = name.to_owned();
    recipe.method.name = "lora".to_owned();
    recipe.method.options.insert("rank".to_owned(), rank.into());
    recipe.description = TRICK.to_owned();
    let run = RunFolder::create(&recipe).unwrap().path().to_path_buf();
    let put = |file: &str, value: serde_json::Value| {
        fs::write(run.join(file), value.to_string()).unwrap();
    };
    let mut lines = Vec::new();
    for step in 1..=30u32 {
        let loss = 3.0 / f64::from(step);
        lines.push(
            json!({"kind": "train", "step": step, "loss": loss, "gradient_norm": 0.5,
                          "learning_rate": 1e-3 * f64::from(step)}),
        );
    }
    for step in [0, 15, 30] {
        lines.push(json!({"kind": "eval", "step": step, "loss": 2.5, "accuracy": 0.25}));
    }
    let text: Vec<String> = lines.iter().map(ToString::to_string).collect();
    fs::write(run.join("metrics.jsonl"), text.join("\n")).unwrap();
    put(
        "summary.json",
        json!({
            "steps": 30, "loss_before": 3.0, "loss_after": 1.25, "trained_parameters": 1234,
            "host_parameters": 1_000_000, "changed_parameters": 4, "change_norm": 0.75, "seconds": 9.5
        }),
    );
    put(
        "sites.json",
        json!([
            {"path": "model.layers.0.self_attn.q_proj", "change": 0.5, "base": 10.0},
            {"path": "model.layers.1.mlp.up_proj", "change": 1.0, "base": 10.0},
            {"path": "lm_head", "change": 0.25, "base": 10.0}
        ]),
    );
    put(
        "quickstart.json",
        json!({
            "questions_before": {"right": 1, "asked": 50}, "questions_after": {"right": 40, "asked": 50},
            "facts_before": {"right": 99, "asked": 100}, "facts_after": {"right": 98, "asked": 100}
        }),
    );
    put(
        "samples.json",
        json!({"task": "continue", "rows": [
            {"row": 3, "prompt": TRICK, "reference": "Bern", "before": "<b>Oslo</b>", "after": "Bern"},
            {"row": 5, "prompt": name, "reference": "Rome", "before": "Oslo", "after": "Oslo"}
        ]}),
    );
    put(
        "record.json",
        json!({
            "version": "0.1.0", "recipe": "abc",
            "attempts": [{"pid": 1, "started": 1_795_507_200, "ended": 1_795_507_300, "outcome": "finished",
                          "seconds": 100.0, "peak_memory": 5_000_000}],
            "warnings": [{"text": TRICK, "count": 17}],
            "artifacts": [{"path": "metrics.jsonl", "bytes": 1, "blake3": "00ff00ff"}]
        }),
    );
    run
}

fn page(run: &Path) -> String {
    fs::read_to_string(write(run).unwrap()).unwrap()
}

/// Texts of the elements between two marks.
fn between<'a>(page: &'a str, from: &'a str, to: &'a str) -> Vec<&'a str> {
    page.split(from)
        .skip(1)
        .filter_map(|part| part.split(to).next())
        .collect()
}

fn assert_self_contained(page: &str) {
    for mark in ["src=", "<link", "@import", "url(\"", "url(http", "xmlns"] {
        assert!(!page.contains(mark), "{mark}");
    }
    for href in between(page, "href=\"", "\"") {
        assert!(href.starts_with('#'), "{href}");
    }
    // Our own script is the only one that runs.
    let scripts = between(page, "<script", ">");
    let plain = scripts
        .iter()
        .filter(|attributes| attributes.is_empty())
        .count();
    let data = scripts
        .iter()
        .filter(|text| text.contains("application/json"))
        .count();
    assert_eq!((plain, plain + data), (1, scripts.len()));
    assert_eq!(page.matches("</script>").count(), scripts.len());
    assert!(page.contains("name=\"viewport\"") && page.contains("prefers-color-scheme: dark"));
}

fn assert_no_empty_chart(page: &str, charts: usize) {
    let drawn = between(page, "<svg class=\"chart\"", "</svg>");
    let data = between(page, "class=\"chart-data\">", "</script>");
    assert_eq!((drawn.len(), data.len()), (charts, charts));
    for (svg, data) in drawn.iter().zip(&data) {
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        let lines = data["lines"].as_array().unwrap();
        assert!(!lines.is_empty());
        for line in lines {
            assert!(!line["points"].as_array().unwrap().is_empty(), "{line}");
        }
        assert!(svg.matches("<polyline").count() >= lines.len(), "{svg}");
        assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }
}

#[test]
fn a_report_has_every_metric_and_no_empty_chart() {
    let dir = tempfile::tempdir().unwrap();
    let page = page(&run(dir.path(), "a", 4));
    assert_no_empty_chart(&page, 4);
    for title in ["Loss", "Gradient norm", "Learning rate", "Accuracy"] {
        assert!(
            page.contains(&format!("<figcaption>{title}</figcaption>")),
            "{title}"
        );
    }
    let data = between(&page, "class=\"chart-data\">", "</script>");
    let loss: serde_json::Value = serde_json::from_str(data[0]).unwrap();
    assert_eq!(loss["lines"][0]["points"].as_array().unwrap().len(), 30);
    assert_eq!(loss["lines"][0]["points"][29], json!([30.0, 0.1]));
    assert_eq!(
        loss["lines"][1]["points"],
        json!([[0.0, 2.5], [15.0, 2.5], [30.0, 2.5]])
    );
}

#[test]
fn a_report_says_what_was_changed_gained_kept_and_spent() {
    let dir = tempfile::tempdir().unwrap();
    let page = page(&run(dir.path(), "a", 4));
    for text in [
        "1 234",
        "2.0 % → 80.0 %",
        "99.0 % → 98.0 %",
        "3.000 → 1.250",
        "1m 40s",
        "5.0 MB",
        "2026-11-24 08:00 UTC",
        "<td class=\"number\">17</td>",
        "00ff00ff",
        "metrics.jsonl no longer has the bytes",
        "rank = 4",
        "--level:100%",
        "--level:25%",
    ] {
        assert!(page.contains(text), "{text}");
    }
}

#[test]
fn texts_cannot_break_out_of_the_page() {
    let dir = tempfile::tempdir().unwrap();
    let a = run(dir.path(), "a", 4);
    let b = run(dir.path(), "b", 8);
    let output = dir.path().join("both.html");
    compare(&[a.clone(), b], &output).unwrap();
    for page in [page(&a), fs::read_to_string(&output).unwrap()] {
        assert!(
            !page.contains("alert(\"x\")") && !page.contains("<b>Oslo"),
            "unescaped"
        );
        assert!(page.contains("&#60;script&#62;") || page.contains("&lt;script&gt;"));
        assert_self_contained(&page);
    }
}

#[test]
fn an_unfinished_run_has_a_report_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = Recipe::default();
    recipe.output.dir = dir.path().to_path_buf();
    recipe.output.name = "young".to_owned();
    let folder = RunFolder::create(&recipe).unwrap();
    let text = page(folder.path());
    assert!(text.contains("No metric was recorded") && text.contains("badge running"));
    fs::write(
        folder.path().join("metrics.jsonl"),
        "{\"kind\":\"train\",\"step\":1,\"loss\":2.0}\n",
    )
    .unwrap();
    drop(folder);
    let text = page(&dir.path().join("young"));
    assert!(text.contains("badge interrupted"));
    assert_no_empty_chart(&text, 1);
}

#[test]
fn a_comparison_overlays_curves_and_shows_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [run(dir.path(), "a", 4), run(dir.path(), "b", 8)];
    let output = comparison_path(&runs);
    assert_eq!(output, dir.path().join("compare-a-b.html"));
    compare(&runs, &output).unwrap();
    let page = fs::read_to_string(&output).unwrap();
    // Three metrics of training and two of evaluation, a curve a run on each.
    assert_no_empty_chart(&page, 5);
    for data in between(&page, "class=\"chart-data\">", "</script>") {
        let data: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!(data["lines"].as_array().unwrap().len(), 2);
    }
    assert!(page.contains("<code>method.rank</code></th><td>4</td><td>8</td>"));
    assert!(!page.contains("<code>output.name</code>") && !page.contains("<code>seed</code>"));
    assert!(compare(&runs[..1], &output).is_err());
}

/// Cells of the table of samples, row by row, as they are written.
fn sample_rows(page: &str) -> Vec<Vec<String>> {
    let table = between(page, "<table class=\"samples\">", "</table>");
    let [table] = table[..] else {
        return Vec::new();
    };
    let cells = |row: &str| {
        let cells = between(row, "<td", "</td>").into_iter();
        cells
            .map(|cell| cell.split_once('>').unwrap().1.to_owned())
            .collect()
    };
    between(table, "<tr>", "</tr>")
        .into_iter()
        .skip(1)
        .map(cells)
        .collect()
}

#[test]
fn samples_stand_side_by_side_and_right_ones_are_marked() {
    let dir = tempfile::tempdir().unwrap();
    let runs = [run(dir.path(), "a", 4), run(dir.path(), "b", 8)];
    let text = page(&runs[0]);
    let rows = sample_rows(&text);
    assert_eq!(rows.len(), 2);
    assert!(rows[0][2].contains("Oslo") && !rows[0][2].contains("tick"));
    assert!(rows[0][3].starts_with("Bern <span class=\"tick\""));
    assert_eq!(rows[1], ["a", "Rome", "Oslo", "Oslo"]);
    // Only the prompt that both runs answered can be compared.
    let output = dir.path().join("both.html");
    compare(&runs, &output).unwrap();
    let rows = sample_rows(&fs::read_to_string(&output).unwrap());
    assert_eq!((rows.len(), rows[0].len()), (1, 5));
    assert!(rows[0][3].starts_with("Bern") && rows[0][4].starts_with("Bern"));
}

#[test]
fn a_new_classifier_has_no_answer_before() {
    let dir = tempfile::tempdir().unwrap();
    let run = run(dir.path(), "a", 4);
    let samples = json!({"task": "classify", "rows": [
        {"row": 0, "prompt": "fine", "reference": "good", "before": null, "after": "bad"}
    ]});
    fs::write(run.join("samples.json"), samples.to_string()).unwrap();
    let text = page(&run);
    assert_eq!(sample_rows(&text), [["fine", "good", "bad"]]);
    assert!(text.contains("there is no before"));
    fs::remove_file(run.join("samples.json")).unwrap();
    assert!(!page(&run).contains("Before and after"));
}
