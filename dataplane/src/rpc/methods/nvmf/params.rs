//! Parameters of the target's methods.

use uuid::Uuid;

use crate::described;
use crate::described_words;

described_words! {
    /// State of a path to an ANA group.
    pub(super) enum AnaStateWord {
        /// The best path.
        Optimized = "optimized",
        /// A path that works, with less performance.
        NonOptimized = "non_optimized",
        /// A path that does not serve commands.
        Inaccessible = "inaccessible",
    }
}

described! {
    /// Where something listens.
    pub(super) struct Address {
        /// Transport: `TCP` or `RDMA`.
        trtype: String,
        /// `ipv4` (the default) or `ipv6`.
        adrfam: Option<String>,
        /// IP address.
        traddr: String,
        /// Port. 0 takes a free one.
        trsvcid: Option<String>,
    }
}

described! {
    /// A namespace.
    pub(super) struct Namespace {
        /// The device that holds its blocks.
        bdev_name: String,
        /// Namespace identifier; the lowest free one by default.
        nsid: Option<u32>,
        /// Globally unique identifier, 32 hexadecimal digits.
        nguid: Option<String>,
        /// IEEE extended unique identifier, 16 hexadecimal digits.
        eui64: Option<String>,
        /// UUID; the device's by default.
        uuid: Option<Uuid>,
        /// File in which reservations outlive the process. Not supported: refused when given.
        ptpl_file: Option<String>,
        /// ANA group; the NSID by default.
        anagrpid: Option<u32>,
        /// Hide the namespace until hosts are added to it. Not supported: only `false`.
        no_auto_visible: Option<bool>,
        /// Hide metadata. Only `false`: no device has metadata.
        hide_metadata: Option<bool>,
    }
}

described! {
    /// A transport and its limits.
    pub(super) struct CreateTransport {
        /// Transport: `TCP` or `RDMA`.
        trtype: String,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
        /// Entries of an I/O queue, 2–65536. Default 128.
        max_queue_depth: Option<u32>,
        /// I/O queues of one controller, at least 1; at most 64 are granted. Default 64.
        max_io_qpairs_per_ctrlr: Option<u16>,
        /// Older name of `max_io_qpairs_per_ctrlr`, counting the admin queue too.
        max_qpairs_per_ctrlr: Option<u16>,
        /// Bytes of data inside a command capsule, a multiple of 16 up to 65536. Default 8192.
        in_capsule_data_size: Option<u32>,
        /// Bytes of one command, 4096 times a power of two, up to 2 MiB. Default 131072.
        max_io_size: Option<u32>,
        /// Entries of an admin queue, 32–4096. Default 128.
        max_aq_depth: Option<u32>,
        /// Use the SUCCESS flag instead of a response after read data. Default `true`.
        c2h_success: Option<bool>,
        /// Taken and reported; buffers are sized when the process starts.
        io_unit_size: Option<u32>,
        /// Taken and reported; buffers are sized when the process starts.
        num_shared_buffers: Option<u32>,
        /// Taken, without effect.
        buf_cache_size: Option<u32>,
        /// Taken, without effect.
        iobuf_small_cache_size: Option<u32>,
        /// Taken, without effect.
        iobuf_large_cache_size: Option<u32>,
        /// Only `false`: devices have no zero-copy interface.
        zcopy: Option<bool>,
        /// Only `false`: no protection information.
        dif_insert_or_strip: Option<bool>,
        /// Only 0.
        sock_priority: Option<u32>,
        /// Taken and reported: seconds an Abort waits for its command.
        abort_timeout_sec: Option<u32>,
        /// Taken and reported: connections are accepted as they come.
        acceptor_poll_rate: Option<u32>,
        /// Taken, without effect.
        acceptor_backlog: Option<i32>,
        /// Taken, without effect.
        control_msg_num: Option<u32>,
        /// Taken, without effect.
        num_cqe: Option<i32>,
        /// Over RDMA: receives that the connections of a device share on each reactor; rounded down to a multiple of 128, at
        /// most 4096 and what the device has. Default 4096.
        max_srq_depth: Option<u32>,
        /// Over RDMA: each connection has receives of its own, as with devices that cannot share them. Default `false`.
        no_srq: Option<bool>,
        /// Taken, without effect.
        no_wr_batching: Option<bool>,
        /// Taken, without effect.
        data_wr_pool_size: Option<u32>,
        /// Taken, without effect.
        ack_timeout: Option<u32>,
        /// Taken, without effect: commands are never passed through.
        disable_command_passthru: Option<bool>,
        /// Taken, without effect: for virtual machines.
        disable_mappable_bar0: Option<bool>,
        /// Taken, without effect: for virtual machines.
        disable_adaptive_irq: Option<bool>,
        /// Taken, without effect: for virtual machines.
        disable_shadow_doorbells: Option<bool>,
        /// Taken, without effect: the granularity of keep-alive time-outs is 100 ms.
        kas: Option<u32>,
        /// Taken, without effect.
        min_kato: Option<u32>,
    }
}

