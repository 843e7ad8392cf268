//! The virtual machine's view of an image that is good for both kinds of instance.
//!
//! LXD's client takes the kind of a new instance from the image: with `--vm` it refuses one of type `container`. So
//! such an image can be had under a second fingerprint, with the type `virtual-machine`, to which the alias `NAME/vm`
//! of each of its aliases `NAME` leads. The view is not listed and cannot be changed; the image behind it can.

use berth_images::{AliasInfo, ImageInfo};
use berth_store::ErrorKind;
use sha2::{Digest, Sha256};

use crate::{app::App, http::ApiResult};

/// What an alias of the view ends with.
const SUFFIX: &str = "/vm";
/// LXD's type of the view.
const TYPE: &str = "virtual-machine";

fn fingerprint_of(image: &str) -> String {
    hex::encode(Sha256::digest(format!("{image}:{TYPE}")))
}

fn view(mut image: ImageInfo) -> ImageInfo {
    image.fingerprint = fingerprint_of(&image.fingerprint);
    image.image_type = TYPE;
    for (name, _) in &mut image.aliases {
        name.push_str(SUFFIX);
    }
    image
}

/// The image that a fingerprint of a view stands for.
pub async fn behind(app: &App, owner: &str, fingerprint: &str) -> ApiResult<Option<ImageInfo>> {
    if fingerprint.len() < 12 {
        return Ok(None);
    }
    let images = app.images.list(owner).await?;
    let both = |image: &ImageInfo| image.kinds.container && image.kinds.virtual_machine;
    Ok(images.into_iter().find(|image| both(image) && fingerprint_of(&image.fingerprint).starts_with(fingerprint)))
}

/// An image by the start of its fingerprint, or a view by that of its own.
pub async fn image(app: &App, owner: &str, fingerprint: &str) -> ApiResult<ImageInfo> {
    match app.images.get(owner, fingerprint).await {
        Err(error) if error.kind() == ErrorKind::NotFound => match behind(app, owner, fingerprint).await? {
            Some(image) => Ok(view(image)),
            None => Err(error.into()),
        },
        other => Ok(other?),
    }
}

/// An alias, or one of a view.
pub async fn alias(app: &App, owner: &str, name: &str) -> ApiResult<AliasInfo> {
    let error = match app.images.alias_get(owner, name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        other => return Ok(other?),
    };
    let Some(base) = name.strip_suffix(SUFFIX) else { return Err(error.into()) };
    let Ok(alias) = app.images.alias_get(owner, base).await else { return Err(error.into()) };
    let image = app.images.get(owner, &alias.target).await?;
    if !(image.kinds.container && image.kinds.virtual_machine) {
        return Err(error.into());
    }
    Ok(AliasInfo { name: name.to_owned(), target: fingerprint_of(&alias.target), image_type: TYPE, ..alias })
}

/// What a client that makes an instance means: an alias or the start of a fingerprint, of an image or of a view.
pub async fn resolve(app: &App, owner: &str, name: &str) -> ApiResult<ImageInfo> {
    let error = match app.images.resolve(owner, name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => error,
        other => return Ok(other?),
    };
    if let Some(image) = behind(app, owner, name).await? {
        return Ok(image);
    }
    let Ok(alias) = alias(app, owner, name).await else { return Err(error.into()) };
    behind(app, owner, &alias.target).await?.ok_or_else(|| error.into())
}
