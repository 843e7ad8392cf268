//! `berth image`.

use anyhow::{Result, bail};
use berth_api::{
    Client, Endpoint,
    client::Method,
    images::{
        Image as Object, ImageAlias, ImageAliasesEntry, ImageAliasesEntryPost, ImageAliasesPost, ImagePut, ImagesPost,
        ImagesPostSource,
    },
};
use clap::Subcommand;

use super::{image_transfer, image_warm::Warm, launch::fingerprint};
use crate::{
    complete, editor,
    output::{self, Format, Table, date, size},
    target,
    target::Context,
};

/// Work with images
#[derive(Debug, Subcommand)]
pub enum Image {
    /// Work with aliases
    #[command(subcommand)]
    Alias(Alias),
    /// Build an image of a distribution
    Build {
        /// Distribution: debian/12, debian/13
        distribution: String,
        /// Packages on top of the base system
        #[arg(long, value_delimiter = ',', value_name = "PACKAGES")]
        packages: Vec<String>,
        /// Alias of the new image
        #[arg(long, value_name = "ALIAS")]
        alias: Vec<String>,
        /// Package mirror
        #[arg(long, value_name = "URL")]
        mirror: Option<String>,
        /// Let everybody see it
        #[arg(long)]
        public: bool,
    },
    /// Delete images
    #[command(alias = "rm")]
    Delete {
        /// Images
        #[arg(required = true, add = complete::images())]
        images: Vec<String>,
    },
    /// Edit the properties of an image
    Edit {
        /// Image
        #[arg(add = complete::images())]
        image: String,
    },
    /// Write an image to files
    Export {
        /// Image
        #[arg(add = complete::images())]
        image: String,
        /// Directory or begin of the file names; `-` for standard output
        target: Option<String>,
        /// Accepted for LXD's scripts: an image is found by its name
        #[arg(long, hide = true)]
        vm: bool,
    },
    /// Show a property
    GetProperty {
        /// Image
        #[arg(add = complete::images())]
        image: String,
        /// Key
        key: String,
    },
    /// Read an image from files
    Import {
        /// Image or its metadata
        file: String,
        /// Root file system, if it has a file of its own
        rootfs: Option<String>,
        /// KEY=VALUE properties
        properties: Vec<String>,
        /// Alias of the new image
        #[arg(long, value_name = "ALIAS")]
        alias: Vec<String>,
        /// Let everybody see it
        #[arg(long)]
        public: bool,
    },
    /// Show an image
    Info {
        /// Image
        #[arg(add = complete::images())]
        image: String,
        /// Accepted for LXD's scripts: an image is found by its name
        #[arg(long, hide = true)]
        vm: bool,
    },
    /// List images
    #[command(alias = "ls")]
    List {
        /// Begin of an alias or fingerprint, or KEY=VALUE of a property
        filters: Vec<String>,
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
        /// Columns: l alias, L all aliases, f fingerprint, F whole fingerprint, p public, d description,
        /// a architecture, s size, u uploaded, t type
        #[arg(short, long, default_value = "lfpdatsu", value_name = "COLUMNS")]
        columns: String,
    },
    /// Set a property
    SetProperty {
        /// Image
        #[arg(add = complete::images())]
        image: String,
        /// Key
        key: String,
        /// Value
        value: String,
    },
    /// Show the properties of an image
    Show {
        /// Image
        #[arg(add = complete::images())]
        image: String,
        /// Accepted for LXD's scripts: an image is found by its name
        #[arg(long, hide = true)]
        vm: bool,
    },
    /// Remove a property
    UnsetProperty {
        /// Image
        #[arg(add = complete::images())]
        image: String,
        /// Key
        key: String,
    },
    Warm(Warm),
}

