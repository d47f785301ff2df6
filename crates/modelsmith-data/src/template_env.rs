//! The sandbox that chat templates run in.
//!
//! A template comes from a stranger: it has a bounded number of steps and depth, can load
//! nothing, and sees the conversation only.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, State, Value};
use minijinja_contrib::pycompat::unknown_method_callback;

/// Work a template may do: a step costs 1, and so do 64 bytes of a value it makes. It is spent in a
/// fraction of a second.
const FUEL: u64 = 1_000_000;
/// Work allowed for each byte of a conversation, beyond [`FUEL`].
const FUEL_PER_BYTE: u64 = 4;
const DEPTH: usize = 64;
const LIMIT: Duration = Duration::from_secs(2);
const NAME: &str = "chat_template";

type Jinja<T> = Result<T, minijinja::Error>;

/// A calendar day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Date {
    pub(crate) year: i64,
    pub(crate) month: usize,
    pub(crate) day: i64,
}

/// Renders the template; long conversations get more fuel.
///
/// Fuel bounds nearly everything a template can do. What it does not see, such as a list joined
/// to itself until copying it takes forever, is given up after [`LIMIT`].
pub(crate) fn render(
    environment: &Arc<Environment<'static>>,
    context: Value,
    bytes: usize,
) -> Jinja<String> {
    let fuel = FUEL_PER_BYTE.saturating_mul(bytes as u64);
    let mut environment = Arc::clone(environment);
    if fuel > FUEL {
        let mut roomy = (*environment).clone();
        roomy.set_fuel(Some(FUEL.saturating_add(fuel)));
        environment = Arc::new(roomy);
    }
    let rendered = within(LIMIT, move || {
        environment.get_template(NAME)?.render(context)
    });
    rendered.unwrap_or_else(|| Err(minijinja::Error::from(ErrorKind::OutOfFuel)))
}

/// What `job` gives, unless it takes longer: then it is left to itself.
fn within<T: Send + 'static>(
    limit: Duration,
    job: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (sender, receiver) = mpsc::channel();
    let worker = std::thread::Builder::new().name("chat-template".into());
    // The receiver may be gone when a late result comes; nobody wants it then.
    worker.spawn(move || sender.send(job()).ok()).ok()?;
    receiver.recv_timeout(limit).ok()
}

/// The environment with the one template `source`.
pub(crate) fn environment(source: &str, date: Date) -> Jinja<Environment<'static>> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_syntax(
        environment
            .syntax()
            .to_builder()
            .trim_blocks(true)
            .lstrip_blocks(true)
            .build()?,
    );
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(python_method);
    environment.add_filter("tojson", to_json);
    environment.add_function("raise_exception", |message: String| -> Jinja<Value> {
        Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("the template refuses: {message}"),
        ))
    });
    environment.add_function("strftime_now", move |format: &str| strftime(date, format));
    environment.add_template_owned(NAME, source.to_string())?;
    Ok(environment)
}

/// Python's methods of strings and maps. Those whose result can be longer than all that they are
/// given go through the filters that pay fuel for it.
fn python_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Jinja<Value> {
    let text = value.as_str();
    match (method, text, args) {
        ("replace", Some(_), [from, to]) => {
            state.apply_filter("replace", &[value.clone(), from.clone(), to.clone()])
        }
        ("replace", Some(text), [_, to, ..]) => {
            let most = (text.len() + 1).saturating_mul(to.len().unwrap_or(0) + 1);
            state.consume_fuel((most / 64) as u64)?;
            unknown_method_callback(state, value, method, args)
        }
        ("join", Some(_), [list]) => state.apply_filter("join", &[list.clone(), value.clone()]),
        ("format", Some(text), _) if names_a_width(text) => {
            let message = "str.format with a width is not known here; use the filters of Jinja";
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
        }
        _ => unknown_method_callback(state, value, method, args),
    }
}

