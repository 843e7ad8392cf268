//! Errors of the crates below as HTTP codes; the text is theirs.

use berth_store::ErrorKind;
use http::StatusCode;

use crate::http::ApiError;

fn code(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict | ErrorKind::Busy => StatusCode::CONFLICT,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::Invalid => StatusCode::BAD_REQUEST,
        ErrorKind::Changed => StatusCode::PRECONDITION_FAILED,
        ErrorKind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

macro_rules! by_kind {
    ($($error:ty),*) => {$(
        impl From<$error> for ApiError {
            fn from(error: $error) -> Self {
                Self::new(code(error.kind()), sentence(error.to_string()))
            }
        }
    )*};
}

by_kind!(
    berth_images::Error,
    berth_instances::Error,
    berth_network::NetworkError,
    berth_storage::StorageError,
    berth_store::StoreError
);

impl From<crate::trust::TrustError> for ApiError {
    fn from(error: crate::trust::TrustError) -> Self {
        use crate::trust::TrustError;
        match error {
            TrustError::Store(error) => error.into(),
            TrustError::Exists(_) => Self::conflict(error.to_string()),
            TrustError::NotFound(_) => Self::not_found(error.to_string()),
            TrustError::Ambiguous(_) | TrustError::Full => Self::invalid(error.to_string()),
        }
    }
}

impl From<crate::trust::BadCertificate> for ApiError {
    fn from(error: crate::trust::BadCertificate) -> Self {
        Self::invalid(error.to_string())
    }
}

/// Begins with a capital, as LXD's messages do.
fn sentence(text: String) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) if first.is_ascii_lowercase() => format!("{}{}", first.to_ascii_uppercase(), chars.as_str()),
        _ => text,
    }
}

impl From<berth_guest::client::ClientError> for ApiError {
    fn from(error: berth_guest::client::ClientError) -> Self {
        use berth_guest::protocol::ErrorKind as Kind;
        let code = match error.kind() {
            // Content is what a client sends: it broke off.
            _ if matches!(error, berth_guest::client::ClientError::Source(_)) => StatusCode::BAD_REQUEST,
            Kind::NotFound => StatusCode::NOT_FOUND,
            Kind::PermissionDenied => StatusCode::FORBIDDEN,
            Kind::Conflict => StatusCode::CONFLICT,
            Kind::Invalid | Kind::NotSupported => StatusCode::BAD_REQUEST,
            Kind::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
            Kind::Other => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(code, sentence(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_become_codes() {
        let error = berth_instances::Error::Invalid("key \"a\" is unknown".into());
        let error = ApiError::from(error);
        assert_eq!((error.code(), error.to_string().as_str()), (StatusCode::BAD_REQUEST, "Key \"a\" is unknown"));
        let error = berth_instances::Error::NotFound { what: "Instance", name: "x".into(), project: "default".into() };
        assert_eq!(ApiError::from(error).code(), StatusCode::NOT_FOUND);
        let error = berth_guest::client::ClientError::Source(std::io::ErrorKind::UnexpectedEof.into());
        assert_eq!(ApiError::from(error).code(), StatusCode::BAD_REQUEST);
    }
}
