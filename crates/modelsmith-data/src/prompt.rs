//! The text of a prompt: an instruction and its input in a template.

/// The classic prompt of instruction data.
const INSTRUCTION: &str = "### Instruction:\n{instruction}\n\n### Response:\n";
const INSTRUCTION_WITH_INPUT: &str =
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n";

/// The prompt by `template`, by the usual ones where that is empty.
pub(crate) fn text(template: &str, instruction: &str, input: Option<&str>) -> String {
    let template = match (template, input) {
        ("", None) => return instruction.to_string(),
        ("", Some("")) => INSTRUCTION,
        ("", Some(_)) => INSTRUCTION_WITH_INPUT,
        (own, _) => own,
    };
    fill(template, instruction, input.unwrap_or_default())
}

/// Replaces `{instruction}` and `{input}` in one pass, so that neither text is searched itself.
fn fill(template: &str, instruction: &str, input: &str) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some(at) = rest.find('{') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = [
            ("{instruction}", instruction),
            ("{prompt}", instruction),
            ("{input}", input),
        ];
        match known.iter().find(|(name, _)| rest.starts_with(name)) {
            Some((name, value)) => {
                out.push_str(value);
                rest = &rest[name.len()..];
            }
            None => {
                out.push('{');
                rest = &rest[1..];
            }
        }
    }
    out + rest
}