/// Work with aliases
#[derive(Debug, Subcommand)]
pub enum Alias {
    /// Give an image another name
    Create {
        /// Alias
        alias: String,
        /// Fingerprint or alias of the image
        #[arg(add = complete::images())]
        image: String,
        /// Description
        #[arg(long)]
        description: Option<String>,
    },
    /// Delete an alias, not its image
    #[command(alias = "rm")]
    Delete {
        /// Alias
        #[arg(add = complete::images())]
        alias: String,
    },
    /// List aliases
    #[command(alias = "ls")]
    List {
        /// Begin of the name
        filters: Vec<String>,
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// Rename an alias
    Rename {
        /// Alias
        #[arg(add = complete::images())]
        alias: String,
        /// New name
        new_name: String,
    },
}

impl Image {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Alias(alias) => alias.run(context).await,
            Self::Build { distribution, packages, alias, mirror, public } => {
                let source = ImagesPostSource {
                    kind: "build".into(),
                    distribution: distribution.clone(),
                    packages,
                    mirror: mirror.unwrap_or_default(),
                    ..ImagesPostSource::default()
                };
                let post =
                    ImagesPost { public, source: Some(source), aliases: aliases(&alias), ..ImagesPost::default() };
                let title = format!("Building {distribution}");
                let operation = context.run(Method::POST, &Endpoint::new(&["images"]), Some(&post), &title).await?;
                image_transfer::tell(operation.as_ref())
            }
            Self::Warm(warm) => {
                let (endpoint, _) = find(context, &warm.image).await?;
                warm.run(context, &endpoint).await
            }
            Self::Delete { images } => {
                for image in &images {
                    let (endpoint, _) = find(context, image).await?;
                    context.delete(&endpoint, &format!("Deleting {image}")).await?;
                }
                Ok(())
            }
            Self::Edit { image } => {
                let (endpoint, _) = find(context, &image).await?;
                let (image, etag): (Object, _) = context.client.get_with_etag(&endpoint).await?;
                let help = "The properties of the image. Lines that begin with # are left out.";
                editor::edit(&ImagePut::from(image), help, async |put: ImagePut| {
                    let body = Client::json(&put)?;
                    let answer = context.client.request(Method::PUT, &endpoint, body, etag.as_deref()).await?;
                    context.finish(answer, "").await.map(|_| ())
                })
                .await
            }
            Self::Export { image, target, .. } => {
                let (endpoint, image) = find(context, &image).await?;
                image_transfer::export(context, &endpoint, &image, target.as_deref()).await
            }
            Self::Import { file, rootfs, properties, alias, public } => {
                let import = image_transfer::Import { file, rootfs, properties, aliases: aliases(&alias), public };
                import.run(context).await
            }
            Self::Info { image, .. } => output::print(&info(&find(context, &image).await?.1)),
            Self::Show { image, .. } => output::print_yaml(&ImagePut::from(find(context, &image).await?.1)),
            Self::List { filters, format, columns } => list(context, &filters, format, &columns).await,
            Self::GetProperty { image, key } => {
                let (_, image) = find(context, &image).await?;
                output::print(&format!("{}\n", image.properties.get(&key).map_or("", String::as_str)))
            }
            Self::SetProperty { image, key, value } => property(context, &image, &key, Some(value)).await,
            Self::UnsetProperty { image, key } => property(context, &image, &key, None).await,
        }
    }
}

impl Alias {
    async fn run(self, context: &Context) -> Result<()> {
        let collection = Endpoint::new(&["images", "aliases"]);
        match self {
            Self::Create { alias, image, description } => {
                let target = fingerprint(context, target::required(&image, "image")?).await?;
                let name = target::required(&alias, "alias")?.to_owned();
                let description = description.unwrap_or_default();
                let post = ImageAliasesPost { name, target, description, ..ImageAliasesPost::default() };
                context.create(&collection, &post).await
            }
            Self::Delete { alias } => context.delete(&collection.join(&[target::required(&alias, "alias")?]), "").await,
            Self::Rename { alias, new_name } => {
                let post = ImageAliasesEntryPost { name: target::required(&new_name, "alias")?.to_owned() };
                context.create(&collection.join(&[target::required(&alias, "alias")?]), &post).await
            }
            Self::List { filters, format } => {
                let mut aliases: Vec<ImageAliasesEntry> = context.get(&collection.query("recursion", "1")).await?;
                aliases.retain(|alias| filters.iter().all(|filter| alias.name.starts_with(filter.as_str())));
                let mut table = Table::new(["ALIAS", "FINGERPRINT", "TYPE", "DESCRIPTION"]);
                for alias in &aliases {
                    let kind = alias.kind.as_str().to_uppercase();
                    table.row([alias.name.clone(), short(&alias.target), kind, alias.description.clone()]);
                }
                table.print(format, &aliases)
            }
        }
    }
}

fn aliases(names: &[String]) -> Vec<ImageAlias> {
    names.iter().map(|name| ImageAlias { name: name.clone(), description: String::new() }).collect()
}

/// An image by alias or fingerprint, and its endpoint.
async fn find(context: &Context, image: &str) -> Result<(Endpoint, Object)> {
    let fingerprint = fingerprint(context, target::required(image, "image")?).await?;
    let endpoint = Endpoint::new(&["images", &fingerprint]);
    let image: Object = context.get(&endpoint).await?;
    Ok((Endpoint::new(&["images", &image.fingerprint]), image))
}

