//! `berth config trust`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use berth_api::{
    Client, Endpoint,
    certificates::{Certificate, CertificateAddToken, CertificatePut, CertificatesPost},
    client::Method,
    operations::{CLASS_TOKEN, Operation, OperationsByStatus},
};
use clap::Subcommand;

use crate::{
    editor,
    output::{self, Format, Table, date},
    target::Context,
};

/// Work with clients that the server trusts
#[derive(Debug, Subcommand)]
pub enum Trust {
    /// Trust a client: by its certificate, or by a token that is given to it
    Add {
        /// File with the certificate; a token is made without
        certificate: Option<PathBuf>,
        /// Name of the client; of the file without
        #[arg(long)]
        name: Option<String>,
        /// Let it use nothing but projects
        #[arg(long)]
        restricted: bool,
        /// Projects it may use
        #[arg(long, value_delimiter = ',', requires = "restricted")]
        projects: Vec<String>,
        /// client, or metrics to read figures only
        #[arg(long = "type", default_value = "client", value_name = "TYPE")]
        kind: String,
    },
    /// Edit what a client may do
    Edit {
        /// Fingerprint, or how it begins
        fingerprint: String,
    },
    /// List trusted clients
    #[command(alias = "ls")]
    List {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// List tokens that are not used yet
    ListTokens {
        /// Format
        #[arg(short, long, default_value = "table", value_name = "FORMAT")]
        format: Format,
    },
    /// Trust a client no more
    #[command(alias = "rm")]
    Remove {
        /// Fingerprint, or how it begins
        fingerprint: String,
    },
    /// Make a token useless
    RevokeToken {
        /// Name of the client it was made for
        name: String,
    },
    /// Show a trusted client
    Show {
        /// Fingerprint, or how it begins
        fingerprint: String,
    },
}

fn endpoint(fingerprint: &str) -> Endpoint {
    Endpoint::new(&["certificates", fingerprint])
}

impl Trust {
    pub async fn run(self, context: &Context) -> Result<()> {
        match self {
            Self::Add { certificate, name, restricted, projects, kind } => {
                let post = CertificatesPost { restricted, projects, kind, ..CertificatesPost::default() };
                match certificate {
                    Some(path) => add(context, &path, name, post).await,
                    None => token(context, name, post).await,
                }
            }
            Self::Edit { fingerprint } => edit(context, &endpoint(&fingerprint)).await,
            Self::Show { fingerprint } => {
                output::print_yaml(&context.get::<Certificate>(&endpoint(&fingerprint)).await?)
            }
            Self::Remove { fingerprint } => context.delete(&endpoint(&fingerprint), "").await,
            Self::RevokeToken { name } => revoke(context, &name).await,
            Self::List { format } => list(context, format).await,
            Self::ListTokens { format } => {
                let tokens = tokens(context).await?;
                let mut table = Table::new(["NAME", "TOKEN", "EXPIRES AT"]);
                let mut shown = Vec::new();
                for (_, token) in tokens {
                    table.row([token.client_name.clone(), encode(&token)?, date(token.expires_at)]);
                    shown.push(token);
                }
                table.print(format, &shown)
            }
        }
    }
}

async fn add(context: &Context, path: &Path, name: Option<String>, mut post: CertificatesPost) -> Result<()> {
    let pem = std::fs::read_to_string(path);
    post.certificate = pem.with_context(|| format!("cannot read the certificate {}", path.display()))?;
    let stem = || path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    post.name = name.or_else(stem).unwrap_or_default();
    context.create(&Endpoint::new(&["certificates"]), &post).await
}

async fn token(context: &Context, name: Option<String>, mut post: CertificatesPost) -> Result<()> {
    let Some(name) = name else { bail!("a token needs a name for the client: give it with --name") };
    post.name = name;
    post.token = true;
    let body = Client::json(&post)?;
    let answer = context.client.request(Method::POST, &Endpoint::new(&["certificates"]), body, None).await?;
    let operation: Operation = answer.into("POST /1.0/certificates")?;
    let token = read_token(&operation).context("the server answered with something else than a token")?;
    output::print(&format!("{}\n", encode(&token)?))
}

/// The form in which clients are given it.
fn encode(token: &CertificateAddToken) -> Result<String> {
    Ok(STANDARD.encode(serde_json::to_vec(token)?))
}

/// The token that an operation is.
fn read_token(operation: &Operation) -> Option<CertificateAddToken> {
    let text = |key: &str| Some(operation.value(key)?.as_str()?.to_owned());
    let addresses = operation.value("addresses")?.as_array()?;
    Some(CertificateAddToken {
        client_name: operation.value("request")?.get("name")?.as_str()?.to_owned(),
        fingerprint: text("fingerprint")?,
        addresses: addresses.iter().filter_map(|address| address.as_str().map(str::to_owned)).collect(),
        secret: text("secret")?,
        expires_at: text("expiresAt").and_then(|time| serde_json::from_value(time.into()).ok()).unwrap_or_default(),
    })
}

/// Tokens that can be used, with the ids of their operations.
async fn tokens(context: &Context) -> Result<Vec<(String, CertificateAddToken)>> {
    let by_status: OperationsByStatus = context.get(&Endpoint::new(&["operations"]).query("recursion", "1")).await?;
    let running = by_status.into_iter().filter(|(status, _)| status == "running").flat_map(|(_, list)| list);
    let tokens = running.filter(|operation| operation.class == CLASS_TOKEN);
    Ok(tokens.filter_map(|operation| read_token(&operation).map(|token| (operation.id, token))).collect())
}

async fn revoke(context: &Context, name: &str) -> Result<()> {
    let tokens = tokens(context).await?;
    let Some((id, _)) = tokens.iter().find(|(_, token)| token.client_name == name) else {
        bail!("there is no token for `{name}`; `berth config trust list-tokens` shows those there are");
    };
    Ok(context.client.cancel_operation(id).await?)
}

async fn list(context: &Context, format: Format) -> Result<()> {
    let all: Vec<Certificate> = context.get(&Endpoint::new(&["certificates"]).query("recursion", "1")).await?;
    let mut table = Table::new(["TYPE", "NAME", "FINGERPRINT", "PROJECTS"]);
    for certificate in &all {
        let short = certificate.fingerprint.get(..12).unwrap_or(&certificate.fingerprint).to_owned();
        let projects = if certificate.restricted { certificate.projects.join(", ") } else { "all".to_owned() };
        table.row([certificate.kind.clone(), certificate.name.clone(), short, projects]);
    }
    table.print(format, &all)
}

async fn edit(context: &Context, endpoint: &Endpoint) -> Result<()> {
    let (certificate, etag): (Certificate, _) = context.client.get_with_etag(endpoint).await?;
    let etag = etag.filter(|_| crate::terminal::stdin_is_terminal());
    let put = CertificatePut {
        name: certificate.name,
        kind: certificate.kind,
        restricted: certificate.restricted,
        projects: certificate.projects,
        certificate: certificate.certificate,
    };
    let help = "What the client may do. Lines that begin with # are left out.";
    editor::edit(&put, help, async |put: CertificatePut| {
        let answer = context.client.request(Method::PUT, endpoint, Client::json(&put)?, etag.as_deref()).await?;
        context.finish(answer, "").await.map(|_| ())
    })
    .await
}
