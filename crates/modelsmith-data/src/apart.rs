//! Prompts and answers that two stacks of a model read apart: what rows must give, and how long
//! prompts are cut.

use modelsmith_core::error::{Error, Result};

use crate::config::{DataConfig, Format};

/// An encoder and a decoder read a prompt and an answer, which must be told apart.
pub(crate) fn check_apart(config: &DataConfig, format: Format) -> Result<()> {
    if !config.apart {
        return Ok(());
    }
    if format != Format::Instruction {
        return Err(Error::config(
            "data.format",
            format!(
                "is {}; this model's encoder reads a prompt and its decoder writes the answer, so that rows need prompt \
                 and completion, or instruction and output; name the columns in data.columns, for instance \
                 {{ prompt = \"text\", completion = \"label\" }}",
                serde_json::to_string(&format).unwrap_or_default()
            ),
        ));
    }
    if config.prompt_template == "chat" {
        let problem =
            "is chat; a chat holds prompt and answer in one text, which this model reads apart";
        return Err(Error::config("data.prompt_template", problem));
    }
    Ok(())
}

/// Cuts a text that an encoder reads; the token that closes it stays.
pub(crate) fn cut_source(source: &mut Vec<u32>, length: usize) {
    if source.len() > length {
        source.drain(length.saturating_sub(1)..source.len() - 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_source_is_still_closed() {
        let cut = |length| {
            let mut ids = vec![5, 6, 7, 8, 1];
            cut_source(&mut ids, length);
            ids
        };
        assert_eq!(cut(5), [5, 6, 7, 8, 1]);
        assert_eq!(cut(3), [5, 6, 1]);
        assert_eq!(cut(1), [1]);
    }
}