async fn property(context: &Context, image: &str, key: &str, value: Option<String>) -> Result<()> {
    let (endpoint, _) = find(context, image).await?;
    let (image, etag): (Object, _) = context.client.get_with_etag(&endpoint).await?;
    let mut put = ImagePut::from(image);
    match value {
        Some(value) => drop(put.properties.insert(key.to_owned(), value)),
        None if put.properties.remove(key).is_none() => bail!("the image has no property `{key}`"),
        None => {}
    }
    let answer = context.client.request(Method::PUT, &endpoint, Client::json(&put)?, etag.as_deref()).await?;
    context.finish(answer, "").await.map(|_| ())
}

fn short(fingerprint: &str) -> String {
    fingerprint.chars().take(12).collect()
}

fn kinds(image: &Object) -> String {
    if image.kinds.is_empty() {
        return image.kind.as_str().to_uppercase();
    }
    image.kinds.iter().map(|kind| kind.as_str().to_uppercase()).collect::<Vec<_>>().join(", ")
}

async fn list(context: &Context, filters: &[String], format: Format, columns: &str) -> Result<()> {
    let mut images: Vec<Object> = context.get(&Endpoint::new(&["images"]).query("recursion", "1")).await?;
    images.retain(|image| filters.iter().all(|filter| matches(image, filter)));
    images.sort_by_key(|image| (image.aliases.first().map(|alias| alias.name.clone()), image.fingerprint.clone()));
    let columns: Vec<char> = columns.chars().collect();
    let titles = columns.iter().map(|letter| title(*letter)).collect::<Result<Vec<_>>>()?;
    let mut table = Table::new(titles);
    for image in &images {
        table.row(columns.iter().map(|letter| column(*letter, image)));
    }
    table.print(format, &images)
}

fn title(letter: char) -> Result<&'static str> {
    Ok(match letter {
        'l' => "ALIAS",
        'L' => "ALIASES",
        'f' | 'F' => "FINGERPRINT",
        'p' => "PUBLIC",
        'd' => "DESCRIPTION",
        'a' => "ARCHITECTURE",
        't' => "TYPE",
        's' => "SIZE",
        'u' => "UPLOAD DATE",
        other => bail!("there is no column `{other}`; `berth image list --help` shows them all"),
    })
}

fn column(letter: char, image: &Object) -> String {
    match letter {
        'l' => match image.aliases.as_slice() {
            [] => String::new(),
            [one] => one.name.clone(),
            [first, rest @ ..] => format!("{} ({} more)", first.name, rest.len()),
        },
        'L' => image.aliases.iter().map(|alias| alias.name.as_str()).collect::<Vec<_>>().join("\n"),
        'f' => short(&image.fingerprint),
        'F' => image.fingerprint.clone(),
        'p' => if image.public { "yes" } else { "no" }.into(),
        'd' => image.properties.get("description").cloned().unwrap_or_default(),
        'a' => image.architecture.clone(),
        't' => kinds(image),
        's' => size(image.size),
        _ => date(image.uploaded_at),
    }
}

fn matches(image: &Object, filter: &str) -> bool {
    match filter.split_once('=') {
        Some((key, value)) => match key {
            "type" => kinds(image).to_lowercase().lines().any(|kind| kind == value),
            "architecture" => image.architecture == value,
            _ => image.properties.get(key).is_some_and(|have| have == value),
        },
        None => {
            image.fingerprint.starts_with(filter) || image.aliases.iter().any(|alias| alias.name.starts_with(filter))
        }
    }
}

fn info(image: &Object) -> String {
    use std::fmt::Write as _;
    let mut out = format!(
        "Fingerprint: {}\nSize: {}\nArchitecture: {}\nType: {}\nPublic: {}\n",
        image.fingerprint,
        size(image.size),
        image.architecture,
        kinds(image).to_lowercase(),
        if image.public { "yes" } else { "no" }
    );
    let never = |text: String| if text.is_empty() { "never".into() } else { text };
    let _ = write!(
        out,
        "Timestamps:\n  Created: {}\n  Uploaded: {}\n  Expires: {}\n  Last used: {}\n",
        never(date(image.created_at)),
        never(date(image.uploaded_at)),
        never(date(image.expires_at)),
        never(date(image.last_used_at))
    );
    for (title, lines) in [
        ("Properties", image.properties.iter().map(|(key, value)| format!("{key}: {value}")).collect::<Vec<_>>()),
        ("Aliases", image.aliases.iter().map(|alias| format!("- {}", alias.name)).collect()),
        ("Profiles", image.profiles.iter().map(|profile| format!("- {profile}")).collect()),
    ] {
        if !lines.is_empty() {
            let _ = writeln!(out, "{title}:\n  {}", lines.join("\n  "));
        }
    }
    out
}
