//! Errors of RPC methods: the codes of JSON-RPC 2.0 and, for what the system refused, the negated `errno`.

use rustix::io::Errno;
use serde::Serialize;

/// The `error` member of a response.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message} (code {code})")]
pub struct RpcError {
    /// A code of JSON-RPC 2.0, or a negated `errno`.
    pub code: i32,
    /// What went wrong, in words.
    pub message: String,
}

/// What a method gives back.
pub type RpcResult = Result<serde_json::Value, RpcError>;

impl RpcError {
    /// JSON-RPC 2.0 §5.1: not JSON, or too long.
    pub const PARSE_ERROR: i32 = -32700;
    /// JSON-RPC 2.0 §5.1: JSON, but not a request.
    pub const INVALID_REQUEST: i32 = -32600;
    /// JSON-RPC 2.0 §5.1.
    pub const METHOD_NOT_FOUND: i32 = -32601;
    /// JSON-RPC 2.0 §5.1.
    pub const INVALID_PARAMS: i32 = -32602;
    /// JSON-RPC 2.0 §5.1.
    pub const INTERNAL_ERROR: i32 = -32603;

    /// Not JSON; `detail` says why.
    #[must_use]
    pub fn parse(detail: &str) -> Self {
        Self { code: Self::PARSE_ERROR, message: format!("Parse error: {detail}") }
    }

    /// JSON, but not a request; `detail` says why.
    #[must_use]
    pub fn invalid_request(detail: &str) -> Self {
        Self { code: Self::INVALID_REQUEST, message: format!("Invalid request: {detail}") }
    }

    /// No method of that name; `nearest` is the most similar name there is.
    #[must_use]
    pub fn method_not_found(nearest: Option<&str>) -> Self {
        let hint = nearest.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default();
        Self { code: Self::METHOD_NOT_FOUND, message: format!("Method not found{hint}") }
    }

    /// Parameters that do not fit; `detail` says which and why.
    #[must_use]
    pub fn invalid_params(detail: impl std::fmt::Display) -> Self {
        Self { code: Self::INVALID_PARAMS, message: format!("Invalid parameters: {detail}") }
    }

    /// The method could not do its work; `detail` says why.
    #[must_use]
    pub fn internal(detail: impl std::fmt::Display) -> Self {
        Self { code: Self::INTERNAL_ERROR, message: detail.to_string() }
    }

    /// The system's answer: code `-errno`, the system's message.
    #[must_use]
    pub fn errno(errno: Errno) -> Self {
        let text = std::io::Error::from(errno).to_string();
        let message = text.split(" (os error").next().unwrap_or_default().to_owned();
        Self { code: -errno.raw_os_error(), message }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_errors_carry_the_negated_errno_and_its_text() {
        let error = RpcError::errno(Errno::EXIST);
        assert_eq!((error.code, error.message.as_str()), (-17, "File exists"));
        assert_eq!(RpcError::errno(Errno::NODEV).code, -19);
    }
}
