//! Images.

use berth_api::{
    Time,
    images::{Image, ImageAlias, ImagePut},
    instances::InstanceType,
};
use berth_images::{ImageInfo, ProgressEvent};
use serde_json::{Map, Value, json};

use crate::operations::Context;

/// An image.
pub fn image(image: &ImageInfo) -> Image {
    let mut kinds = Vec::new();
    if image.kinds.container {
        kinds.push(InstanceType::Container);
    }
    if image.kinds.virtual_machine {
        kinds.push(InstanceType::VirtualMachine);
    }
    let aliases = image.aliases.iter();
    Image {
        auto_update: image.auto_update,
        properties: image.properties.clone(),
        public: image.public,
        expires_at: Time::from_unix(image.expires_at),
        profiles: image.profiles.clone(),
        aliases: aliases
            .map(|(name, description)| ImageAlias { name: name.clone(), description: description.clone() })
            .collect(),
        architecture: image.architecture.clone(),
        cached: image.cached,
        filename: image.filename.clone(),
        fingerprint: image.fingerprint.clone(),
        size: i64::try_from(image.size).unwrap_or(i64::MAX),
        update_source: None,
        kind: kind(image.image_type),
        created_at: Time::from_unix(image.created_at),
        last_used_at: if image.last_used_at == 0 { Time::ZERO } else { Time::from_unix(image.last_used_at) },
        uploaded_at: Time::from_unix(image.uploaded_at),
        kinds: if kinds.len() > 1 { kinds } else { Vec::new() },
    }
}

/// LXD's type of an image.
pub fn kind(image_type: &str) -> InstanceType {
    if image_type == "virtual-machine" { InstanceType::VirtualMachine } else { InstanceType::Container }
}

/// The part that a `PUT` may change.
pub fn put(image: &ImageInfo) -> ImagePut {
    ImagePut {
        auto_update: image.auto_update,
        properties: image.properties.clone(),
        public: image.public,
        expires_at: Time::from_unix(image.expires_at),
        profiles: image.profiles.clone(),
    }
}

/// Shows the progress of a job in an operation's metadata: as text under `key`, which ends in `_progress` for LXD's
/// clients, and in parts under `progress`.
pub fn progress(context: Context, key: &'static str) -> impl Fn(ProgressEvent) + Send + Sync + 'static {
    move |event| context.merge(render(key, &event))
}

fn render(key: &str, event: &ProgressEvent) -> Map<String, Value> {
    let mut stage = event.stage.clone();
    if let Some(first) = stage.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let text = match (event.percent, event.text.as_str()) {
        (Some(percent), "") => format!("{stage}: {percent}%"),
        (Some(percent), text) => format!("{stage}: {percent}% ({text})"),
        (None, "") => stage,
        (None, text) => format!("{stage}: {text}"),
    };
    let percent = event.percent.map(|percent| percent.to_string()).unwrap_or_default();
    let parts = json!({"stage": event.stage, "percent": percent, "speed": ""});
    Map::from_iter([(key.to_owned(), Value::String(text)), ("progress".to_owned(), parts)])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_text_and_parts() {
        let event = ProgressEvent { stage: "unpack".into(), percent: Some(50), text: String::new() };
        let shown = render("unpack_progress", &event);
        assert_eq!(shown["unpack_progress"], "Unpack: 50%");
        assert_eq!(shown["progress"]["percent"], "50");
        let event = ProgressEvent { stage: "download".into(), percent: None, text: "base-files".into() };
        assert_eq!(render("x_progress", &event)["x_progress"], "Download: base-files");
    }
}
