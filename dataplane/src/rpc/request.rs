//! Requests and responses of JSON-RPC 2.0.

use serde_json::{Map, Value, json};

use super::error::{RpcError, RpcResult};

/// One call.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// `None` for a notification: success is not answered, an error is.
    pub(super) id: Option<Value>,
    pub(super) method: String,
    /// An object or array; `Null` when there are none.
    pub(super) params: Value,
}

/// What one JSON text holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Message {
    Single(Result<Request, RpcError>),
    /// Answered by one array.
    Batch(Vec<Result<Request, RpcError>>),
}

/// Reads one JSON text.
pub(super) fn parse(text: &[u8]) -> Result<Message, RpcError> {
    let value: Value = serde_json::from_slice(text).map_err(|error| RpcError::parse(&error.to_string()))?;
    Ok(match value {
        Value::Array(items) if items.is_empty() => {
            Message::Single(Err(RpcError::invalid_request("an empty batch")))
        }
        Value::Array(items) => Message::Batch(items.into_iter().map(request).collect()),
        other => Message::Single(request(other)),
    })
}

fn request(value: Value) -> Result<Request, RpcError> {
    let Value::Object(mut members) = value else {
        return Err(RpcError::invalid_request("not an object"));
    };
    match members.remove("jsonrpc") {
        None => (),
        Some(version) if version == "2.0" => (),
        Some(_) => return Err(RpcError::invalid_request("`jsonrpc` is not \"2.0\"")),
    }
    let Some(Value::String(method)) = members.remove("method") else {
        return Err(RpcError::invalid_request("`method` is not a string"));
    };
    let id = take_id(&mut members)?;
    let params = members.remove("params").unwrap_or(Value::Null);
    if !matches!(params, Value::Null | Value::Object(_) | Value::Array(_)) {
        return Err(RpcError::invalid_request("`params` is neither an object nor an array"));
    }
    match members.keys().next() {
        Some(name) => Err(RpcError::invalid_request(&format!("unknown member `{name}`"))),
        None => Ok(Request { id, method, params }),
    }
}

fn take_id(members: &mut Map<String, Value>) -> Result<Option<Value>, RpcError> {
    match members.remove("id") {
        None | Some(Value::Null) => Ok(None),
        Some(id @ (Value::String(_) | Value::Number(_))) => Ok(Some(id)),
        Some(_) => Err(RpcError::invalid_request("`id` is neither a string nor a number")),
    }
}

/// The answer to one call; `None` for a notification that succeeded.
pub(super) fn response(id: Option<Value>, result: RpcResult) -> Option<Value> {
    match (id, result) {
        (None, Ok(_)) => None,
        (Some(id), Ok(result)) => Some(json!({"jsonrpc": "2.0", "id": id, "result": result})),
        (id, Err(error)) => Some(json!({"jsonrpc": "2.0", "id": id, "error": error})),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> i32 {
        match parse(text.as_bytes()) {
            Err(error) | Ok(Message::Single(Err(error))) => error.code,
            Ok(message) => panic!("accepted: {message:?}"),
        }
    }

    #[test]
    fn a_request_needs_neither_version_nor_parameters() {
        let message = parse(br#"{"method": "m", "id": 7}"#).expect("a request");
        let request = Request { id: Some(json!(7)), method: "m".to_owned(), params: Value::Null };
        assert_eq!(message, Message::Single(Ok(request)));
    }

    #[test]
    fn what_is_not_a_request_is_refused_with_the_code_of_the_standard() {
        assert_eq!(code("{\"a\" 1}"), RpcError::PARSE_ERROR);
        assert_eq!(code("[]"), RpcError::INVALID_REQUEST);
        assert_eq!(code("{\"id\": 1}"), RpcError::INVALID_REQUEST);
        assert_eq!(code(r#"{"method": "m", "jsonrpc": "1.0"}"#), RpcError::INVALID_REQUEST);
        assert_eq!(code(r#"{"method": "m", "id": {}}"#), RpcError::INVALID_REQUEST);
        assert_eq!(code(r#"{"method": "m", "params": 1}"#), RpcError::INVALID_REQUEST);
        assert_eq!(code(r#"{"method": "m", "param": {}}"#), RpcError::INVALID_REQUEST);
    }

    #[test]
    fn a_notification_is_answered_only_when_it_fails() {
        assert_eq!(response(None, Ok(json!(true))), None);
        let answer = response(None, Err(RpcError::parse("x"))).expect("an answer");
        assert_eq!((&answer["id"], &answer["error"]["code"]), (&Value::Null, &json!(-32700)));
    }
}
