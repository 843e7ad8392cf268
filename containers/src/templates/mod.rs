//! Files that are written into a container's root before its init runs, made of templates that come with images.
//!
//! Who wrote the image is not trusted, nor is what has become of the root. So the container's own first process renders the
//! templates and writes the files, as the container's root and in its cgroups: all they can do is what any program in the
//! container could.

mod dialect;
mod render;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};

/// Largest file with templates that is read.
pub const SIZE_MAX: u64 = 16 << 20;

/// What is to be written at one start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Templates {
    /// In this order.
    pub files: Vec<Template>,
    /// What they may know.
    pub facts: Facts,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Template {
    /// Path in the root.
    pub path: String,
    /// Name of the template, for messages.
    pub name: String,
    /// Why it is written: `create`, `copy`, `rename` or `start`.
    pub trigger: String,
    /// The template.
    pub source: String,
    /// Only if there is nothing at that path.
    pub create_only: bool,
    /// Values of its own.
    pub properties: BTreeMap<String, String>,
}

/// What templates may know of their instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// `name`, `type` and the like.
    pub instance: BTreeMap<String, String>,
    /// Its configuration, with that of its profiles.
    pub config: BTreeMap<String, String>,
    /// Its devices, with those of its profiles.
    pub devices: BTreeMap<String, BTreeMap<String, String>>,
}

impl Templates {
    /// Reads them from the file the daemon handed over.
    pub(crate) fn read(file: OwnedFd) -> Result<Self> {
        let mut text = Vec::new();
        File::from(file).take(SIZE_MAX).read_to_end(&mut text).context("read the container's templates")?;
        serde_json::from_slice(&text).map_err(|e| Error::Spec(format!("its templates: {e}")))
    }

    /// Writes the files below the directory `root`, as the calling process may.
    pub(crate) fn apply(&self, root: impl AsFd) -> Result<()> {
        let mut budget = render::Budget::new();
        for template in &self.files {
            let done = self.one(root.as_fd(), template, &mut budget);
            done.map_err(|reason| {
                Error::Init(format!(
                    "template \"{}\" of {}: {reason}; mend it with `lxc config template edit` or leave it out with \
                     `lxc config metadata edit`",
                    template.name, template.path
                ))
            })?;
        }
        Ok(())
    }

    fn one(
        &self,
        root: std::os::fd::BorrowedFd<'_>,
        template: &Template,
        budget: &mut render::Budget,
    ) -> Result<(), String> {
        let cannot = |e: std::io::Error| format!("the file cannot be written: {e}");
        if template.create_only && write::exists(root, &template.path).map_err(cannot)? {
            return Ok(());
        }
        let content = render::render(template, &self.facts, budget)?;
        write::write(root, &template.path, &content).map_err(cannot)
    }
}
