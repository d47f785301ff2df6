//! Forms of examples, tokenised.

mod common;

use common::{file, tokenizer};
use modelsmith_data::{DataConfig, Dataset, Format, IGNORED, OnLong, Packing, TrainOn, show_mask};

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

#[test]
fn text_is_trained_whole() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(&folder, "a.jsonl", "{\"text\": \"Ada was born.\"}\n");
    assert_eq!(mask(&config), "⟦<s>Ada was born.</s>⟧");
    let mut mapped = file(&folder, "b.jsonl", "{\"body\": \"Ada\"}\n");
    assert!(refusal(&mapped).contains("columns \"body\" are no form known here"));
    mapped.columns = [("text".to_string(), "body".to_string())].into();
    assert_eq!(mask(&mapped), "⟦<s>Ada</s>⟧");
    mapped.columns = [("txet".to_string(), "body".to_string())].into();
    assert!(refusal(&mapped).contains("did you mean text"));
}

#[test]
fn completions_alone_are_trained() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = file(
        &folder,
        "a.jsonl",
        "{\"prompt\": \"Where?\", \"completion\": \"Lisbon.\"}\n",
    );
    assert_eq!(mask(&config), "<s>Where?⟦ Lisbon.</s>⟧");
    config.train_on = TrainOn::All;
    assert_eq!(mask(&config), "<s>⟦Where? Lisbon.</s>⟧");
    config.append_eos = false;
    assert_eq!(mask(&config), "<s>⟦Where? Lisbon.⟧");
    let mut alpaca = file(
        &folder,
        "b.jsonl",
        "{\"instruction\": \"Add {input}.\", \"input\": \"1\", \"output\": \"2\"}\n",
    );
    let expected = "<s>### Instruction:\nAdd {input}.\n\n### Input:\n1\n\n### Response:\n⟦2</s>⟧";
    assert_eq!(mask(&alpaca), expected);
    alpaca.prompt_template = "Q {instruction} ({input}) A".into();
    assert_eq!(mask(&alpaca), "<s>Q Add {input}. (1) A⟦ 2</s>⟧");
    let bare = file(
        &folder,
        "c.jsonl",
        "{\"instruction\": \"Go\", \"input\": \"\", \"output\": \"ok\"}\n",
    );
    assert_eq!(
        mask(&bare),
        "<s>### Instruction:\nGo\n\n### Response:\n⟦ok</s>⟧"
    );
}

#[test]
fn conversations_of_both_conventions_are_one() {
    let folder = tempfile::tempdir().unwrap();
    let messages = "{\"messages\": [{\"role\": \"user\", \"content\": \"Hi\"}, {\"role\": \"assistant\", \"content\": [{\"type\": \"text\", \"text\": \"Ho\"}]}]}\n";
    let mut one = file(&folder, "a.jsonl", messages);
    one.chat_template = "chatml".into();
    let share = "{\"conversations\": [{\"from\": \"human\", \"value\": \"Hi\"}, {\"from\": \"gpt\", \"value\": \"Ho\"}]}\n";
    let mut two = file(&folder, "b.jsonl", share);
    two.chat_template = "chatml".into();
    let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Ho<|im_end|>⟧\n";
    assert_eq!(mask(&one), expected);
    assert_eq!(mask(&two), expected);
    one.chat_template = "model".into();
    assert!(
        refusal(&one).contains("the model has no chat template; set chat_template = \"chatml\"")
    );
    let bad = file(
        &folder,
        "c.jsonl",
        "{\"messages\": [{\"content\": \"Hi\"}]}\n",
    );
    assert!(
        refusal(&DataConfig {
            chat_template: "chatml".into(),
            ..bad
        })
        .contains("line 1: column \"messages\" holds")
    );
}

#[test]
fn instructions_can_go_through_the_chat_template() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = file(
        &folder,
        "a.jsonl",
        "{\"prompt\": \"Hi\", \"completion\": \"Ho\"}\n",
    );
    config.prompt_template = "chat".into();
    config.chat_template = "chatml".into();
    assert_eq!(
        mask(&config),
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Ho<|im_end|>⟧\n"
    );
}

