//! The process: methods, version, reactors, saved configuration, signals.

use rustix::process::{Signal, getpid, kill_process};
use serde_json::{Value, json};

use super::{NoParams, done};
use crate::described;
use crate::described_words;
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::linux;
use crate::rpc::table::{Method, all, find, method};

/// Ticks of every counter of time: nanoseconds.
pub(super) const TICK_RATE: u64 = 1_000_000_000;

/// The release of SPDK whose methods these are, as tools ask for it.
const SPDK_MAJOR: u32 = 26;
const SPDK_MINOR: u32 = 9;

described! {
    /// Which methods.
    struct RpcGetMethods {
        /// Leave out those that only have a meaning before initialization. Default `false`.
        current: Option<bool>,
        /// Include deprecated names; there are none.
        include_aliases: Option<bool>,
    }
}

described! {
    /// Which part.
    struct FrameworkGetConfig {
        /// `bdev` or `nvmf`.
        name: String,
        /// Taken, without effect: there are no batches.
        with_batches: Option<bool>,
    }
}

described_words! {
    /// A signal.
    enum SignalName {
        /// Drain and exit.
        Int = "SIGINT",
        /// Drain and exit.
        Term = "SIGTERM",
        /// Exit at once.
        Quit = "SIGQUIT",
        /// Ignored.
        Hup = "SIGHUP",
        /// Exit at once.
        Kill = "SIGKILL",
        /// Ignored.
        Usr1 = "SIGUSR1",
    }
}

described! {
    /// Which signal.
    struct KillInstance {
        /// The signal that the process sends itself.
        sig_name: SignalName,
    }
}

described! {
    /// A saved call.
    struct SavedCall {
        /// The method.
        method: String,
        /// Its parameters.
        params: Option<Value>,
    }
}

described! {
    /// A saved part.
    struct SavedPart {
        /// Its name.
        subsystem: String,
        /// The calls that make it, in order.
        config: Option<Vec<SavedCall>>,
    }
}

described! {
    /// A saved configuration.
    struct LoadConfig {
        /// What `save_config` gave.
        subsystems: Vec<SavedPart>,
    }
}

#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(read "rpc_get_methods" (RpcGetMethods) -> "a list of names", get_methods, "Lists the methods."),
    method!(read "spdk_get_version" (NoParams) -> "`version` and `fields` of the SPDK release whose methods these are, and `pollux`, the version of this program", get_version, "Tells the version."),
    method!(read "framework_get_reactors" (NoParams) -> "`tick_rate`, `pid` and `reactors`; times are nanoseconds", get_reactors, "Tells what each reactor did."),
    method!(read "thread_get_stats" (NoParams) -> "`tick_rate` and `threads`, one per reactor", thread_get_stats, "Tells how busy each reactor was."),
    method!(read "framework_get_subsystems" (NoParams) -> "a list of `subsystem` and `depends_on`", get_subsystems, "Lists the parts whose configuration can be saved."),
    method!(read "framework_get_config" (FrameworkGetConfig) -> "a list of `method` and `params`", get_config, "Gives the calls that make one part as it is now."),
    method!(read "framework_wait_init" (NoParams) -> "`true`", succeed, "Returns once the process serves, which is at once."),
    method!(read "framework_start_init" (NoParams) -> "`true`", succeed, "Taken for tools that start a process in two steps; this one has started."),
    method!(read "save_config" (NoParams) -> "`subsystems`, each with its calls", save_config, "Gives the calls that make everything as it is now."),
    method!(change "load_config" (LoadConfig) -> "`true`", load_config, "Makes the calls of a saved configuration; stops at the first that fails."),
    method!(read "spdk_kill_instance" (KillInstance) -> "`true`", kill_instance, "Sends a signal to this process."),
];

fn get_methods(_: &Control, params: RpcGetMethods) -> RpcResult {
    let current = params.current.unwrap_or(false);
    let shown = all().map(|method| method.name).filter(|name| !(current && *name == "framework_start_init"));
    Ok(shown.map(Value::from).collect())
}

fn get_version(_: &Control, _: NoParams) -> RpcResult {
    Ok(json!({
        "version": format!("Pollux v{} (methods of SPDK v{SPDK_MAJOR}.{SPDK_MINOR:02})", env!("CARGO_PKG_VERSION")),
        "fields": {"major": SPDK_MAJOR, "minor": SPDK_MINOR, "patch": 0, "suffix": ""},
        "pollux": env!("CARGO_PKG_VERSION"),
    }))
}

