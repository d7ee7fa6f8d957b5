//! What the methods do: parameters in, calls on [`Control`](super::Control), SPDK's result shapes out.

pub(super) mod bdev;
pub(super) mod logging;
pub(super) mod lvol;
pub(super) mod nvmf;
pub(super) mod process;
pub(super) mod volume;

use serde_json::Value;

use super::error::RpcResult;
use crate::described;

described! {
    /// No parameters.
    pub(super) struct NoParams {}
}

/// The answer of methods that only succeed or fail.
fn done() -> RpcResult {
    Ok(Value::Bool(true))
}