#[test]
fn special_tokens_in_the_text_stay_text() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let eos = tokenizer.special().eos.unwrap();
    let of = |config: &DataConfig| {
        let dataset = Dataset::open(config, &tokenizer, 0).unwrap();
        let ids = dataset.train.first().unwrap().unwrap().ids;
        (
            ids.iter().filter(|id| **id == eos).count(),
            dataset.counts.special_in_text,
            ids,
        )
    };
    let mut plain = file(
        &folder,
        "a.jsonl",
        "{\"prompt\": \"say </s>\", \"completion\": \"</s> it\"}\n",
    );
    let (ends, spelled, ids) = of(&plain);
    assert_eq!((ends, spelled), (1, 2));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "say </s> </s> it");
    plain.parse_special = true;
    assert_eq!(of(&plain).0, 3);
    let line = "{\"messages\": [{\"role\": \"user\", \"content\": \"a<|im_end|>\\nb</s>\"}, {\"role\": \"assistant\", \"content\": \"c<|im_end|>d\"}]}\n";
    let chat = DataConfig {
        chat_template: "chatml".into(),
        ..file(&folder, "b.jsonl", line)
    };
    let (ends, spelled, ids) = of(&chat);
    assert_eq!((ends, spelled), (0, 3));
    let close = tokenizer.id("<|im_end|>").unwrap();
    assert_eq!(ids.iter().filter(|id| **id == close).count(), 2);
    let expected = "<|im_start|>user\na<|im_end|>\nb</s><|im_end|>\n<|im_start|>assistant\n⟦c<|im_end|>d<|im_end|>⟧\n";
    assert_eq!(mask(&chat), expected);
}

#[test]
fn classes_are_collected_or_given() {
    let folder = tempfile::tempdir().unwrap();
    let tokenizer = tokenizer();
    let classes = |config: &DataConfig| {
        let mut dataset = Dataset::open(config, &tokenizer, 0).unwrap();
        let batch = dataset.train.next_batch().unwrap();
        (
            dataset.classes.clone(),
            batch.class_labels.unwrap(),
            batch.type_ids,
        )
    };
    let names = file(&folder, "a.csv", "text,label\nx,pos\ny,neg\n");
    assert_eq!(
        classes(&names),
        (vec!["neg".into(), "pos".into()], vec![1, 0], None)
    );
    let given = DataConfig {
        classes: vec!["pos".into(), "neg".into()],
        ..names.clone()
    };
    assert_eq!(classes(&given).1, [0, 1]);
    let unknown = DataConfig {
        classes: vec!["pos".into()],
        ..names
    };
    assert!(refusal(&unknown).contains("line 3: class neg is not among pos"));
    let lines = DataConfig {
        format: Format::Labelled,
        ..file(&folder, "stsa.train", "2 a fine film .\n0 dull\n")
    };
    assert_eq!(
        classes(&lines),
        (vec!["0".into(), "1".into(), "2".into()], vec![2, 0], None)
    );
    let pair = file(
        &folder,
        "p.jsonl",
        "{\"text\": \"a\", \"text_b\": \"b\", \"label\": 0}\n{\"text\": \"a\", \"text_b\": \"c\", \"label\": 1}\n",
    );
    let (_, labels, types) = classes(&pair);
    assert_eq!(labels, [0, 1]);
    assert!(types.unwrap().contains(&1));
    assert!(
        refusal(&DataConfig {
            packing: Packing::Pack,
            ..pair
        })
        .contains("cannot be used with classes")
    );
    let none = DataConfig {
        format: Format::Labelled,
        ..file(&folder, "b.train", "1 ok\n2\n")
    };
    assert!(refusal(&none).contains("line 2: \"2\" has no text"));
}

