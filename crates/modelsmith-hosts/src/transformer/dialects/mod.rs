//! Dialects: how each family spells its configuration and names its tensors.

mod bert;
mod gpt2;
mod llama;
mod opt;
mod t5;

use super::config::{Config, Head, Task};
use super::reader::{Reader, bad};
use modelsmith_core::error::{Error, Result, suggest};
use serde_json::Value;

/// Hugging Face names of one family.
#[derive(Debug)]
pub(crate) struct Names {
    /// Stem of the class names.
    pub(crate) family: &'static str,
    /// Attribute that holds the bare model in a class with a head; empty where nothing does.
    pub(crate) prefix: &'static str,
    /// Where blocks and embeddings lie inside the bare model.
    pub(crate) base: &'static str,
    pub(crate) tokens: &'static str,
    pub(crate) positions: &'static str,
    pub(crate) types: &'static str,
    pub(crate) embedding_norm: &'static str,
    /// The blocks that read the text which the decoder's are told of.
    pub(crate) encoder: Option<StackNames>,
    /// The only blocks, or the decoder's.
    pub(crate) stack: StackNames,
    pub(crate) heads: HeadNames,
    /// PEFT's default targets.
    pub(crate) targets: &'static [&'static str],
}

/// Names of a stack of blocks; paths of a block are relative to the block.
#[derive(Debug)]
pub(crate) struct StackNames {
    /// Where this stack looks its tokens up in the table of all stacks; empty for the only one, which
    /// looks them up at the table itself. Checkpoints may name the table's weight by it.
    pub(crate) tokens: &'static str,
    pub(crate) blocks: &'static str,
    pub(crate) attention: AttentionNames,
    /// Attention to the encoder's last state.
    pub(crate) cross: Option<AttentionNames>,
    /// Table of the bias by distance, in the first block.
    pub(crate) distances: &'static str,
    pub(crate) gate: &'static str,
    pub(crate) up: &'static str,
    pub(crate) down: &'static str,
    pub(crate) mlp_norm: &'static str,
    /// Beside the blocks.
    pub(crate) final_norm: &'static str,
}

/// Names of one attention, relative to its block.
#[derive(Debug)]
pub(crate) struct AttentionNames {
    pub(crate) site: &'static str,
    pub(crate) query: &'static str,
    pub(crate) key: &'static str,
    pub(crate) value: &'static str,
    pub(crate) fused: &'static str,
    pub(crate) out: &'static str,
    pub(crate) norm: &'static str,
}

impl Names {
    /// The encoder's names and the decoder's, or those of the only stack.
    pub(crate) fn stacks(&self) -> impl Iterator<Item = &StackNames> {
        self.encoder.iter().chain([&self.stack])
    }

    /// Modules beside the table of tokens that look tokens up in it.
    pub(crate) fn lookups(&self) -> impl Iterator<Item = &'static str> {
        let all = self.stacks().map(|stack| stack.tokens);
        all.filter(|path| !path.is_empty())
    }

    /// Path of the bare model with its dot, in a class with a head.
    pub(crate) fn prefix_dot(&self) -> String {
        match self.prefix {
            "" => String::new(),
            prefix => format!("{prefix}."),
        }
    }
}

/// Names of the heads of a family.
#[derive(Debug)]
pub(crate) struct HeadNames {
    /// Ending of the class that predicts the next token.
    pub(crate) causal_class: Option<&'static str>,
    /// Masked-token head: transform, its norm, decoder, and the decoder's bias.
    pub(crate) masked: Option<[&'static str; 4]>,
    /// The masked-token head uses the exact GELU whatever the blocks use.
    pub(crate) exact_gelu: bool,
    pub(crate) sequence: SequenceHead,
    /// Token classifier; it has a bias in every family.
    pub(crate) token: &'static str,
}

/// How a family reduces a sequence to one row of classes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SequenceHead {
    /// `score` at the last real token.
    Last,
    /// The pooler at the first token, then `classifier`.
    Pooled,
    /// `classifier.dense`, tanh and `classifier.out_proj` at the first token.
    First,
}

const CAUSAL: HeadNames = HeadNames {
    causal_class: Some("ForCausalLM"),
    masked: None,
    exact_gelu: false,
    sequence: SequenceHead::Last,
    token: "score",
};

/// Reads a configuration, and which class it describes.
///
/// # Errors
/// A `config.json` key or value that is not implemented exactly, by name.
pub(crate) fn read(
    config: &Value,
    task: Option<Task>,
    labels: Option<usize>,
) -> Result<(Config, String)> {
    let reader = Reader::new(config)?;
    let model_type = reader.text_if("model_type")?.unwrap_or_default();
    let two_stacks = matches!(model_type, "t5" | "mt5");
    reader.only("is_encoder_decoder", &two_stacks.into())?;
    reader.only("add_cross_attention", &false.into())?;
    let (mut found, harmless) = match model_type {
        "llama" => llama::llama(&reader)?,
        "mistral" => llama::mistral(&reader)?,
        "qwen2" => llama::qwen2(&reader)?,
        "qwen3" => llama::qwen3(&reader)?,
        "gpt2" => gpt2::read(&reader)?,
        "opt" => opt::read(&reader)?,
        "bert" => bert::bert(&reader)?,
        "roberta" => bert::roberta(&reader)?,
        "xlm-roberta" => bert::xlm_roberta(&reader)?,
        "t5" => t5::t5(&reader)?,
        "mt5" => t5::mt5(&reader)?,
        other => {
            let known = [
                "llama",
                "mistral",
                "qwen2",
                "qwen3",
                "gpt2",
                "opt",
                "bert",
                "roberta",
                "xlm-roberta",
                "t5",
                "mt5",
            ];
            let near = suggest(other, known);
            let expected = format!("a model type that is implemented; {near}");
            return Err(bad("model_type", &other.into(), &expected));
        }
    };
    found.head = head(&reader, &found, task, labels)?;
    found.pooler = found.head == Head::Base && found.names.heads.masked.is_some();
    check(&found)?;
    reader.finish("", harmless)?;
    let class = class_name(found.names, found.head);
    Ok((found, class))
}

