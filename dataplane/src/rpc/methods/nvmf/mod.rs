//! The NVMe-oF target: transports, subsystems, namespaces, listeners, hosts, referrals.

mod address;
mod change;
mod params;
mod query;
mod render;
mod saved;

pub(super) use address::transport_name;
pub(super) use saved::saved;

use params::{
    AddHost, AddListener, AddNs, AddReferral, AllowAnyHost, AnyTarget, CreateSubsystem, CreateTransport,
    GetSubsystems, GetTransports, RemoveHost, RemoveListener, RemoveNs, RemoveReferral, SetAnaState,
    Subsystem,
};

use crate::rpc::error::RpcError;
use crate::rpc::table::{Method, method};
use crate::target::ControlError;

#[rustfmt::skip]
pub(in crate::rpc) const METHODS: &[Method] = &[
    method!(change "nvmf_create_transport" (CreateTransport) -> "`true`", change::create_transport, "Creates a transport."),
    method!(read "nvmf_get_transports" (GetTransports) -> "a list of transports with their limits", query::get_transports, "Lists the transports."),
    method!(change "nvmf_create_subsystem" (CreateSubsystem) -> "`true`", change::create_subsystem, "Creates a subsystem."),
    method!(change "nvmf_delete_subsystem" (Subsystem) -> "`true`", change::delete_subsystem, "Deletes a subsystem, ending every connection to it."),
    method!(read "nvmf_get_subsystems" (GetSubsystems) -> "a list of subsystems with listeners, hosts and namespaces", query::get_subsystems, "Lists the subsystems; the discovery subsystem is the first."),
    method!(change "nvmf_subsystem_add_ns" (AddNs) -> "the NSID", change::add_ns, "Adds a namespace; connected hosts are told."),
    method!(change "nvmf_subsystem_remove_ns" (RemoveNs) -> "`true`", change::remove_ns, "Removes a namespace once its I/O in flight is finished; connected hosts are told."),
    method!(change "nvmf_subsystem_add_listener" (AddListener) -> "`true`", change::add_listener, "Serves a subsystem at an address."),
    method!(change "nvmf_subsystem_remove_listener" (RemoveListener) -> "`true`", change::remove_listener, "Stops serving a subsystem at an address, ending the connections that came through it."),
    method!(change "nvmf_subsystem_listener_set_ana_state" (SetAnaState) -> "`true`", change::set_ana_state, "Sets the ANA state of a path; connected hosts are told."),
    method!(read "nvmf_subsystem_get_listeners" (Subsystem) -> "a list of `address`, `listening` (`false`: its device or address is gone) and `ana_states`", query::get_listeners, "Lists the listeners of a subsystem."),
    method!(change "nvmf_subsystem_add_host" (AddHost) -> "`true`", change::add_host, "Lets a host connect."),
    method!(change "nvmf_subsystem_remove_host" (RemoveHost) -> "`true`", change::remove_host, "No longer lets a host connect, ending its connections."),
    method!(change "nvmf_subsystem_allow_any_host" (AllowAnyHost) -> "`true`", change::allow_any_host, "Lets every host connect, or only those that were added."),
    method!(read "nvmf_subsystem_get_controllers" (Subsystem) -> "a list of controllers", query::get_controllers, "Lists the controllers of a subsystem."),
    method!(read "nvmf_subsystem_get_qpairs" (Subsystem) -> "a list of queue pairs", query::get_qpairs, "Lists the queue pairs of a subsystem."),
    method!(read "nvmf_get_stats" (AnyTarget) -> "`tick_rate` and `poll_groups`, one per reactor", query::get_stats, "Tells what each reactor serves."),
    method!(change "nvmf_discovery_add_referral" (AddReferral) -> "`true`", change::add_referral, "Adds a referral to the discovery log page; one that is there already is left as it is."),
    method!(change "nvmf_discovery_remove_referral" (RemoveReferral) -> "`true`", change::remove_referral, "Removes a referral from the discovery log page."),
    method!(read "nvmf_discovery_get_referrals" (AnyTarget) -> "a list of `address`, `secure_channel` and `subnqn`", query::get_referrals, "Lists the referrals."),
];

/// The only target there is.
const TARGET_NAME: &str = "nvmf_tgt";

/// Refuses every other target than ours.
fn check_target(name: Option<&str>) -> Result<(), RpcError> {
    match name {
        None | Some(TARGET_NAME) => Ok(()),
        Some(other) => Err(RpcError::invalid_params(format_args!("target `{other}` not found"))),
    }
}

/// The code that SPDK has for each refusal.
fn refused(error: &ControlError) -> RpcError {
    match error {
        ControlError::NoSuchSubsystem(nqn) => RpcError {
            code: RpcError::INVALID_PARAMS,
            message: format!("Subsystem with NQN '{nqn}' not found"),
        },
        ControlError::TransportExists(_)
        | ControlError::SubsystemExists(_)
        | ControlError::AnaReportingOff(_)
        | ControlError::HostExists { .. }
        | ControlError::NoSuchHost { .. }
        | ControlError::NoSuchReferral(_)
        | ControlError::ReactorStalled { .. } => RpcError::internal(error),
        _ => RpcError::invalid_params(error),
    }
}
