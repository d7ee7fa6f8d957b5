//! Methods that change the target.

use nvme::Nsid;
use serde_json::Value;
use transport::TransportKind;

use super::address::{bytes, nqn, transport};
use super::params::{
    AddHost, AddListener, AddNs, AddReferral, AllowAnyHost, AnaStateWord, CreateSubsystem, CreateTransport,
    RemoveHost, RemoveListener, RemoveNs, RemoveReferral, SetAnaState, Subsystem,
};
use super::{check_target, refused};
use crate::assembly::AssemblyError;
use crate::device::DeviceError;
use crate::rpc::control::Control;
use crate::rpc::error::{RpcError, RpcResult};
use crate::rpc::methods::{done, volume};
use crate::rpc::notify::Topic;
use crate::target::{AnaState, ControlError, NamespaceOptions, Referral, SubsystemOptions, TransportOptions};

impl From<AnaStateWord> for AnaState {
    fn from(word: AnaStateWord) -> Self {
        match word {
            AnaStateWord::Optimized => AnaState::Optimized,
            AnaStateWord::NonOptimized => AnaState::NonOptimized,
            AnaStateWord::Inaccessible => AnaState::Inaccessible,
        }
    }
}

/// Refuses what we cannot do instead of taking it without effect.
fn must_be_off(unsupported: &[(&str, bool)]) -> Result<(), RpcError> {
    match unsupported.iter().find(|(_, asked)| *asked) {
        Some((name, _)) => Err(RpcError::invalid_params(format_args!("`{name}` is not supported"))),
        None => Ok(()),
    }
}

pub(super) fn create_transport(control: &Control, params: CreateTransport) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let kind = transport(&params.trtype)?;
    must_be_off(&[
        ("zcopy", params.zcopy.unwrap_or(false)),
        ("dif_insert_or_strip", params.dif_insert_or_strip.unwrap_or(false)),
        ("sock_priority", params.sock_priority.unwrap_or(0) != 0),
    ])?;
    let options = transport_options(&params);
    let created = match kind {
        TransportKind::Tcp => control.assembly.create_tcp(options),
        TransportKind::Rdma => control.assembly.create_rdma(options),
    };
    created.map_err(|error| match error {
        AssemblyError::Target(error) => refused(&error),
        other => RpcError::internal(other),
    })?;
    done()
}

fn transport_options(params: &CreateTransport) -> TransportOptions {
    let mut options = TransportOptions::default();
    let io_queues = params.max_qpairs_per_ctrlr.map(|queues| queues.saturating_sub(1));
    set(&mut options.io_queues_per_controller_max, params.max_io_qpairs_per_ctrlr.or(io_queues));
    set(&mut options.queue_depth_max, params.max_queue_depth);
    set(&mut options.admin_queue_depth_max, params.max_aq_depth);
    set(&mut options.in_capsule_data_bytes, params.in_capsule_data_size);
    set(&mut options.io_bytes_max, params.max_io_size);
    set(&mut options.io_unit_bytes, params.io_unit_size);
    set(&mut options.shared_buffers, params.num_shared_buffers);
    set(&mut options.c2h_success, params.c2h_success);
    set(&mut options.abort_timeout_s, params.abort_timeout_sec);
    set(&mut options.acceptor_poll_us, params.acceptor_poll_rate);
    set(&mut options.shared_receives_max, params.max_srq_depth);
    if params.no_srq.unwrap_or(false) {
        options.shared_receives_max = 0;
    }
    options
}

fn set<T>(option: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *option = given;
    }
}

pub(super) fn create_subsystem(control: &Control, params: CreateSubsystem) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    must_be_off(&[
        ("dmrsl", params.dmrsl.unwrap_or(0) != 0),
        ("max_discard_size_kib", params.max_discard_size_kib.unwrap_or(0) != 0),
        ("wzsl", params.wzsl.unwrap_or(0) != 0),
        ("max_write_zeroes_size_kib", params.max_write_zeroes_size_kib.unwrap_or(0) != 0),
        ("passthrough", params.passthrough.unwrap_or(false)),
        ("enable_nssr", params.enable_nssr.unwrap_or(false)),
    ])?;
    let mut options = SubsystemOptions::new(nqn(&params.nqn)?);
    set(&mut options.serial, params.serial_number);
    set(&mut options.model, params.model_number);
    set(&mut options.allow_any_host, params.allow_any_host);
    set(&mut options.ana_reporting, params.ana_reporting);
    set(&mut options.namespaces_max, params.max_namespaces.filter(|max| *max != 0));
    set(&mut options.controller_id_min, params.min_cntlid);
    set(&mut options.controller_id_max, params.max_cntlid);
    set(&mut options.hidden, params.hidden);
    control.target().create_subsystem(options).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::SubsystemCreate, params.nqn);
    done()
}

