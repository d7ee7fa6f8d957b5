//! Serves JSON-RPC on a unix socket: one task per client on the control thread, methods on its blocking pool.
//!
//! Bounds: [`CLIENTS_MAX`] clients; of each at most one request is worked on, [`REQUEST_BYTES_MAX`] bytes are kept, and a
//! request or an answer that makes no progress for [`STALL_MAX`] ends the connection.
//!
//! [`REQUEST_BYTES_MAX`]: super::framing::REQUEST_BYTES_MAX

use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::error::{RpcError, RpcResult};
use super::framing::Framer;
use super::request::{Message, Request, parse, response};
use super::table::Methods;

/// Clients at one time; further ones wait to be accepted.
pub const CLIENTS_MAX: usize = 64;

/// How long a client may leave a request half sent, or an answer unread.
pub const STALL_MAX: Duration = Duration::from_secs(30);

/// Bytes read at once.
const READ_BYTES: usize = 64 << 10;

/// Requests of one batch.
const BATCH_MAX: usize = 128;

/// Pause after the process ran out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Accepts clients until the task is dropped.
///
/// # Errors
/// When the socket cannot be registered with the runtime.
pub async fn serve(listener: StdUnixListener, methods: Arc<Methods>) -> std::io::Result<()> {
    let listener = UnixListener::from_std(listener)?;
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return Ok(()) };
        match listener.accept().await {
            Ok((stream, _)) => {
                let methods = Arc::clone(&methods);
                tokio::spawn(async move {
                    let end = serve_client(stream, &methods).await;
                    tracing::debug!(?end, "control client gone");
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "control client not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Why a client was left.
#[derive(Debug)]
enum End {
    Closed,
    Stalled,
    Unreadable,
    Failed(#[expect(dead_code, reason = "for the log line")] std::io::Error),
}

async fn serve_client(mut stream: UnixStream, methods: &Arc<Methods>) -> End {
    let mut framer = Framer::default();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = stream.read(&mut chunk);
        let read = if framer.is_partial() {
            match tokio::time::timeout(STALL_MAX, read).await {
                Ok(read) => read,
                Err(_) => return End::Stalled,
            }
        } else {
            read.await
        };
        match read {
            Ok(0) => return End::Closed,
            Ok(len) => framer.push(&chunk[..len]),
            Err(error) => return End::Failed(error),
        }
        if let Err(end) = answer_all(&mut framer, &mut stream, methods).await {
            return end;
        }
    }
}

async fn answer_all(framer: &mut Framer, stream: &mut UnixStream, methods: &Arc<Methods>) -> Result<(), End> {
    loop {
        let text = match framer.next_value() {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(()),
            Err(error) => {
                send(stream, response(None, Err(RpcError::parse(&error.to_string())))).await?;
                return Err(End::Unreadable);
            }
        };
        match parse(&text) {
            Ok(message) => send(stream, answer(message, methods).await).await?,
            Err(error) => {
                send(stream, response(None, Err(error))).await?;
                return Err(End::Unreadable);
            }
        }
    }
}

async fn answer(message: Message, methods: &Arc<Methods>) -> Option<Value> {
    match message {
        Message::Single(request) => answer_one(request, methods).await,
        Message::Batch(requests) if requests.len() > BATCH_MAX => {
            let error = RpcError::invalid_request(&format!("a batch has at most {BATCH_MAX} requests"));
            response(None, Err(error))
        }
        Message::Batch(requests) => {
            let mut answers = Vec::new();
            for request in requests {
                answers.extend(answer_one(request, methods).await);
            }
            (!answers.is_empty()).then_some(Value::Array(answers))
        }
    }
}

async fn answer_one(request: Result<Request, RpcError>, methods: &Arc<Methods>) -> Option<Value> {
    match request {
        Ok(Request { id, method, params }) => response(id, call(method, params, methods).await),
        Err(error) => response(None, Err(error)),
    }
}

/// Methods may wait for reactors and devices, so they do not run on the control thread itself.
async fn call(method: String, params: Value, methods: &Arc<Methods>) -> RpcResult {
    let methods = Arc::clone(methods);
    match tokio::task::spawn_blocking(move || methods.call(&method, params)).await {
        Ok(result) => result,
        Err(_) => Err(RpcError::internal("Internal error")),
    }
}

async fn send(stream: &mut UnixStream, answer: Option<Value>) -> Result<(), End> {
    let Some(answer) = answer else { return Ok(()) };
    let mut text = answer.to_string();
    text.push('\n');
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match tokio::time::timeout(STALL_MAX, stream.write(rest)).await {
            Ok(Ok(written)) => rest = &rest[written..],
            Ok(Err(error)) => return Err(End::Failed(error)),
            Err(_) => return Err(End::Stalled),
        }
    }
    Ok(())
}
