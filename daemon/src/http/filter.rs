//! The `filter=` language: `[not] FIELD eq|ne VALUE [and|or …]`, read from left to right without precedence.
//!
//! A field is a dotted path into the object's JSON; keys may hold dots themselves (`config.image.os`). A value is
//! compared with a string as a case-insensitive regular expression, anchored unless it holds `^` or `$`.

use regex::{Regex, RegexBuilder};
use serde_json::Value;

/// Longest filter.
const MAX_LENGTH: usize = 4096;
/// Most clauses in a filter.
const MAX_CLAUSES: usize = 64;
/// Size of a compiled expression.
const MAX_REGEX: usize = 256 * 1024;

/// Why a filter cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// Longer than the limit.
    #[error("it is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// More clauses than the limit.
    #[error("it has more than {MAX_CLAUSES} clauses")]
    TooManyClauses,
    /// A quote is not closed.
    #[error("unterminated quote")]
    Quote,
    /// Nothing after the field.
    #[error("clause has no operator")]
    NoOperator,
    /// Nothing after the operator.
    #[error("clause has no value")]
    NoValue,
    /// Nothing after `not`, `and` or `or`.
    #[error("clause is empty after \"{0}\"")]
    NoClause(String),
    /// Neither `eq` nor `ne`.
    #[error("unknown operator \"{0}\"; the operators are eq and ne")]
    Operator(String),
    /// Neither `and` nor `or` between clauses.
    #[error("\"and\" or \"or\" is expected between clauses, not \"{0}\"")]
    Joiner(String),
}

#[derive(Debug)]
struct Clause {
    /// Joined to what stands left of it by `or`.
    or: bool,
    not: bool,
    field: String,
    equal: bool,
    value: String,
    /// `None`: the value is no valid expression and is compared as text.
    pattern: Option<Regex>,
}

/// A parsed filter.
#[derive(Debug, Default)]
pub struct Filter {
    clauses: Vec<Clause>,
}

impl Filter {
    /// Reads a filter; an empty text matches everything.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_LENGTH {
            return Err(FilterError::TooLong);
        }
        let mut words = split(text)?.into_iter().peekable();
        let mut clauses = Vec::new();
        let mut joiner: Option<String> = None;
        while let Some(mut word) = words.next() {
            if clauses.len() == MAX_CLAUSES {
                return Err(FilterError::TooManyClauses);
            }
            let mut not = false;
            if word.eq_ignore_ascii_case("not") {
                not = true;
                word = words.next().ok_or(FilterError::NoClause(word))?;
            }
            let operator = words.next().ok_or(FilterError::NoOperator)?;
            let equal = match operator.to_ascii_lowercase().as_str() {
                "eq" => true,
                "ne" => false,
                _ => return Err(FilterError::Operator(operator)),
            };
            let value = words.next().ok_or(FilterError::NoValue)?;
            let or = joiner.as_deref() == Some("or");
            clauses.push(Clause { or, not, field: word, equal, pattern: pattern(&value), value });
            joiner = match words.next() {
                None => return Ok(Self { clauses }),
                Some(word) => match word.to_ascii_lowercase().as_str() {
                    lower @ ("and" | "or") if words.peek().is_some() => Some(lower.to_owned()),
                    lower @ ("and" | "or") => return Err(FilterError::NoClause(lower.to_owned())),
                    _ => return Err(FilterError::Joiner(word)),
                },
            };
        }
        Ok(Self { clauses })
    }

    /// Whether everything matches.
    pub fn is_empty(&self) -> bool {
        self.clauses.is_empty()
    }

    /// Whether the object passes.
    pub fn matches(&self, object: &Value) -> bool {
        let mut result = true;
        for (index, clause) in self.clauses.iter().enumerate() {
            let hit = clause.matches(object);
            result = match (index, clause.or) {
                (0, _) => hit,
                (_, true) => result || hit,
                (_, false) => result && hit,
            };
        }
        result
    }
}

impl Clause {
    fn matches(&self, object: &Value) -> bool {
        let equal = match lookup(object, &self.field) {
            None | Some(Value::Null) => self.value.is_empty(),
            Some(Value::String(text)) => match &self.pattern {
                Some(pattern) => pattern.is_match(text),
                None => text.eq_ignore_ascii_case(&self.value),
            },
            Some(Value::Bool(flag)) => super::query::is_true(&self.value) == *flag,
            Some(Value::Number(number)) => number.to_string() == self.value,
            Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(&self.value)),
            Some(Value::Object(_)) => false,
        };
        (equal == self.equal) != self.not
    }
}

fn pattern(value: &str) -> Option<Regex> {
    let anchored = if value.contains(['^', '$']) { value.to_owned() } else { format!("^(?:{value})$") };
    RegexBuilder::new(&anchored).case_insensitive(true).size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX).build().ok()
}