fn get_reactors(control: &Control, _: NoParams) -> RpcResult {
    let reactors: Vec<Value> =
        control.reactors().iter().map(|reactor| describe_reactor(control, reactor)).collect();
    let pid = getpid().as_raw_nonzero();
    Ok(json!({"tick_rate": TICK_RATE, "pid": pid, "reactors": reactors}))
}

fn describe_reactor(control: &Control, reactor: &reactors::ReactorHandle) -> Value {
    let metrics = reactor.metrics();
    let core = reactor.core().map_or(0, |core| core.0);
    let name = thread_name(reactor);
    let ticks = linux::core_ticks(core);
    let elapsed = u64::try_from(control.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
    json!({
        "lcore": core,
        "tid": linux::thread_id(&name),
        "busy": metrics.busy_ns,
        "idle": metrics.idle_ns + metrics.sleeping_ns,
        "in_interrupt": control.mode == reactors::IdleMode::Interrupt,
        "irq": ticks.irq,
        "sys": ticks.system,
        "usr": ticks.user,
        "lw_threads": [{
            "name": name,
            "id": thread_number(reactor),
            "cpumask": linux::core_mask(core),
            "elapsed": elapsed,
        }],
    })
}

fn thread_get_stats(control: &Control, _: NoParams) -> RpcResult {
    let thread = |(reactor, pollers): (&reactors::ReactorHandle, Option<usize>)| {
        let metrics = reactor.metrics();
        json!({
            "name": thread_name(reactor),
            "id": thread_number(reactor),
            "cpumask": linux::core_mask(reactor.core().map_or(0, |core| core.0)),
            "busy": metrics.busy_ns,
            "idle": metrics.idle_ns + metrics.sleeping_ns,
            "active_pollers_count": pollers,
            "timed_pollers_count": 0,
            "paused_pollers_count": 0,
        })
    };
    let pollers = control.assembly.poller_counts();
    let threads: Vec<Value> = control.reactors().iter().zip(pollers).map(thread).collect();
    Ok(json!({"tick_rate": TICK_RATE, "threads": threads}))
}

/// The name the reactor's thread has in the kernel.
pub(super) fn thread_name(reactor: &reactors::ReactorHandle) -> String {
    format!("reactor-{}", reactor.id())
}

/// SPDK counts its threads from 1.
fn thread_number(reactor: &reactors::ReactorHandle) -> u64 {
    u64::from(reactor.id().0) + 1
}

fn get_subsystems(_: &Control, _: NoParams) -> RpcResult {
    Ok(json!([
        {"subsystem": "bdev", "depends_on": []},
        {"subsystem": "nvmf", "depends_on": ["bdev"]},
    ]))
}

fn get_config(control: &Control, params: FrameworkGetConfig) -> RpcResult {
    match params.name.as_str() {
        "bdev" => Ok(Value::Array(super::bdev::saved(control))),
        "nvmf" => Ok(Value::Array(super::nvmf::saved(control))),
        other => Err(RpcError::invalid_params(format_args!("subsystem `{other}` not found"))),
    }
}

fn save_config(control: &Control, _: NoParams) -> RpcResult {
    Ok(json!({"subsystems": [
        {"subsystem": "bdev", "config": super::bdev::saved(control)},
        {"subsystem": "nvmf", "config": super::nvmf::saved(control)},
    ]}))
}

fn load_config(control: &Control, params: LoadConfig) -> RpcResult {
    for call in params.subsystems.into_iter().flat_map(|part| part.config.unwrap_or_default()) {
        let method = find(&call.method).filter(|method| method.changes && method.name != "load_config");
        let method =
            method.ok_or_else(|| RpcError::invalid_params(format_args!("no call `{}`", call.method)))?;
        (method.call)(control, call.params.unwrap_or_default())
            .map_err(|error| RpcError { message: format!("{}: {}", call.method, error.message), ..error })?;
    }
    done()
}

fn succeed(_: &Control, _: NoParams) -> RpcResult {
    done()
}

fn kill_instance(_: &Control, params: KillInstance) -> RpcResult {
    let signal = match params.sig_name {
        SignalName::Int => Signal::INT,
        SignalName::Term => Signal::TERM,
        SignalName::Quit => Signal::QUIT,
        SignalName::Hup => Signal::HUP,
        SignalName::Kill => Signal::KILL,
        SignalName::Usr1 => Signal::USR1,
    };
    kill_process(getpid(), signal).map_err(RpcError::errno)?;
    done()
}