pub(super) fn delete_subsystem(control: &Control, params: Subsystem) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let name = nqn(&params.nqn)?;
    control.target().delete_subsystem(&name).map_err(|error| refused(&error))?;
    control.notifications.push(Topic::SubsystemDelete, params.nqn);
    done()
}

pub(super) fn add_ns(control: &Control, params: AddNs) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let namespace = params.namespace;
    must_be_off(&[
        ("namespace.ptpl_file", namespace.ptpl_file.is_some()),
        ("namespace.no_auto_visible", namespace.no_auto_visible.unwrap_or(false)),
        ("namespace.hide_metadata", namespace.hide_metadata.unwrap_or(false)),
    ])?;
    let listed = control.devices.look(&namespace.bdev_name).map_err(RpcError::invalid_params)?;
    if let Some(user) = listed.users.into_iter().next() {
        let error = DeviceError::Claimed { name: namespace.bdev_name, user };
        return Err(RpcError::invalid_params(error));
    }
    let mut options = NamespaceOptions::new(listed.device);
    options.limits = listed.limits;
    options.nsid = namespace.nsid.filter(|nsid| *nsid != 0).map(Nsid);
    options.uuid = namespace.uuid.filter(|uuid| !uuid.is_nil());
    options.nguid = namespace.nguid.as_deref().map(|nguid| bytes("nguid", nguid)).transpose()?;
    options.eui64 = namespace.eui64.as_deref().map(|eui64| bytes("eui64", eui64)).transpose()?;
    options.ana_group = namespace.anagrpid.filter(|group| *group != 0);
    let name = nqn(&params.nqn)?;
    let nsid = control.target().add_namespace(&name, options).map_err(|error| refused(&error))?;
    volume::show_new_paths(control, &name);
    Ok(Value::from(nsid.get()))
}

pub(super) fn remove_ns(control: &Control, params: RemoveNs) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let name = nqn(&params.nqn)?;
    control.target().remove_namespace(&name, Nsid(params.nsid)).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn add_listener(control: &Control, params: AddListener) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    must_be_off(&[("secure_channel", params.secure_channel.unwrap_or(false))])?;
    let name = nqn(&params.nqn)?;
    let state = params.ana_state.filter(|state| *state != AnaStateWord::Optimized);
    let address = params.listen_address.resolve(None)?;
    let address = control.target().add_listener(&name, address).map_err(|error| refused(&error))?;
    if let Some(state) = state {
        control.target().set_ana_state(&name, address, state.into(), None).map_err(|error| {
            // The listener was made by this call; without its state it must not stay.
            if let Err(error) = control.target().remove_listener(&name, address) {
                tracing::warn!(%error, %address, "listener stays");
            }
            refused(&error)
        })?;
    }
    volume::show_new_paths(control, &name);
    done()
}

pub(super) fn remove_listener(control: &Control, params: RemoveListener) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let address = params.listen_address.resolve(None)?;
    control.target().remove_listener(&nqn(&params.nqn)?, address).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn set_ana_state(control: &Control, params: SetAnaState) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let address = params.listen_address.resolve(None)?;
    let group = params.anagrpid.filter(|group| *group != 0);
    control
        .target()
        .set_ana_state(&nqn(&params.nqn)?, address, params.ana_state.into(), group)
        .map_err(|error| refused(&error))?;
    done()
}

pub(super) fn add_host(control: &Control, params: AddHost) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    must_be_off(&[
        ("psk", params.psk.is_some()),
        ("dhchap_key", params.dhchap_key.is_some()),
        ("dhchap_ctrlr_key", params.dhchap_ctrlr_key.is_some()),
    ])?;
    control.target().add_host(&nqn(&params.nqn)?, nqn(&params.host)?).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn remove_host(control: &Control, params: RemoveHost) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    control.target().remove_host(&nqn(&params.nqn)?, nqn(&params.host)?).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn allow_any_host(control: &Control, params: AllowAnyHost) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let name = nqn(&params.nqn)?;
    control.target().set_allow_any_host(&name, params.allow_any_host).map_err(|error| refused(&error))?;
    done()
}

pub(super) fn add_referral(control: &Control, params: AddReferral) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let referral = Referral {
        address: params.address.resolve(None)?,
        nqn: nqn(params.subnqn.as_deref().unwrap_or("discovery"))?,
        secure_channel: params.secure_channel.unwrap_or(false),
    };
    match control.target().add_referral(referral) {
        Ok(()) | Err(ControlError::ReferralExists(_)) => done(),
        Err(error) => Err(refused(&error)),
    }
}

pub(super) fn remove_referral(control: &Control, params: RemoveReferral) -> RpcResult {
    check_target(params.tgt_name.as_deref())?;
    let address = params.address.resolve(None)?;
    control.target().remove_referral(address).map_err(|error| refused(&error))?;
    done()
}
