//! `metadata.yaml` of an image.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_saphyr::{Budget, Options};

use crate::error::{Error, Result};
use crate::unpack::check::METADATA_MAX;

/// Most properties an image may have.
pub const PROPERTIES_MAX: usize = 200;
/// Longest name of a property, in bytes.
pub const PROPERTY_NAME_MAX: usize = 255;
/// Longest value of a property, in bytes.
pub const PROPERTY_VALUE_MAX: usize = 8 << 10;
/// Most templates an image may have.
pub const TEMPLATES_MAX: usize = 200;
/// Longest path in a template entry.
const PATH_MAX: usize = 4096;

/// Property that says a virtual machine can be made of an image with a root filesystem.
pub const VM_CAPABLE: &str = "vm.capable";

/// What an image says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata {
    /// Architecture in the kernel's words, e.g. `x86_64`.
    #[serde(default)]
    pub architecture: String,
    /// When it was made, seconds since 1970.
    #[serde(default)]
    pub creation_date: i64,
    /// When it is outdated, seconds since 1970; 0 for never.
    #[serde(default)]
    pub expiry_date: i64,
    /// Free properties such as `os` and `release`.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
    /// Files to be written at certain moments, by their path in the instance.
    #[serde(default)]
    pub templates: BTreeMap<String, Template>,
}

/// One file to be written into an instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Moments: `create`, `copy`, `rename`, `start`.
    #[serde(default)]
    pub when: Vec<String>,
    /// Only if the file is not there.
    #[serde(default)]
    pub create_only: bool,
    /// Name of the template in `templates/`.
    #[serde(default)]
    pub template: String,
    /// Values the template may use.
    #[serde(default)]
    pub properties: BTreeMap<String, String>,
}

/// Free-form scalars: `version: 12` is as good as `version: "12"`.
#[derive(Deserialize)]
struct Loose {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    creation_date: Option<f64>,
    #[serde(default)]
    expiry_date: Option<f64>,
    #[serde(default)]
    properties: Option<BTreeMap<String, Option<String>>>,
    #[serde(default)]
    templates: Option<BTreeMap<String, LooseTemplate>>,
}

#[derive(Deserialize)]
struct LooseTemplate {
    #[serde(default)]
    when: Option<Vec<String>>,
    #[serde(default)]
    create_only: Option<bool>,
    #[serde(default)]
    template: Option<String>,
    #[serde(default)]
    properties: Option<BTreeMap<String, Option<String>>>,
}

fn invalid(reason: impl std::fmt::Display) -> Error {
    Error::Invalid(format!("metadata.yaml of the image: {reason}"))
}

fn flat(map: Option<BTreeMap<String, Option<String>>>) -> BTreeMap<String, String> {
    map.unwrap_or_default().into_iter().map(|(key, value)| (key, value.unwrap_or_default())).collect()
}

/// Parses `metadata.yaml`, which somebody else wrote.
pub fn parse(text: &str) -> Result<Metadata> {
    if text.len() as u64 > METADATA_MAX {
        return Err(invalid(format!("larger than {METADATA_MAX} bytes")));
    }
    let loose: Loose = serde_saphyr::from_str_with_options(text, options()).map_err(|e| invalid(e.to_string()))?;
    let seconds = |value: Option<f64>| value.map_or(0, |seconds| seconds as i64);
    let templates = loose.templates.unwrap_or_default();
    let metadata = Metadata {
        architecture: loose.architecture,
        creation_date: seconds(loose.creation_date),
        expiry_date: seconds(loose.expiry_date),
        properties: flat(loose.properties),
        templates: templates.into_iter().map(|(path, template)| (path, template.into())).collect(),
    };
    check(&metadata)?;
    Ok(metadata)
}

fn options() -> Options {
    let mut budget = Budget::default();
    // No honest metadata.yaml uses anchors; without them a small file stays small.
    budget.max_aliases = 0;
    budget.max_anchors = 0;
    budget.max_events = 50_000;
    budget.max_depth = 20;
    let mut options = Options::default();
    options.budget = Some(budget);
    options.no_schema = false;
    options
}

impl From<LooseTemplate> for Template {
    fn from(loose: LooseTemplate) -> Self {
        Self {
            when: loose.when.unwrap_or_default(),
            create_only: loose.create_only.unwrap_or_default(),
            template: loose.template.unwrap_or_default(),
            properties: flat(loose.properties),
        }
    }
}

