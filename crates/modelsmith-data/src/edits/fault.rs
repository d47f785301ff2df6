//! All that is wrong with a file of requests, said at once.

use std::fmt;
use std::path::PathBuf;

use modelsmith_core::error::Error;

/// One thing that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Line of the file, from 1.
    pub line: u64,
    /// Column in bytes, from 1, where one is known.
    pub column: Option<usize>,
    /// What was found, what was expected, and what to do.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            Some(column) => write!(out, "line {}, column {column}: {}", self.line, self.problem),
            None => write!(out, "line {}: {}", self.line, self.problem),
        }
    }
}

/// Faults of one file.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    path: PathBuf,
    found: Vec<Fault>,
}

impl Faults {
    /// None so far, of this file.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            found: Vec::new(),
        }
    }

    /// Adds one.
    pub fn add(&mut self, line: u64, problem: impl Into<String>) {
        self.add_at(line, None, problem);
    }

    /// Adds one at a column.
    pub fn add_at(&mut self, line: u64, column: Option<usize>, problem: impl Into<String>) {
        self.found.push(Fault {
            line,
            column,
            problem: problem.into(),
        });
    }

    /// Those found so far.
    pub fn found(&self) -> &[Fault] {
        &self.found
    }

    /// Nothing, or an error that shows the first `shown` faults in order of line.
    ///
    /// # Errors
    /// [`Error::File`] where there is a fault.
    pub fn check(mut self, shown: usize) -> Result<(), Error> {
        self.found.sort_by_key(|fault| (fault.line, fault.column));
        let path = self.path.display();
        let text = match self.found.as_slice() {
            [] => return Ok(()),
            [one] => one.to_string(),
            many => {
                let mut lines = vec![format!("{} faults", many.len())];
                let first = many.iter().take(shown.max(1));
                lines.extend(first.map(|fault| format!("{path}: {fault}")));
                let left = many.len().saturating_sub(shown.max(1));
                if left > 0 {
                    lines.push(format!("and {left} more"));
                }
                lines.join("\n")
            }
        };
        Err(Error::file(&self.path, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_come_in_order_and_no_more_than_asked() {
        let mut faults = Faults::new("a.jsonl");
        assert!(faults.clone().check(2).is_ok());
        faults.add(9, "late");
        let text = faults.clone().check(2).unwrap_err().to_string();
        assert_eq!(text, "a.jsonl: line 9: late");
        faults.add_at(2, Some(4), "early");
        faults.add(5, "between");
        let text = faults.check(2).unwrap_err().to_string();
        assert_eq!(
            text,
            "a.jsonl: 3 faults\na.jsonl: line 2, column 4: early\na.jsonl: line 5: between\nand 1 more"
        );
    }
}
