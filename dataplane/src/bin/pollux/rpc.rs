//! `pollux rpc`: one JSON-RPC 2.0 call over the data plane's unix socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

/// Longest answer accepted: far above the largest real one (`nvmf_get_subsystems` with 1,024 subsystems is ~1 MiB).
const RESPONSE_BYTES_MAX: usize = 256 << 20;

/// Why a call gave no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RpcError {
    #[error("cannot connect to {path}: {source}. Is pollux-dataplane running with --rpc-socket {path}?")]
    Connect { path: PathBuf, source: std::io::Error },
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("no answer from the data plane within {0:?} (see --timeout)")]
    TimedOut(Duration),
    #[error("the data plane closed the socket before a whole answer came ({0} bytes)")]
    Truncated(usize),
    #[error("the answer is longer than {RESPONSE_BYTES_MAX} bytes")]
    TooLong,
    #[error("the answer is not JSON-RPC 2.0: {0}")]
    Malformed(String),
    #[error("{message} (error {code})")]
    Refused { code: i64, message: String },
}

/// Calls `method` with `params` (an object, or nothing) and gives its result.
pub(crate) fn call(
    socket: &Path,
    method: &str,
    params: Option<&Value>,
    timeout: Duration,
) -> Result<Value, RpcError> {
    let mut stream = UnixStream::connect(socket)
        .map_err(|source| RpcError::Connect { path: socket.to_owned(), source })?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    if let Some(params) = params {
        request["params"] = params.clone();
    }
    stream.write_all(request.to_string().as_bytes())?;
    let answer = read_answer(&mut stream, timeout)?;
    interpret(answer)
}

/// Reads until one whole JSON value has come: answers have no delimiter.
fn read_answer(stream: &mut UnixStream, timeout: Duration) -> Result<Value, RpcError> {
    let mut received = Vec::new();
    let mut chunk = vec![0; 64 << 10];
    loop {
        let count = match stream.read(&mut chunk) {
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(RpcError::TimedOut(timeout));
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        received.extend_from_slice(&chunk[..count]);
        match serde_json::from_slice(&received) {
            Ok(value) => return Ok(value),
            Err(error) if error.is_eof() && count == 0 => return Err(RpcError::Truncated(received.len())),
            Err(error) if !error.is_eof() => return Err(RpcError::Malformed(error.to_string())),
            Err(_) if received.len() > RESPONSE_BYTES_MAX => return Err(RpcError::TooLong),
            Err(_) => {}
        }
    }
}

fn interpret(mut answer: Value) -> Result<Value, RpcError> {
    if let Some(error) = answer.get("error") {
        return Err(RpcError::Refused {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or("no message").to_owned(),
        });
    }
    match answer.get_mut("result") {
        Some(result) => Ok(result.take()),
        None => Err(RpcError::Malformed(format!("neither result nor error in {answer}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    /// Answers one call with `answer`, in pieces of `piece` bytes, and gives back the request.
    fn serve(
        answer: &'static str,
        piece: usize,
    ) -> (tempfile::TempDir, PathBuf, std::thread::JoinHandle<Value>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rpc.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 4096];
            let count = stream.read(&mut buffer).unwrap();
            for part in answer.as_bytes().chunks(piece) {
                stream.write_all(part).unwrap();
            }
            serde_json::from_slice(&buffer[..count]).unwrap()
        });
        (folder, path, server)
    }

    const SECOND: Duration = Duration::from_secs(10);

    #[test]
    fn the_result_comes_back_whole_however_it_was_split() {
        let (_folder, path, server) = serve(r#"{"jsonrpc":"2.0","id":1,"result":["a","b"]}"#, 1);
        let result = call(&path, "rpc_get_methods", Some(&json!({"current": true})), SECOND).unwrap();
        assert_eq!(result, json!(["a", "b"]));
        let request = server.join().unwrap();
        assert_eq!(request["method"], "rpc_get_methods");
        assert_eq!(request["params"]["current"], true);
    }

    #[test]
    fn a_refusal_carries_its_code_and_message() {
        let (_folder, path, _server) =
            serve(r#"{"id":1,"error":{"code":-32601,"message":"Method not found"}}"#, 9);
        let error = call(&path, "nope", None, SECOND).unwrap_err();
        assert!(matches!(error, RpcError::Refused { code: -32601, .. }), "{error}");
    }

    #[test]
    fn a_half_answer_is_an_error() {
        let (_folder, path, _server) = serve(r#"{"id":1,"#, 4);
        assert!(matches!(call(&path, "m", None, SECOND), Err(RpcError::Truncated(8))));
    }

    #[test]
    fn a_missing_socket_names_the_path_and_the_remedy() {
        let error = call(Path::new("/nonexistent/p.sock"), "m", None, SECOND).unwrap_err().to_string();
        assert!(error.contains("/nonexistent/p.sock") && error.contains("--rpc-socket"), "{error}");
    }
}