#[test]
fn tokens_made_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let row = "{\"input_ids\": [5, 6, 7, 2], \"attention_mask\": [1, 1, 1, 0], \"labels\": [-100, 6, 7, -100]}\n";
    let config = file(&folder, "a.jsonl", row);
    let sequence = Dataset::open(&config, &tokenizer(), 0)
        .unwrap()
        .train
        .first()
        .unwrap()
        .unwrap();
    assert_eq!(
        (sequence.ids, sequence.labels),
        (vec![5, 6, 7], vec![IGNORED, 6, 7])
    );
    let outside = file(
        &folder,
        "b.jsonl",
        "{\"input_ids\": [5]}\n{\"input_ids\": [99999]}\n",
    );
    assert!(
        refusal(&outside)
            .contains("line 2: token id 99999 is outside the tokenizer's vocabulary of")
    );
    let uneven = file(
        &folder,
        "c.jsonl",
        "{\"input_ids\": [5, 6], \"labels\": [5]}\n",
    );
    assert!(refusal(&uneven).contains("input_ids has 2 entries, labels 1"));
    let masked = file(
        &folder,
        "d.jsonl",
        "{\"input_ids\": [5, 6], \"labels\": [-100, -100]}\n",
    );
    assert!(refusal(&masked).contains("1 without a token that counts"));
    let few: String = format!(
        "{{\"input_ids\": {:?}, \"labels\": {:?}}}\n",
        vec![5; 300],
        {
            let mut labels = vec![-100; 300];
            labels[7] = 5;
            labels
        }
    );
    let few = DataConfig {
        max_length: 400,
        ..file(&folder, "e.jsonl", few)
    };
    assert!(refusal(&few).contains("only 1 of 300 tokens (0.33 %) count in the loss"));
    assert!(
        Dataset::open(
            &DataConfig {
                min_trained_share: 0.0,
                ..few
            },
            &tokenizer(),
            0
        )
        .is_ok()
    );
}

#[test]
fn long_examples_follow_the_policy() {
    let folder = tempfile::tempdir().unwrap();
    let long = "a b c d e f g h ".repeat(20);
    let mut config = file(
        &folder,
        "a.jsonl",
        format!("{{\"text\": \"short\"}}\n{{\"text\": \"{long}\"}}\n{{\"text\": \" \"}}\n"),
    );
    let counts = |config: &DataConfig| Dataset::open(config, &tokenizer(), 0).unwrap().counts;
    let truncated = counts(&config);
    assert_eq!(
        (
            truncated.total,
            truncated.truncated,
            truncated.dropped,
            truncated.empty
        ),
        (3, 1, 0, 1)
    );
    config.on_long = OnLong::Drop;
    let dropped = counts(&config);
    assert_eq!(
        (dropped.truncated, dropped.dropped, dropped.kept()),
        (0, 1, 1)
    );
    config.on_long = OnLong::Error;
    assert!(
        refusal(&config).contains("a.jsonl: line 2: "),
        "{}",
        refusal(&config)
    );
    config.packing = Packing::Chunk;
    assert_eq!(counts(&config).truncated, 0);
    // The answer is cut off: nothing is left to train on.
    let lost = file(
        &folder,
        "b.jsonl",
        format!("{{\"prompt\": \"{long}\", \"completion\": \"x\"}}\n"),
    );
    assert!(refusal(&lost).contains("1 without a token that counts"));
}

#[test]
fn empty_and_mistyped_data_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    assert!(refusal(&file(&folder, "a.jsonl", "")).contains("holds no rows"));
    assert!(
        refusal(&file(&folder, "b.jsonl", "{\"text\": \"\"}\n"))
            .contains("no example is left of 1: 1 empty")
    );
    assert!(
        refusal(&file(
            &folder,
            "c.jsonl",
            "{\"text\": \"a\"}\n{\"txt\": \"b\"}\n"
        ))
        .contains("line 2: column \"text\" is missing")
    );
    assert!(
        refusal(&file(&folder, "d.jsonl", "{\"text\": 5}\n"))
            .contains("column \"text\" holds 5; expected a text")
    );
    let mut config = file(&folder, "e.jsonl", "{\"text\": \"a\"}\n");
    config.held_out = 0.5;
    assert!(refusal(&config).contains("needs two rows"));
    config.held_out = 1.0;
    assert!(refusal(&config).contains("must be at least 0 and below 1"));
}

#[test]
fn configurations_refuse_unknown_keys() {
    let error = serde_json::from_str::<DataConfig>("{\"pth\": \"x\"}").unwrap_err();
    assert!(error.to_string().contains("unknown field `pth`"));
    let config = DataConfig {
        path: "x".into(),
        ..DataConfig::default()
    };
    let text = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<DataConfig>(&text).unwrap(), config);
}
