//! Chat templates of the common shapes, and hostile ones.

mod common;

use common::tokenizer;
use modelsmith_data::{ChatTemplate, Message, TrainOn};

const LLAMA2: &str = "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0]['content'] %}\
{% else %}{% set rest = messages %}{% set system = false %}{% endif %}\
{% for message in rest %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system %}{% set content = '<<SYS>>\n' + system + '\n<</SYS>>\n\n' + message['content'] %}\
{% else %}{% set content = message['content'] %}{% endif %}\
{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}\
{% else %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}";

const LLAMA3: &str = "{{- bos_token }}
{%- set date = strftime_now(\"%d %b %Y\") %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date + '\\n' + system + '<|eot_id|>' }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
";

const QWEN2: &str = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

fn talk() -> Vec<Message> {
    ["Hi", "Ho", "Again", "Yes"]
        .iter()
        .zip(["user", "assistant"].iter().cycle())
        .map(|(text, role)| Message::new(role, text))
        .collect()
}

/// The rendering with trained stretches in brackets.
fn shown(template: &str, messages: &[Message]) -> String {
    let template = ChatTemplate::new(template, &tokenizer(), "2024-07-26").unwrap();
    let marked = template
        .conversation(messages, None, TrainOn::Responses)
        .unwrap();
    let mut text = marked.text.clone();
    for span in marked.trained.iter().rev() {
        text.insert(span.end, '⟧');
        text.insert(span.start, '⟦');
    }
    text
}

fn refusal(template: &str, messages: &[Message]) -> String {
    let template = match ChatTemplate::new(template, &tokenizer(), "2024-07-26") {
        Ok(template) => template,
        Err(error) => return error.to_string(),
    };
    template
        .conversation(messages, None, TrainOn::Responses)
        .expect_err("must be refused")
        .to_string()
}

#[test]
fn llama2() {
    let expected = "<s>[INST] Hi [/INST]⟦ Ho </s>⟧<s>[INST] Again [/INST]⟦ Yes </s>⟧";
    assert_eq!(shown(LLAMA2, &talk()), expected);
    let with_system = [vec![Message::new("system", "Be brief.")], talk()].concat();
    assert!(
        shown(LLAMA2, &with_system)
            .starts_with("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]⟦ Ho </s>⟧")
    );
    assert!(refusal(LLAMA2, &talk()[1..]).contains("roles must alternate"));
}

#[test]
fn chatml_and_qwen2() {
    let expected = "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Ho<|im_end|>⟧\n\
                    <|im_start|>user\nAgain<|im_end|>\n<|im_start|>assistant\n⟦Yes<|im_end|>⟧\n";
    assert_eq!(shown("chatml", &talk()), expected);
    assert_eq!(
        shown(QWEN2, &talk()),
        format!("<|im_start|>system\nBe kind.<|im_end|>\n{expected}")
    );
}

#[test]
fn llama3() {
    let expected = "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 26 Jul 2024\n<|eot_id|>\
                    <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
                    <|start_header_id|>assistant<|end_header_id|>\n\n⟦Ho<|eot_id|>⟧";
    assert_eq!(shown(LLAMA3, &talk()[..2]), expected);
    let template = ChatTemplate::new(LLAMA3, &tokenizer(), "2024-07-26").unwrap();
    let prompt = template.prompt(&talk()[..1], None).unwrap();
    assert!(prompt.text.ends_with("assistant<|end_header_id|>\n\n"));
}

#[test]
fn generation_blocks_say_what_is_trained() {
    let template = "{% for m in messages %}\n{% if m.role == 'assistant' %}\nA:{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}\n\
                    {% else %}\nU:{{ m.content }}\n{% endif %}\n{% endfor %}";
    assert_eq!(
        shown(template, &talk()),
        "U:Hi\nA:⟦Ho</s>⟧U:Again\nA:⟦Yes</s>⟧"
    );
}

#[test]
fn a_template_that_rewrites_the_past_is_refused() {
    let template = "{% for m in messages %}{{ m.role }}:{% if loop.last %}thought {% endif %}{{ m.content }};{% endfor %}\
                    {% if add_generation_prompt %}assistant:{% endif %}";
    assert!(refusal(template, &talk()).contains("is no prefix of rendering it on"));
    let template = ChatTemplate::new(template, &tokenizer(), "2024-07-26").unwrap();
    let all = template.conversation(&talk(), None, TrainOn::All).unwrap();
    assert!(all.trained.iter().eq(&[std::ops::Range {
        start: 0,
        end: all.text.len()
    }]));
}

#[test]
fn hostile_templates_stop_within_a_second() {
    let deep = format!(
        "{{% macro f(n) %}}{{{{ f(n) }}}}{{% endmacro %}}{{{{ f(1) }}}}{}",
        ""
    );
    let nested = format!(
        "{}x{}",
        "{% for a in range(1000) %}".repeat(8),
        "{% endfor %}".repeat(8)
    );
    let cases = [
        "{% for a in range(1000000000) %}x{% endfor %}",
        nested.as_str(),
        deep.as_str(),
        "{% include 'chat_template' %}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os.system('x') }}",
        "{% extends 'chat_template' %}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ 'a' * 10000000000 }}",
        "{% for a in range(100000) %}{{ 'a' * 100000000 }}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for a in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
        "{% set ns = namespace(x='aa') %}{% for a in range(60) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for a in range(60) %}{% set ns.x = ns.x.replace('a', ns.x, 9999999) %}{% endfor %}",
        "{% set ns = namespace(x='aa') %}{% for a in range(60) %}{% set ns.x = ns.x.join(ns.x | list) %}{% endfor %}",
        "{{ '{:1000000000}'.format(1) }}",
        "{% if %}",
        "{{ messages | no_such_filter }}",
    ];
    for case in cases {
        let started = std::time::Instant::now();
        let error = refusal(case, &talk());
        assert!(
            started.elapsed().as_millis() < 1000,
            "{case}: {:?}",
            started.elapsed()
        );
        assert!(error.starts_with("data.chat_template: "), "{error}");
    }
    assert!(refusal(&nested, &talk()).contains("loops without end"));
}

#[test]
fn long_conversations_have_the_fuel_they_need() {
    let long = "word ".repeat(400_000);
    let messages = [
        Message::new("user", &long),
        Message::new("assistant", &long),
    ];
    assert!(shown(LLAMA3, &messages).len() > 2 * 400_000 * 5);
    let many: Vec<Message> = talk().iter().cycle().take(400).cloned().collect();
    assert_eq!(shown("chatml", &many).matches('⟦').count(), 200);
}

#[test]
fn pythons_ways_work() {
    let template = "{{ messages[0].content.upper() }} {{ messages[0] | tojson }} {{ messages[0].items() | list | length }}\
                    {%- for m in messages if m.role == 'user' %} {{ m['content'].split('i')[0] }}{% endfor %}\
                    {{- ' none' if tools is none or not tools }}{% set ns = namespace(n=0) %}{% set ns.n = 3 %}{{ ns.n }}\
                    {{- ', '.join(['a', 'b']) + 'xx'.replace('x', 'y') + 'xx'.replace('x', 'y', 1) + '{} {}'.format(1, 'b') }}";
    let template = ChatTemplate::new(template, &tokenizer(), "2024-07-26").unwrap();
    let text = template.prompt(&talk()[..1], None).unwrap().text;
    assert_eq!(
        text,
        "HI {\"role\": \"user\", \"content\": \"Hi\"} 2 H none3a, byyyx1 b"
    );
}

#[test]
fn names_of_templates_are_checked() {
    assert!(refusal("model", &talk()).contains("the model has no chat template"));
    assert!(refusal("alpaca", &talk()).contains("expected model, model:NAME, chatml"));
}