/// Sizes that must fit each other.
fn check(config: &Config) -> Result<()> {
    let attention = &config.attention;
    if !attention.heads.is_multiple_of(attention.kv_heads) {
        return Err(Error::config(
            "num_key_value_heads",
            format!(
                "{} does not divide the {} attention heads",
                attention.kv_heads, attention.heads
            ),
        ));
    }
    let start = config.encoder.map(|encoder| encoder.start);
    for (key, id) in [
        ("pad_token_id", config.pad),
        ("decoder_start_token_id", start),
    ] {
        if let Some(id) = id.filter(|id| *id >= config.vocabulary) {
            let bound = config.vocabulary;
            return Err(Error::config(
                key,
                format!("{id} is outside the vocabulary of {bound}"),
            ));
        }
    }
    Ok(())
}

/// Width of a head where the configuration gives none.
fn head_dim(width: usize, heads: usize) -> Result<usize> {
    if width.is_multiple_of(heads) {
        return Ok(width / heads);
    }
    Err(Error::config(
        "num_attention_heads",
        format!("{heads} heads do not divide the hidden size {width}"),
    ))
}

/// The head that `architectures`, or the task asked for, stands for.
fn head(
    reader: &Reader<'_>,
    config: &Config,
    task: Option<Task>,
    labels: Option<usize>,
) -> Result<Head> {
    let names = config.names;
    let written = match reader.get("architectures") {
        Some(value) => {
            let class = value.get(0).and_then(Value::as_str);
            Some(class.ok_or_else(|| bad("architectures", value, "a list of one class name"))?)
        }
        None => None,
    };
    let task = match (task, written) {
        (Some(task), _) => task,
        (None, Some(class)) => task_of(names, class)?,
        (None, None) if names.encoder.is_some() => Task::Seq2SeqLm,
        (None, None) if names.heads.causal_class.is_some() => Task::CausalLm,
        (None, None) => Task::Base,
    };
    let task = match (task, labels) {
        (Task::SequenceClassification | Task::TokenClassification, _) | (_, None) => task,
        (_, Some(_)) => Task::SequenceClassification,
    };
    let classes = || -> Result<usize> {
        if let Some(labels) = labels {
            return Ok(labels);
        }
        let listed = reader.get("id2label").and_then(Value::as_object);
        match listed {
            Some(map) if !map.is_empty() => Ok(map.len()),
            _ => reader.size_or("num_labels", 2),
        }
    };
    let absent = |what: &str| {
        Err(Error::config(
            "architectures",
            format!("{} has no {what} here; choose another task", names.family),
        ))
    };
    match task {
        Task::Seq2SeqLm => match config.encoder {
            Some(encoder) => Ok(Head::Seq2SeqLm(encoder.start as u32)),
            None => absent("encoder beside its decoder"),
        },
        _ if names.encoder.is_some() => absent("model but the one that answers a text"),
        Task::Base => Ok(Head::Base),
        Task::CausalLm if names.heads.causal_class.is_none() => absent("next-token head"),
        Task::CausalLm => Ok(Head::CausalLm),
        Task::MaskedLm if names.heads.masked.is_none() => absent("masked-token head"),
        Task::MaskedLm => Ok(Head::MaskedLm),
        Task::SequenceClassification => Ok(Head::SequenceClasses(classes()?)),
        Task::TokenClassification if names.family == "OPT" => absent("token classifier"),
        Task::TokenClassification => Ok(Head::TokenClasses(classes()?)),
    }
}

const TASKS: [Task; 6] = [
    Task::Base,
    Task::CausalLm,
    Task::MaskedLm,
    Task::SequenceClassification,
    Task::TokenClassification,
    Task::Seq2SeqLm,
];

fn task_of(names: &Names, class: &str) -> Result<Task> {
    let spelled = |task: &Task| class_of(names, *task).is_some_and(|known| known == class);
    if let Some(task) = TASKS.into_iter().find(spelled) {
        return Ok(task);
    }
    let known: Vec<String> = TASKS
        .iter()
        .filter_map(|task| class_of(names, *task))
        .collect();
    let near = suggest(class, known.iter().map(String::as_str));
    let expected = format!("a class that is implemented; {near}");
    Err(bad("architectures", &class.into(), &expected))
}

fn class_of(names: &Names, task: Task) -> Option<String> {
    let ending = match task {
        Task::Seq2SeqLm => names.encoder.as_ref().map(|_| "ForConditionalGeneration")?,
        _ if names.encoder.is_some() => return None,
        Task::Base => "Model",
        Task::CausalLm => names.heads.causal_class?,
        Task::MaskedLm => names.heads.masked.map(|_| "ForMaskedLM")?,
        Task::SequenceClassification => "ForSequenceClassification",
        Task::TokenClassification => "ForTokenClassification",
    };
    Some(format!("{}{ending}", names.family))
}

fn class_name(names: &Names, head: Head) -> String {
    let task = match head {
        Head::Base => Task::Base,
        Head::CausalLm => Task::CausalLm,
        Head::MaskedLm => Task::MaskedLm,
        Head::SequenceClasses(_) => Task::SequenceClassification,
        Head::TokenClasses(_) => Task::TokenClassification,
        Head::Seq2SeqLm(_) => Task::Seq2SeqLm,
    };
    class_of(names, task).unwrap_or_default()
}
