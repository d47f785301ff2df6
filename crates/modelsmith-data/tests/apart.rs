//! Prompts and answers for an encoder and its decoder.

mod common;

use common::{file, tokenizer};
use modelsmith_data::{DataConfig, Dataset, IGNORED, Packing, TrainOn, show_mask};

/// The mask of the first training example as `text` and `[trained]` pieces.
fn mask(config: &DataConfig) -> String {
    let tokenizer = tokenizer();
    let dataset = Dataset::open(config, &tokenizer, 0).unwrap();
    let sequence = dataset.train.first().unwrap().unwrap();
    let pieces = show_mask(&tokenizer, &sequence).unwrap();
    pieces
        .iter()
        .map(|(text, trained)| {
            if *trained {
                format!("⟦{text}⟧")
            } else {
                text.clone()
            }
        })
        .collect()
}

fn refusal(config: &DataConfig) -> String {
    Dataset::open(config, &tokenizer(), 0)
        .expect_err("must be refused")
        .to_string()
}

/// For an encoder and its decoder both parts are closed, and each has the whole length.
#[test]
fn prompts_and_answers_are_tokenised_apart_where_the_model_reads_them_so() {
    let folder = tempfile::tempdir().unwrap();
    let rows = "{\"prompt\": \"Where was Ada born?\", \"completion\": \"Lisbon.\"}\n\
                {\"prompt\": \"Who?\", \"completion\": \"Ada was born in Lisbon.\"}\n";
    let mut config = file(&folder, "a.jsonl", rows);
    config.apart = true;
    assert_eq!(mask(&config), "<s>Where was Ada born?</s>⟦<s>Lisbon.</s>⟧");
    let open = |config: &DataConfig| Dataset::open(config, &tokenizer(), 0).unwrap();
    let batch = open(&config).train.next_batch().unwrap();
    let source = batch.source.as_ref().unwrap();
    assert_eq!((batch.shape[0], source.shape[0]), (2, 2));
    assert!(batch.shape[1] != source.shape[1]);
    assert!(source.labels.iter().all(|label| *label == IGNORED));
    let own = batch.attention_mask.iter().chain(&source.attention_mask);
    assert_eq!(batch.tokens(), own.filter(|real| **real == 1).count());
    let labelled = batch.labels.iter().filter(|label| **label != IGNORED);
    assert_eq!(
        labelled.count(),
        batch.attention_mask.iter().filter(|m| **m == 1).count()
    );
    let eos = tokenizer().special().eos;
    config.max_length = 4;
    let cut = open(&config);
    assert_eq!(cut.counts.truncated, 2);
    let first = cut.train.first().unwrap().unwrap();
    let source = first.source.unwrap();
    assert_eq!((source.len(), source.last().copied()), (4, eos));
    for (change, part) in [
        (
            |c: &mut DataConfig| c.packing = Packing::Pack,
            "data.packing",
        ),
        (
            |c: &mut DataConfig| c.train_on = TrainOn::All,
            "data.train_on",
        ),
        (
            |c: &mut DataConfig| c.prompt_template = "chat".into(),
            "data.prompt_template",
        ),
    ] as [(fn(&mut DataConfig), &str); 3]
    {
        let mut wrong = config.clone();
        change(&mut wrong);
        assert!(refusal(&wrong).contains(part), "{}", refusal(&wrong));
    }
    let mut text = file(&folder, "b.jsonl", "{\"text\": \"Ada\"}\n");
    text.apart = true;
    assert!(
        refusal(&text).contains("prompt and completion"),
        "{}",
        refusal(&text)
    );
}