described! {
    /// Which transport.
    pub(super) struct GetTransports {
        /// Only this transport.
        trtype: Option<String>,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// A subsystem.
    pub(super) struct CreateSubsystem {
        /// Its name.
        nqn: String,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
        /// Serial number, up to 20 printable ASCII characters. Default twenty zeroes.
        serial_number: Option<String>,
        /// Model number, up to 40 printable ASCII characters.
        model_number: Option<String>,
        /// The highest NSID; 0 or nothing is 32.
        max_namespaces: Option<u32>,
        /// Let every host connect. Default `false`: only hosts that were added.
        allow_any_host: Option<bool>,
        /// Report ANA states. Default `false`.
        ana_reporting: Option<bool>,
        /// The lowest controller identifier. Default 1.
        min_cntlid: Option<u16>,
        /// The highest controller identifier. Default 65519.
        max_cntlid: Option<u16>,
        /// Leave it out of the discovery log page. Default `false`. Not in SPDK.
        hidden: Option<bool>,
        /// Only nothing or 0: set by the target.
        dmrsl: Option<u32>,
        /// Older name of `dmrsl`, in bytes: only nothing or 0.
        max_discard_size_kib: Option<u32>,
        /// Only nothing or 0: set by the target.
        wzsl: Option<u8>,
        /// Older name of `wzsl`, in KiB: only nothing or 0.
        max_write_zeroes_size_kib: Option<u32>,
        /// Only `false`: commands are never passed through.
        passthrough: Option<bool>,
        /// Only `false`: no NVM subsystem reset.
        enable_nssr: Option<bool>,
    }
}

described! {
    /// Which subsystem.
    pub(super) struct Subsystem {
        /// Its NQN.
        nqn: String,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// Which subsystems.
    pub(super) struct GetSubsystems {
        /// Only this subsystem.
        nqn: Option<String>,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// A namespace of a subsystem.
    pub(super) struct AddNs {
        /// The subsystem's NQN.
        nqn: String,
        /// The namespace.
        namespace: Namespace,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// Which namespace.
    pub(super) struct RemoveNs {
        /// The subsystem's NQN.
        nqn: String,
        /// Namespace identifier.
        nsid: u32,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// A listener of a subsystem.
    pub(super) struct AddListener {
        /// The subsystem's NQN, or `discovery`.
        nqn: String,
        /// Where.
        listen_address: Address,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
        /// Only `false`: no TLS.
        secure_channel: Option<bool>,
        /// State of every ANA group on this path. Default `optimized`.
        ana_state: Option<AnaStateWord>,
        /// Taken, without effect.
        sock_impl: Option<String>,
        /// Taken, without effect: for virtual machines.
        numa_id: Option<i32>,
    }
}

described! {
    /// Which listener.
    pub(super) struct RemoveListener {
        /// The subsystem's NQN, or `discovery`.
        nqn: String,
        /// Where.
        listen_address: Address,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// The state of a path.
    pub(super) struct SetAnaState {
        /// The subsystem's NQN.
        nqn: String,
        /// The listener that is the path.
        listen_address: Address,
        /// Its new state.
        ana_state: AnaStateWord,
        /// Only this ANA group; all by default.
        anagrpid: Option<u32>,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// A host.
    pub(super) struct AddHost {
        /// The subsystem's NQN.
        nqn: String,
        /// The host's NQN.
        host: String,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
        /// Not supported: refused when given.
        psk: Option<String>,
        /// Not supported: refused when given.
        dhchap_key: Option<String>,
        /// Not supported: refused when given.
        dhchap_ctrlr_key: Option<String>,
    }
}

described! {
    /// Which host.
    pub(super) struct RemoveHost {
        /// The subsystem's NQN.
        nqn: String,
        /// The host's NQN.
        host: String,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
        /// Taken, without effect: the host's connections close at once.
        timeout_ms: Option<u64>,
    }
}

described! {
    /// Who may connect.
    pub(super) struct AllowAnyHost {
        /// The subsystem's NQN.
        nqn: String,
        /// Every host (`true`), or only those that were added (`false`).
        allow_any_host: bool,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// Another discovery service.
    pub(super) struct AddReferral {
        /// Where it listens.
        address: Address,
        /// Whether it asks for a secure channel. Default `false`.
        secure_channel: Option<bool>,
        /// Its NQN; the well-known discovery NQN by default.
        subnqn: Option<String>,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// Which referral.
    pub(super) struct RemoveReferral {
        /// Where it listens.
        address: Address,
        /// Its NQN; the well-known discovery NQN by default.
        subnqn: Option<String>,
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}

described! {
    /// Which target.
    pub(super) struct AnyTarget {
        /// The target; there is one, `nvmf_tgt`.
        tgt_name: Option<String>,
    }
}
