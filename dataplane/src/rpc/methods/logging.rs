//! Log levels, log flags, notifications.

use serde_json::{Value, json};

use super::{NoParams, done};
use crate::described;
use crate::logs::LogLevel;
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::notify::Topic;
use crate::rpc::table::{Method, method};

described! {
    /// Which level.
    struct LogSetLevel {
        /// Each level includes the ones before it.
        level: LogLevel,
    }
}

described! {
    /// Which flag.
    struct LogFlag {
        /// A name that `log_get_flags` gives, or `all`.
        flag: String,
    }
}

described! {
    /// Which notifications.
    struct NotifyGetNotifications {
        /// The first notification wanted; the oldest kept by default.
        id: Option<u64>,
        /// At most this many; all by default.
        max: Option<u64>,
    }
}

#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(change "log_set_level" (LogSetLevel) -> "`true`", set_level, "Sets how much is logged."),
    method!(read "log_get_level" (NoParams) -> "the level", get_level, "Tells how much is logged."),
    method!(change "log_set_print_level" (LogSetLevel) -> "`true`", set_level, "The same as `log_set_level`: there is one log, on standard error."),
    method!(read "log_get_print_level" (NoParams) -> "the level", get_level, "The same as `log_get_level`."),
    method!(change "log_set_flag" (LogFlag) -> "`true`", set_flag, "Logs a part of the program in full, whatever the level."),
    method!(change "log_clear_flag" (LogFlag) -> "`true`", clear_flag, "Logs a part of the program at the common level again."),
    method!(read "log_get_flags" (NoParams) -> "an object of flags, `true` where set", get_flags, "Lists the log flags."),
    method!(read "notify_get_types" (NoParams) -> "a list of names", get_types, "Lists the kinds of notifications."),
    method!(read "notify_get_notifications" (NotifyGetNotifications) -> "a list of `type`, `ctx` (what it is about) and `id`", get_notifications, "Tells what changed; the last 1,024 notifications are kept."),
];

fn set_level(control: &Control, params: LogSetLevel) -> RpcResult {
    control.log.set_level(params.level);
    done()
}

fn get_level(control: &Control, _: NoParams) -> RpcResult {
    Ok(json!(control.log.level()))
}

fn set_flag(control: &Control, params: LogFlag) -> RpcResult {
    control.log.set_flag(&params.flag, true).map_err(RpcError::invalid_params)?;
    done()
}

fn clear_flag(control: &Control, params: LogFlag) -> RpcResult {
    control.log.set_flag(&params.flag, false).map_err(RpcError::invalid_params)?;
    done()
}

fn get_flags(control: &Control, _: NoParams) -> RpcResult {
    Ok(json!(control.log.flags()))
}

fn get_types(_: &Control, _: NoParams) -> RpcResult {
    Ok(Topic::ALL.iter().map(|topic| Value::from(topic.as_str())).collect())
}

fn get_notifications(control: &Control, params: NotifyGetNotifications) -> RpcResult {
    let max = params.max.and_then(|max| usize::try_from(max).ok()).unwrap_or(usize::MAX);
    Ok(json!(control.notifications.since(params.id.unwrap_or(0), max)))
}
