//! The table of methods: from it come the dispatcher, `rpc_get_methods` and `docs/rpc.md`.

use std::sync::{Arc, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::control::Control;
use super::error::{RpcError, RpcResult};
use crate::config::schema::{Schema, Table, check_names, nearest};

/// One method.
pub struct Method {
    /// The name by which it is called.
    pub name: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
    /// What it gives back, in one line.
    pub result: &'static str,
    /// Its parameters.
    pub params: &'static Schema,
    /// Whether it changes what the process serves; such methods run one at a time.
    pub changes: bool,
    /// Decodes the parameters, and no more.
    pub(super) check: fn(Value) -> Result<(), RpcError>,
    /// Does the work.
    pub(super) call: fn(&Control, Value) -> RpcResult,
}

/// Whether a call could be made, as far as that can be said without making it.
///
/// # Errors
/// No such method, or parameters that do not fit it.
pub fn check_call(method: &str, params: Value) -> Result<(), RpcError> {
    let Some(found) = find(method) else {
        return Err(RpcError::method_not_found(nearest(method, all().map(|method| method.name))));
    };
    (found.check)(params)
}

/// Decodes parameters, refusing names that are not in the schema.
pub(super) fn decode<P: Table + DeserializeOwned>(params: Value) -> Result<P, RpcError> {
    let params = match params {
        Value::Null => Value::Object(serde_json::Map::new()),
        object @ Value::Object(_) => object,
        _ => return Err(RpcError::invalid_params("parameters are given by name, in an object")),
    };
    check_names(&params, const { &P::SCHEMA }).map_err(RpcError::invalid_params)?;
    serde_json::from_value(params).map_err(RpcError::invalid_params)
}

/// Dispatches calls.
pub struct Methods {
    control: Arc<Control>,
    changing: Mutex<()>,
}

impl Methods {
    /// The methods that act on `control`.
    #[must_use]
    pub fn new(control: Arc<Control>) -> Self {
        Self { control, changing: Mutex::new(()) }
    }

    /// Runs one method to its end.
    ///
    /// # Errors
    /// Those of the method, and `Method not found`.
    pub fn call(&self, name: &str, params: Value) -> RpcResult {
        let Some(method) = find(name) else {
            return Err(RpcError::method_not_found(nearest(name, all().map(|method| method.name))));
        };
        let changing = method.changes.then(|| self.changing.lock().unwrap_or_else(PoisonError::into_inner));
        let result = (method.call)(&self.control, params);
        drop(changing);
        match &result {
            Ok(_) if method.changes => tracing::info!(method = name, "done"),
            Ok(_) => tracing::trace!(method = name, "done"),
            Err(error) => {
                tracing::info!(method = name, code = error.code, message = error.message, "refused")
            }
        }
        result
    }
}

/// The method of that name.
pub(super) fn find(name: &str) -> Option<&'static Method> {
    all().find(|method| method.name == name)
}

/// Every method, in the order of the documentation.
pub fn all() -> impl Iterator<Item = &'static Method> {
    SECTIONS.iter().flat_map(|(_, methods)| methods.iter())
}

/// The methods by subject.
pub(super) static SECTIONS: [(&str, &[Method]); 6] = [
    ("Process", super::methods::process::METHODS),
    ("Logs and notifications", super::methods::logging::METHODS),
    ("Devices", super::methods::bdev::METHODS),
    ("Stores and volumes", super::methods::lvol::METHODS),
    ("Replicated volumes", super::methods::volume::METHODS),
    ("NVMe-oF target", super::methods::nvmf::METHODS),
];

/// One row of the table. `read` methods change nothing; `change` methods run one at a time.
macro_rules! method {
    (@changes read) => { false };
    (@changes change) => { true };
    ($access:ident $name:literal ($params:ty) -> $result:literal, $handler:path, $help:literal) => {
        $crate::rpc::table::Method {
            name: $name,
            help: $help,
            result: $result,
            params: &<$params as $crate::config::schema::Table>::SCHEMA,
            changes: $crate::rpc::table::method!(@changes $access),
            check: |params| $crate::rpc::table::decode::<$params>(params).map(drop),
            call: |control, params| $handler(control, $crate::rpc::table::decode::<$params>(params)?),
        }
    };
}
pub(super) use method;
