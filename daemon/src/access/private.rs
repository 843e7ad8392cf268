//! Leaves out of answers what belongs to projects that a restricted caller may not see.

use axum::{body::Body, extract::Query, response::Response};
use http::{Uri, header};
use http_body_util::BodyExt;
use serde_json::Value;

use super::Access;
use crate::http::{ApiError, ApiResult, query::DEFAULT_PROJECT};

/// Name of the member that lists URLs of other objects.
const USED_BY: &str = "used_by";

/// The answer without the users that are in other projects.
pub async fn without_foreign_users(response: Response, access: &Access) -> ApiResult<Response> {
    let (mut parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(|error| ApiError::internal(error.to_string()))?.to_bytes();
    let Ok(mut answer) = serde_json::from_slice::<Value>(&bytes) else {
        return Ok(Response::from_parts(parts, Body::from(bytes)));
    };
    remove_foreign_users(&mut answer, access);
    let mut text = answer.to_string();
    text.push('\n');
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from(text)))
}

fn remove_foreign_users(value: &mut Value, access: &Access) {
    match value {
        Value::Object(members) => {
            for (name, member) in members.iter_mut() {
                match member {
                    Value::Array(urls) if name == USED_BY => {
                        urls.retain(|url| url.as_str().is_some_and(|url| access.has_project(&project(url))));
                    }
                    member => remove_foreign_users(member, access),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| remove_foreign_users(item, access)),
        _ => {}
    }
}

/// The project of an object's URL.
fn project(url: &str) -> String {
    let query = url.parse::<Uri>().ok().and_then(|uri| {
        let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(&uri).ok()?;
        pairs.into_iter().find(|(key, _)| key == "project")
    });
    query.map_or_else(|| DEFAULT_PROJECT.to_owned(), |(_, project)| project)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn users_in_other_projects_are_left_out() {
        let access = Access::Restricted(Arc::new(["a b".to_owned()].into()));
        let urls = ["/1.0/instances/c1", "/1.0/instances/c2?project=a%20b", "/1.0/instances/c3?project=c"];
        let mut answer = json!({"metadata": [{"used_by": urls, "name": "x"}, {"used_by": null}]});
        remove_foreign_users(&mut answer, &access);
        assert_eq!(answer["metadata"][0], json!({"used_by": ["/1.0/instances/c2?project=a%20b"], "name": "x"}));
    }
}