/// Walks a dotted path. Keys may hold dots, so the longest key is tried first.
fn lookup<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    let object = value.as_object()?;
    if let Some(found) = object.get(path) {
        return Some(found);
    }
    path.rmatch_indices('.').find_map(|(dot, _)| {
        let child = object.get(&path[..dot])?;
        lookup(child, &path[dot + 1..])
    })
}

/// Splits at white space; single or double quotes keep it, a backslash in quotes keeps the next character.
fn split(text: &str) -> Result<Vec<String>, FilterError> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match quote {
            Some(q) if c == q => quote = None,
            Some(q) => {
                let kept = if c == '\\' { escaped(&mut chars, q) } else { c.to_string() };
                word.get_or_insert_default().push_str(&kept);
            }
            None if c == '"' || c == '\'' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(FilterError::Quote);
    }
    words.extend(word);
    Ok(words)
}

/// Only the quote and the backslash lose their backslash: expressions keep theirs.
fn escaped(chars: &mut std::str::Chars<'_>, quote: char) -> String {
    match chars.next() {
        Some(c) if c == quote || c == '\\' => c.to_string(),
        Some(c) => format!("\\{c}"),
        None => "\\".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn instance() -> Value {
        json!({
            "name": "web1", "status": "Running", "ephemeral": false, "status_code": 103, "profiles": ["default"],
            "config": {"image.os": "Debian", "user.note": "two words"},
            "expanded_devices": {"root": {"path": "/", "pool": "default"}, "eth0.1": {"type": "nic"}},
        })
    }

    fn hit(text: &str) -> bool {
        Filter::parse(text).unwrap().matches(&instance())
    }

    #[test]
    fn fields_are_dotted_paths_and_keys_may_hold_dots() {
        assert!(hit(""));
        assert!(hit("config.image.os eq debian"));
        assert!(hit("expanded_devices.root.path eq /"));
        assert!(hit("expanded_devices.eth0.1.type eq nic"));
        assert!(!hit("expanded_devices.eth1.type eq nic"));
        assert!(hit("ephemeral eq false and status_code eq 103 and profiles eq default"));
    }

    #[test]
    fn strings_are_anchored_expressions_without_case() {
        assert!(hit("status eq running"));
        assert!(!hit("name eq web"));
        assert!(hit("name eq web.*"));
        assert!(hit("name eq ^we"));
        assert!(hit("config.user.note eq \"two words\""));
        assert!(hit("name eq a|web1"));
    }

    #[test]
    fn clauses_are_read_from_left_to_right() {
        assert!(hit("not name eq x and status ne stopped"));
        assert!(!hit("name eq web1 or name eq x and name eq y"));
        assert!(hit("name eq x and name eq y or name eq web1"));
        assert!(hit("nothing ne x"));
        assert!(!hit("nothing eq x"));
    }

    #[test]
    fn errors_say_what_is_missing() {
        let error = |text: &str| Filter::parse(text).unwrap_err();
        assert_eq!(error("name"), FilterError::NoOperator);
        assert_eq!(error("name eq"), FilterError::NoValue);
        assert_eq!(error("not"), FilterError::NoClause("not".into()));
        assert_eq!(error("a eq b and"), FilterError::NoClause("and".into()));
        assert_eq!(error("a eq b c"), FilterError::Joiner("c".into()));
        assert_eq!(error("a gt b"), FilterError::Operator("gt".into()));
        assert_eq!(error("a eq 'b"), FilterError::Quote);
        assert_eq!(error(&"x".repeat(5000)), FilterError::TooLong);
        assert_eq!(error(&"a eq b and ".repeat(65)), FilterError::TooManyClauses);
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}") {
            if let Ok(filter) = Filter::parse(&text) {
                let _ = filter.matches(&instance());
            }
        }

        #[test]
        fn a_quoted_value_finds_itself(value in "[a-z ]{1,20}") {
            let filter = Filter::parse(&format!("k eq \"{value}\"")).unwrap();
            let object = json!({"k": value});
            prop_assert!(filter.matches(&object));
        }

        #[test]
        fn not_and_ne_are_opposites(value in "[a-z]{1,8}", other in "[a-z]{1,8}") {
            let object = json!({"k": value});
            let eq = Filter::parse(&format!("k eq {other}")).unwrap().matches(&object);
            let ne = Filter::parse(&format!("k ne {other}")).unwrap().matches(&object);
            let not = Filter::parse(&format!("not k eq {other}")).unwrap().matches(&object);
            prop_assert_eq!(eq, !ne);
            prop_assert_eq!(ne, not);
        }
    }
}
