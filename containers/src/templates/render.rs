//! From a template to the content of a file.

use std::collections::BTreeMap;
use std::io::{self, Write};

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, UndefinedBehavior, context};

use super::dialect::jinja;
use super::{Facts, Template};

/// What all templates of a start may use together; about 64 bytes of memory each, and never more than this at once.
const FUEL: u64 = 1_000_000;
/// Largest file that is made.
const OUTPUT_MAX: usize = 1 << 20;

/// What is left of [`FUEL`].
pub(super) struct Budget {
    fuel: u64,
}

impl Budget {
    pub(super) fn new() -> Self {
        Self { fuel: FUEL }
    }
}

/// Bytes up to a limit.
struct Capped(Vec<u8>);

impl Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_MAX {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it gives more than {OUTPUT_MAX} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The file's content; an error is the reason.
pub(super) fn render(template: &Template, facts: &Facts, budget: &mut Budget) -> Result<Vec<u8>, String> {
    let source = jinja(&template.source);
    let mut environment = Environment::new();
    environment.set_fuel(Some(budget.fuel));
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    // What is not there is empty, as are its members.
    environment.set_undefined_behavior(UndefinedBehavior::Chainable);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build().map_err(|e| told(&e))?;
    environment.set_syntax(syntax);
    let config = facts.config.clone();
    environment
        .add_function("config_get", move |key: String, default: Option<Value>| config_get(&config, &key, default));
    let instance = Value::from(facts.instance.clone());
    let values = context! {
        trigger => Value::from(&template.trigger),
        path => Value::from(&template.path),
        container => instance.clone(),
        instance => instance,
        config => Value::from(facts.config.clone()),
        devices => Value::from(facts.devices.clone()),
        properties => Value::from(template.properties.clone()),
    };
    let mut output = Capped(Vec::new());
    let compiled = environment.template_from_str(&source).map_err(|e| told(&e))?;
    let captured = compiled.render_captured_to(values, &mut output).map_err(|e| told(&e))?;
    budget.fuel = captured.state().fuel_levels().map_or(0, |(_, left)| left);
    drop(captured);
    Ok(output.0)
}

/// The value of a key without the end of its last line, or else `default`.
fn config_get(config: &BTreeMap<String, String>, key: &str, default: Option<Value>) -> Value {
    match config.get(key) {
        Some(value) => Value::from(value.trim_end_matches(['\r', '\n'])),
        None => default.unwrap_or_default(),
    }
}

/// The error with all its causes.
fn told(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn with(source: &str, budget: &mut Budget) -> Result<String, String> {
        let template = Template {
            path: "/etc/x".into(),
            name: "x.tpl".into(),
            trigger: "create".into(),
            source: source.into(),
            create_only: false,
            properties: map(&[("default", "#cloud-config\n{}")]),
        };
        let facts = Facts {
            instance: map(&[("name", "c1"), ("type", "container"), ("privileged", "false")]),
            config: map(&[("user.a", "one\n\n"), ("user.html", "<&>"), ("limits.cpu", "2")]),
            devices: BTreeMap::from([("eth0".to_owned(), map(&[("type", "nic")]))]),
        };
        render(&template, &facts, budget).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    fn text(source: &str) -> String {
        with(source, &mut Budget::new()).unwrap()
    }

    #[test]
    fn what_images_use_is_understood() {
        for (source, expected) in [
            ("{{ container.name }}\n", "c1\n"),
            ("127.0.1.1\t{{ instance.name }}\n\n", "127.0.1.1\tc1\n\n"),
            ("{{ config_get(\"user.a\", properties.default) }}\n", "one\n"),
            ("{{ config_get(\"user.b\", properties.default) }}\n", "#cloud-config\n{}\n"),
            ("{{ config_get(\"user.b\", \"\") }}{{ config_get('user.html', '') }}", "<&>"),
            ("{% if config_get(\"user.b\", \"\") == \"\" %}a{% else %}b{% endif %}", "a"),
            ("{% if instance.type == \"virtual-machine\" %}enp5s0{% else %}eth0{% endif %}", "eth0"),
            ("{% if config_get(\"user.b\", \"\") == \"x\" %}m{% elif trigger == \"create\" %}d{% endif %}", "d"),
            ("{{ properties.missing.more }}|{{ missing }}|{{ path }}", "||/etc/x"),
            ("{{ properties.missing|default:\"none\"|upper }}", "NONE"),
            ("{% for name, device in devices|items %}{{ name }}={{ device.type }}{% endfor %}", "eth0=nic"),
            ("{% if container.privileged == \"false\" && !missing %}u{% endif %}", "u"),
            ("{{ config[\"limits.cpu\"] }}", "2"),
        ] {
            assert_eq!(text(source), expected, "{source}");
        }
    }

    #[test]
    fn wrong_templates_are_told() {
        for (source, reason) in [
            ("{% if %}", "syntax"),
            ("{{ container.name", "syntax"),
            ("{% include \"/etc/shadow\" %}", "syntax"),
            ("{{ x|no_such_filter }}", "no_such_filter"),
        ] {
            let error = with(source, &mut Budget::new()).expect_err(source);
            assert!(error.contains(reason), "{source}: {error}");
        }
    }

    #[test]
    fn time_memory_and_output_are_limited() {
        let doubling = "{% set a = \"xxxxxxxxxxxxxxxx\" %}".to_owned() + &"{% set a = a ~ a %}".repeat(40);
        for source in [
            "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
            &doubling,
            "{{ \"x\" * 100000000 }}",
            "{% for a in range(30) %}{{ \"x\" * 50000 }}{% endfor %}",
        ] {
            with(source, &mut Budget::new()).expect_err(source);
        }
        // Many templates have no more than one.
        let mut budget = Budget::new();
        let mut count = 0;
        while with("{% for a in range(20000) %}{% endfor %}", &mut budget).is_ok() {
            count += 1;
            assert!(count < 100);
        }
    }

    proptest! {
        #[test]
        fn any_template_is_survived(source in "(\\{\\{|\\}\\}|\\{%|%\\}| if | for a in |config_get|\\(|\\)|\"|a|\\||:|~|\\*|9| endif | set |=|\n|é){0,20}") {
            let _ = with(&source, &mut Budget::new());
        }
    }
}