/// Whether a format string asks for padding, whose size nothing bounds.
fn names_a_width(format: &str) -> bool {
    format
        .split('{')
        .skip(1)
        .any(|field| field.split('}').next().is_some_and(|f| f.contains(':')))
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False)` writes it, the form that models are
/// trained on: a space behind `,` and `:`.
fn to_json(value: &Value, options: Kwargs) -> Jinja<Value> {
    let indent: Option<usize> = options.get("indent")?;
    let _: Option<bool> = options.get("ensure_ascii")?;
    let sort: Option<bool> = options.get("sort_keys")?;
    options.assert_all_used()?;
    let json = serde_json::to_value(value)
        .map_err(|error| minijinja::Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = String::new();
    write_json(
        &json,
        indent.map(|by| (by, 0)),
        sort.unwrap_or(false),
        &mut out,
    );
    Ok(Value::from_safe_string(out))
}

fn write_json(
    json: &serde_json::Value,
    indent: Option<(usize, usize)>,
    sort: bool,
    out: &mut String,
) {
    use serde_json::Value as Json;
    let inner = indent.map(|(by, level)| (by, level + 1));
    let new_line = |out: &mut String, indent: Option<(usize, usize)>| {
        if let Some((by, level)) = indent {
            out.push('\n');
            out.extend(std::iter::repeat_n(' ', by * level));
        }
    };
    let separator = if indent.is_some() { "," } else { ", " };
    match json {
        Json::Array(items) if !items.is_empty() => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { separator } else { "" });
                new_line(out, inner);
                write_json(item, inner, sort, out);
            }
            new_line(out, indent);
            out.push(']');
        }
        Json::Object(map) if !map.is_empty() => {
            let mut entries: Vec<_> = map.iter().collect();
            if sort {
                entries.sort_by(|a, b| a.0.cmp(b.0));
            }
            out.push('{');
            for (index, (key, item)) in entries.into_iter().enumerate() {
                out.push_str(if index > 0 { separator } else { "" });
                new_line(out, inner);
                out.push_str(&Json::String(key.clone()).to_string());
                out.push_str(": ");
                write_json(item, inner, sort, out);
            }
            new_line(out, indent);
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// The fixed date in a template's format; the time of day is midnight.
fn strftime(date: Date, format: &str) -> Jinja<String> {
    let month = MONTHS[date.month - 1];
    let weekday = DAYS[weekday(date)];
    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let code = characters.next();
        out.push_str(&match code {
            Some('d') => format!("{:02}", date.day),
            Some('m') => format!("{:02}", date.month),
            Some('Y') => date.year.to_string(),
            Some('y') => format!("{:02}", date.year % 100),
            Some('B') => month.to_string(),
            Some('b') => month[..3].to_string(),
            Some('A') => weekday.to_string(),
            Some('a') => weekday[..3].to_string(),
            Some('H' | 'M' | 'S') => "00".to_string(),
            Some('%') => "%".to_string(),
            other => {
                let shown = other.map(String::from).unwrap_or_default();
                let message =
                    format!("strftime_now knows no %{shown}; known: d m Y y B b A a H M S %");
                return Err(minijinja::Error::new(ErrorKind::InvalidOperation, message));
            }
        });
    }
    Ok(out)
}

/// Days since Sunday in the Gregorian calendar (Zeller's congruence).
fn weekday(date: Date) -> usize {
    let month = date.month as i64;
    let (year, month) = if month < 3 {
        (date.year - 1, month + 12)
    } else {
        (date.year, month)
    };
    let days = date.day + 13 * (month + 1) / 5 + year + year / 4 - year / 100 + year / 400;
    // The congruence counts from Saturday.
    ((days + 6).rem_euclid(7)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATE: Date = Date {
        year: 2024,
        month: 7,
        day: 26,
    };

    #[test]
    fn work_that_takes_too_long_is_given_up() {
        let nap = |milliseconds| move || std::thread::sleep(Duration::from_millis(milliseconds));
        assert_eq!(within(Duration::from_millis(20), nap(2000)), None);
        assert_eq!(within(Duration::from_secs(20), nap(1)), Some(()));
    }

    #[test]
    fn dates_are_formatted() {
        assert_eq!(
            strftime(DATE, "%d %b %Y, %A").unwrap(),
            "26 Jul 2024, Friday"
        );
        assert!(
            strftime(DATE, "%Q")
                .unwrap_err()
                .to_string()
                .contains("knows no %Q")
        );
    }

    #[test]
    fn json_is_pythons() {
        let json = serde_json::json!({"b": [1, "é<"], "a": {}});
        let mut out = String::new();
        write_json(&json, None, false, &mut out);
        assert_eq!(out, r#"{"b": [1, "é<"], "a": {}}"#);
        out.clear();
        write_json(&json, Some((2, 0)), true, &mut out);
        assert_eq!(
            out,
            "{\n  \"a\": {},\n  \"b\": [\n    1,\n    \"é<\"\n  ]\n}"
        );
    }
}