/// Checks metadata, which comes from an image or a user.
pub fn check(metadata: &Metadata) -> Result<()> {
    if metadata.templates.len() > TEMPLATES_MAX {
        return Err(invalid(format!("more than {TEMPLATES_MAX} templates")));
    }
    if metadata.architecture.is_empty() {
        return Err(invalid("`architecture` is missing; set it, e.g. to x86_64"));
    }
    if metadata.architecture.len() > 64 || !metadata.architecture.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Err(invalid("`architecture` is no name of an architecture"));
    }
    properties(&metadata.properties).map_err(invalid)?;
    for (path, template) in &metadata.templates {
        if !path.starts_with('/')
            || path.len() > PATH_MAX
            || path.contains('\0')
            || path.split('/').any(|part| part == "..")
        {
            return Err(invalid(format!("template target {path:?} is no absolute path without `..`")));
        }
        let name = &template.template;
        if !is_template_name(name) {
            return Err(invalid(format!("template name {name:?} of {path:?} is no plain file name")));
        }
    }
    Ok(())
}

/// Whether a template may be called so: by the name of a file in `templates/`.
pub fn is_template_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.starts_with('.') && !name.contains(['/', '\0'])
}

/// Checks properties, which come from an image or a user; gives the reason if they cannot be taken.
pub fn properties(properties: &BTreeMap<String, String>) -> Result<(), String> {
    if properties.len() > PROPERTIES_MAX {
        return Err(format!("more than {PROPERTIES_MAX} properties"));
    }
    for (name, value) in properties {
        if name.is_empty() || name.len() > PROPERTY_NAME_MAX || name.chars().any(char::is_control) {
            return Err(format!("property name {name:?} is empty, too long or holds control characters"));
        }
        if value.len() > PROPERTY_VALUE_MAX {
            return Err(format!("property {name:?} is longer than {PROPERTY_VALUE_MAX} bytes"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "architecture: x86_64\ncreation_date: 1700000000\nexpiry_date: 0\nproperties:\n  os: Debian\n  \
                        release: bookworm\n  version: 12\ntemplates:\n  /etc/hostname:\n    when: [create, copy]\n    \
                        create_only: true\n    template: hostname.tpl\n    properties: {}\n";

    #[test]
    fn a_usual_file_parses() {
        let metadata = parse(GOOD).expect("metadata");
        assert_eq!(metadata.architecture, "x86_64");
        assert_eq!(metadata.creation_date, 1_700_000_000);
        assert_eq!(metadata.properties["version"], "12");
        assert_eq!(metadata.templates["/etc/hostname"].when, ["create", "copy"]);
        assert!(metadata.templates["/etc/hostname"].create_only);
    }

    #[test]
    fn nulls_are_as_good_as_nothing() {
        let metadata = parse("architecture: i686\nproperties:\ntemplates:\nexpiry_date:\n").expect("metadata");
        assert!(metadata.properties.is_empty() && metadata.templates.is_empty());
    }

    #[test]
    fn bad_files_are_refused_with_a_reason() {
        for (text, reason) in [
            ("", "architecture"),
            ("architecture: ../x\n", "architecture"),
            ("architecture: x86_64\ntemplates:\n  /etc/../../x: {template: a}\n", "template target"),
            ("architecture: x86_64\ntemplates:\n  /etc/x: {template: ../../etc/shadow}\n", "template name"),
            ("a: &a [x]\narchitecture: x86_64\nproperties: {b: *a}\n", "metadata.yaml"),
            ("[", "metadata.yaml"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(reason), "{text:?}: {error}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in "\\PC{0,300}") {
            let _ = parse(&text);
        }

        #[test]
        fn any_yaml_like_text_is_survived(lines in proptest::collection::vec("[ ]{0,4}(architecture|properties|templates|- )?:? ?[\\[\\]{}&*!|>'\"a-z0-9]{0,8}", 0..20)) {
            let _ = parse(&lines.join("\n"));
        }

        #[test]
        fn what_is_written_is_read_again(
            properties in proptest::collection::btree_map("[a-z.]{1,10}", "[ -~]{0,40}", 0..10),
            date in 0i64..4_000_000_000,
        ) {
            let metadata = Metadata { architecture: "x86_64".into(), creation_date: date, properties, ..Metadata::default() };
            let text = serde_saphyr::to_string(&metadata).expect("yaml");
            prop_assert_eq!(parse(&text).expect(&text), metadata);
        }
    }
}
