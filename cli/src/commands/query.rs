//! `berth query` and `berth version`.

use anyhow::{Context as _, Result, bail};
use berth_api::{Endpoint, ResponseType, client::Method, server::Server};
use clap::Args;
use serde_json::Value;

use crate::{output, pairs, target::Context};

/// Send a raw request
#[derive(Debug, Args)]
#[command(after_help = "Example: berth query -X PUT -d '{\"action\":\"stop\"}' --wait /1.0/instances/c1/state")]
pub struct Query {
    /// Path: /1.0/instances
    path: String,
    /// Method
    #[arg(short = 'X', long, default_value = "GET", value_name = "METHOD")]
    request: String,
    /// Body, JSON; `-` reads it from standard input
    #[arg(short, long, value_name = "JSON", allow_hyphen_values = true)]
    data: Option<String>,
    /// Wait for the operation and print it
    #[arg(long)]
    wait: bool,
    /// Print the whole answer
    #[arg(long)]
    raw: bool,
}

impl Query {
    pub async fn run(self, context: &Context) -> Result<()> {
        let path = self.path.strip_prefix("local:").unwrap_or(&self.path);
        if !path.starts_with('/') || path.contains(char::is_whitespace) {
            bail!("`{path}` is not a path of the API: it begins with /, as in /1.0/instances");
        }
        let method: Method = self.request.to_uppercase().parse().context("this is not a method of HTTP")?;
        let body = self.data.as_deref().map(body).transpose()?;
        let answer = context.client.request(method, &Endpoint::raw(path), body, None).await?;
        let response = answer.response.clone();
        if self.raw {
            return print_json(&serde_json::to_value(&response)?);
        }
        if response.kind == ResponseType::Async && self.wait {
            let operation = context.finish(answer, "Waiting").await?;
            return print_json(&serde_json::to_value(&operation)?);
        }
        match response.metadata {
            Value::Null => Ok(()),
            Value::Object(map) if map.is_empty() => Ok(()),
            value => print_json(&value),
        }
    }
}

/// The body, checked; the error of a server tells less.
fn body(data: &str) -> Result<Vec<u8>> {
    let text = pairs::assignments(&["data".into(), data.into()])?.remove("data").unwrap_or_default();
    serde_json::from_str::<Value>(&text).context("the data is not JSON")?;
    Ok(text.into_bytes())
}

fn print_json(value: &Value) -> Result<()> {
    output::print(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Show the versions of client and server
#[derive(Debug, Args)]
pub struct Version {}

impl Version {
    pub async fn run(self, context: &Context) -> Result<()> {
        output::print(&format!("Client version: {}\n", env!("CARGO_PKG_VERSION")))?;
        let server = match context.get::<Server>(&Endpoint::new(&[])).await {
            Ok(server) if server.environment.berth_version.is_empty() => server.environment.server_version,
            Ok(server) => {
                format!("{} (LXD API {})", server.environment.berth_version, server.environment.server_version)
            }
            Err(_) => "unreachable".into(),
        };
        output::print(&format!("Server version: {server}\n"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json() {
        assert_eq!(body("{\"a\":1}").unwrap(), b"{\"a\":1}");
        assert!(body("{a}").is_err());
    }
}
