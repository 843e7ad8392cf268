//! Aliases of images.

use berth_store::doc::{self, Versioned};
use berth_store::{Outcome, Rev, Txn};

use crate::error::{Error, Result};
use crate::info::{AliasDoc, AliasInfo, ImageDoc, alias_key, aliases_of, image_key, images_of};
use crate::store::Images;

/// Longest name of an alias, in bytes.
const NAME_MAX: usize = 255;
/// Longest description, in bytes.
const DESCRIPTION_MAX: usize = 4096;

/// Checks an alias somebody wants to make.
pub(crate) fn check(name: &str, description: &str) -> Result<()> {
    if name.is_empty() || name.len() > NAME_MAX || name.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::Invalid(format!(
            "\"{}\" cannot be an image alias; use 1 to {NAME_MAX} characters without blanks",
            name.escape_debug()
        )));
    }
    if description.len() > DESCRIPTION_MAX {
        return Err(Error::Invalid(format!(
            "the description of image alias \"{name}\" is longer than {DESCRIPTION_MAX} bytes"
        )));
    }
    Ok(())
}

fn type_of(image: Option<&ImageDoc>) -> &'static str {
    image.map_or("container", ImageDoc::image_type)
}

impl Images {
    /// All aliases of a project.
    pub async fn aliases(&self, project: &str) -> Result<Vec<AliasInfo>> {
        let images = doc::list::<ImageDoc>(self.store(), &images_of(project)).await?;
        let aliases = doc::list::<AliasDoc>(self.store(), &aliases_of(project)).await?;
        let infos = aliases.into_iter().map(|(key, alias)| {
            let image = images.iter().find(|(key, _)| key.name() == alias.doc.target);
            info(key.name(), alias, type_of(image.map(|(_, image)| &image.doc)))
        });
        Ok(infos.collect())
    }

    /// One alias.
    pub async fn alias_get(&self, project: &str, name: &str) -> Result<AliasInfo> {
        let alias = self.find_alias(project, name).await?;
        let image = doc::get::<ImageDoc>(self.store(), &image_key(project, &alias.doc.target)).await?;
        Ok(info(name.to_owned(), alias, type_of(image.as_ref().map(|image| &image.doc))))
    }

    async fn find_alias(&self, project: &str, name: &str) -> Result<Versioned<AliasDoc>> {
        let alias = doc::get::<AliasDoc>(self.store(), &alias_key(project, name)).await?;
        alias.ok_or_else(|| Error::AliasNotFound { project: project.to_owned(), name: name.to_owned() })
    }

    /// Makes an alias for the image whose fingerprint begins with `target`.
    pub async fn alias_create(&self, project: &str, name: &str, target: &str, description: &str) -> Result<()> {
        check(name, description)?;
        let (fingerprint, _) = self.find(project, target).await?;
        let key = alias_key(project, name);
        let alias = AliasDoc { target: fingerprint.clone(), description: description.to_owned() };
        let image = image_key(project, &fingerprint);
        let txn = Txn::new().absent(key.clone()).exists(image).write(doc::put(key, &alias));
        match self.store().txn(txn).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { current } if current.first().is_some_and(Option::is_some) => {
                Err(Error::AliasExists { project: project.to_owned(), name: name.to_owned() })
            }
            Outcome::Conflict { .. } => {
                Err(Error::ImageNotFound { project: project.to_owned(), name: target.to_owned() })
            }
        }
    }

    /// Changes target and description; `None` leaves them.
    pub async fn alias_update(
        &self,
        project: &str,
        name: &str,
        target: Option<&str>,
        description: Option<&str>,
        if_match: Option<Rev>,
    ) -> Result<()> {
        let Versioned { mut doc, mod_rev } = self.find_alias(project, name).await?;
        if let Some(target) = target {
            doc.target = self.find(project, target).await?.0;
        }
        doc.description = description.map_or(doc.description, str::to_owned);
        check(name, &doc.description)?;
        let key = alias_key(project, name);
        let txn = Txn::new().mod_rev(key.clone(), if_match.unwrap_or(mod_rev));
        let txn = txn.exists(image_key(project, &doc.target)).write(doc::put(key, &doc));
        self.must(txn, name).await
    }

    /// Gives an alias another name.
    pub async fn alias_rename(&self, project: &str, name: &str, new: &str) -> Result<()> {
        let Versioned { doc, mod_rev } = self.find_alias(project, name).await?;
        check(new, &doc.description)?;
        let (old_key, new_key) = (alias_key(project, name), alias_key(project, new));
        let txn = Txn::new().absent(new_key.clone()).mod_rev(old_key.clone(), mod_rev);
        let txn = txn.write(doc::put(new_key, &doc)).delete(old_key);
        match self.store().txn(txn).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { current } if current.first().is_some_and(Option::is_some) => {
                Err(Error::AliasExists { project: project.to_owned(), name: new.to_owned() })
            }
            Outcome::Conflict { .. } => Err(Error::Changed { what: format!("image alias \"{name}\"") }),
        }
    }

    /// Removes an alias.
    pub async fn alias_delete(&self, project: &str, name: &str) -> Result<()> {
        let mod_rev = self.find_alias(project, name).await?.mod_rev;
        let key = alias_key(project, name);
        self.must(Txn::new().mod_rev(key.clone(), mod_rev).delete(key), name).await
    }

    async fn must(&self, txn: Txn, name: &str) -> Result<()> {
        match self.store().txn(txn).await? {
            Outcome::Committed { .. } => Ok(()),
            Outcome::Conflict { .. } => Err(Error::Changed { what: format!("image alias \"{name}\"") }),
        }
    }
}

fn info(name: String, alias: Versioned<AliasDoc>, image_type: &'static str) -> AliasInfo {
    let Versioned { doc, mod_rev } = alias;
    AliasInfo { name, description: doc.description, target: doc.target, image_type, revision: mod_rev }
}
