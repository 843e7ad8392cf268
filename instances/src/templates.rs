//! Files that an image wants written into the containers made from it, at certain moments.
//!
//! A moment is remembered until the next start, before which the files are written.

use std::os::fd::OwnedFd;

use berth_containers::templates::{Facts, SIZE_MAX, Template, Templates};
use berth_images::Origin;

use crate::error::{Error, Result};
use crate::model::{Config, Instance, Kind};

/// What happened to the instance of which its files do not know yet.
pub(crate) const PENDING: &str = "volatile.apply_template";
/// What happens at each start.
const START: &str = "start";

/// Something that happens to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// It was made from an image.
    Create,
    /// It was made from another instance.
    Copy,
    /// It got another name.
    Rename,
}

impl Trigger {
    const ALL: [Self; 3] = [Self::Create, Self::Copy, Self::Rename];

    /// The word in metadata and configuration.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Copy => "copy",
            Self::Rename => "rename",
        }
    }

    /// Remembers it for the next start, unless something else is remembered: who was made and renamed was made.
    pub(crate) fn defer(self, kind: Kind, volatile: &mut Config) {
        if kind == Kind::Container {
            volatile.entry(PENDING.to_owned()).or_insert_with(|| self.as_str().to_owned());
        }
    }

    /// Remembers it in place of all else: the instance has another content.
    pub(crate) fn defer_only(self, kind: Kind, volatile: &mut Config) {
        volatile.remove(PENDING);
        self.defer(kind, volatile);
    }
}

/// Whether a value of [`PENDING`] makes sense.
pub(crate) fn is_pending(value: &str) -> bool {
    Trigger::ALL.iter().any(|trigger| trigger.as_str() == value)
}

/// What is to be written before the next start of `instance`.
pub(crate) fn due(origin: &Origin, instance: &Instance) -> Result<Templates> {
    let Some(metadata) = origin.metadata()? else { return Ok(Templates::default()) };
    let pending = instance.volatile.get(PENDING).map(String::as_str);
    let mut files = Vec::new();
    for trigger in pending.into_iter().chain([START]) {
        for (path, template) in metadata.templates.iter().filter(|(_, t)| t.when.iter().any(|when| when == trigger)) {
            let name = &template.template;
            let source = origin.template(name).map_err(|e| {
                Error::Invalid(format!(
                    "instance \"{}\" cannot start: {path} is to be made of a template: {e}; make it with `lxc config \
                     template create` or leave it out with `lxc config metadata edit`",
                    instance.name
                ))
            })?;
            let source = String::from_utf8(source)
                .map_err(|_| Error::Invalid(format!("template \"{name}\" of {path} is not UTF-8")))?;
            files.push(Template {
                path: path.clone(),
                name: name.clone(),
                trigger: trigger.to_owned(),
                source,
                create_only: template.create_only,
                properties: template.properties.clone(),
            });
        }
    }
    Ok(Templates { files, facts: facts(instance) })
}

fn facts(instance: &Instance) -> Facts {
    let own = [
        ("name", instance.name.clone()),
        ("type", instance.kind.to_string()),
        ("architecture", instance.architecture.clone()),
        ("ephemeral", instance.ephemeral.to_string()),
        ("privileged", false.to_string()),
    ];
    Facts {
        instance: own.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
        config: instance.expanded_config.clone(),
        devices: instance.expanded_devices.clone(),
    }
}

/// The templates as a file for the container's runtime; `None` if there are none.
pub(crate) fn file(templates: &Templates) -> Result<Option<OwnedFd>> {
    if templates.files.is_empty() {
        return Ok(None);
    }
    let text = serde_json::to_vec(templates).map_err(|e| Error::Runtime(format!("write templates: {e}")))?;
    if text.len() as u64 > SIZE_MAX {
        return Err(Error::Invalid(format!(
            "the templates are larger than {SIZE_MAX} bytes together; make them smaller"
        )));
    }
    let make = || -> std::io::Result<OwnedFd> {
        let mut file = std::fs::File::from(rustix::fs::memfd_create(c"templates", rustix::fs::MemfdFlags::CLOEXEC)?);
        std::io::Write::write_all(&mut file, &text)?;
        std::io::Seek::rewind(&mut file)?;
        Ok(file.into())
    };
    make().map(Some).map_err(Error::io("hand over templates"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_first_counts_until_the_start() {
        let mut volatile = Config::new();
        Trigger::Create.defer(Kind::VirtualMachine, &mut volatile);
        assert!(volatile.is_empty(), "nobody would write the files of a virtual machine");
        Trigger::Copy.defer(Kind::Container, &mut volatile);
        Trigger::Rename.defer(Kind::Container, &mut volatile);
        assert_eq!(volatile[PENDING], "copy");
        Trigger::Create.defer_only(Kind::Container, &mut volatile);
        assert_eq!(volatile[PENDING], "create");
        assert!(is_pending("rename") && !is_pending("start") && !is_pending(""));
    }
}
