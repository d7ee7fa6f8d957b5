//! Fabrics commands and their data (base 2.1 §6).

mod result;

pub use result::*;

use crate::macros::layout;
use crate::{ControllerId, Direction, HostId, Nqn, NulStr, QueueId, Sgl, Sqe, opcode};
use zerocopy::little_endian::{U16, U32, U64};

/// Fabrics command types, byte 4 of a fabrics command (base 2.1 §6). Data direction in bits 1:0.
pub mod fctype {
    /// Property Set.
    pub const PROPERTY_SET: u8 = 0x00;
    /// Connect.
    pub const CONNECT: u8 = 0x01;
    /// Property Get.
    pub const PROPERTY_GET: u8 = 0x04;
    /// Authentication Send.
    pub const AUTH_SEND: u8 = 0x05;
    /// Authentication Receive.
    pub const AUTH_RECEIVE: u8 = 0x06;
    /// Disconnect.
    pub const DISCONNECT: u8 = 0x08;

    /// The specification's name of a type, if it has one.
    pub const fn name(fctype: u8) -> Option<&'static str> {
        match fctype {
            PROPERTY_SET => Some("Property Set"),
            CONNECT => Some("Connect"),
            PROPERTY_GET => Some("Property Get"),
            AUTH_SEND => Some("Authentication Send"),
            AUTH_RECEIVE => Some("Authentication Receive"),
            DISCONNECT => Some("Disconnect"),
            _ => None,
        }
    }
}

/// Smallest admin submission queue a host may ask for over fabrics, in entries (base 2.1 §3.3.3.1).
pub const ADMIN_QUEUE_ENTRIES_MIN: u16 = 32;

/// SQHD of a Connect response that grants submission queue flow control off (base 2.1 §6.3).
pub const SQHD_DISABLED: u16 = 0xFFFF;

/// Security protocol of NVMe authentication messages, SECP (base 2.1 §8.3.4.2).
pub const SECP_NVME: u8 = 0xE9;

/// Fabrics command type of a fabrics command.
pub fn fctype_of(sqe: &Sqe) -> u8 {
    sqe.nsid.to_bytes()[0]
}

/// Data direction of any command: bits 1:0 of the opcode, or of the command type of a fabrics command.
pub fn direction(sqe: &Sqe) -> Direction {
    if sqe.opcode == opcode::FABRICS { Direction::of_opcode(fctype_of(sqe)) } else { sqe.direction() }
}

layout! {
    /// Connect command (base 2.1 §6.3).
    pub struct ConnectCommand: 64 {
        /// [`opcode::FABRICS`].
        0 => opcode: u8,
        /// PSDT in bits 7:6, as in every command.
        1 => flags: u8,
        /// Command identifier.
        2 => cid: U16,
        /// [`fctype::CONNECT`].
        4 => fctype: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 19],
        /// Where the 1,024 bytes of [`ConnectData`] lie.
        24 => sgl: Sgl,
        /// Record format; zero.
        40 => recfmt: U16,
        /// Queue identifier; zero makes an admin queue and a controller.
        42 => qid: U16,
        /// Submission queue size in entries, 0's based.
        44 => sqsize: U16,
        /// Connect attributes: [`cattr`].
        46 => cattr: u8,
        #[doc(hidden)]
        47 => rsvd47: u8,
        /// Keep alive timeout in milliseconds; zero turns it off. Admin queue only.
        48 => kato: U32,
        #[doc(hidden)]
        52 => rsvd52: [u8; 12],
    }

    /// Data of a Connect command (base 2.1 §6.3).
    pub struct ConnectData: 1024 {
        /// Host identifier.
        0 => hostid: HostId,
        /// Controller asked for: an identifier, [`ControllerId::DYNAMIC`] or [`ControllerId::STATIC_ANY`].
        16 => cntlid: U16,
        #[doc(hidden)]
        18 => rsvd18: [u8; 238],
        /// NVMe qualified name of the subsystem.
        256 => subnqn: NulStr<256>,
        /// NVMe qualified name of the host.
        512 => hostnqn: NulStr<256>,
        #[doc(hidden)]
        768 => rsvd768: [u8; 256],
    }

    /// Property Get command (base 2.1 §6.5).
    pub struct PropertyGet: 64 {
        /// [`opcode::FABRICS`].
        0 => opcode: u8,
        /// PSDT in bits 7:6, as in every command.
        1 => flags: u8,
        /// Command identifier.
        2 => cid: U16,
        /// [`fctype::PROPERTY_GET`].
        4 => fctype: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 35],
        /// Size in bits 2:0: 0 is 4 bytes, 1 is 8 bytes.
        40 => attrib: u8,
        #[doc(hidden)]
        41 => rsvd41: [u8; 3],
        /// Offset of the property in bytes: [`crate::properties::offset`].
        44 => offset: U32,
        #[doc(hidden)]
        48 => rsvd48: [u8; 16],
    }

    /// Property Set command (base 2.1 §6.6).
    pub struct PropertySet: 64 {
        /// [`opcode::FABRICS`].
        0 => opcode: u8,
        /// PSDT in bits 7:6, as in every command.
        1 => flags: u8,
        /// Command identifier.
        2 => cid: U16,
        /// [`fctype::PROPERTY_SET`].
        4 => fctype: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 35],
        /// Size in bits 2:0: 0 is 4 bytes, 1 is 8 bytes.
        40 => attrib: u8,
        #[doc(hidden)]
        41 => rsvd41: [u8; 3],
        /// Offset of the property in bytes: [`crate::properties::offset`].
        44 => offset: U32,
        /// Value; 4-byte properties use the low half.
        48 => value: U64,
        #[doc(hidden)]
        56 => rsvd56: [u8; 8],
    }

    /// Disconnect command (base 2.1 §6.4).
    pub struct Disconnect: 64 {
        /// [`opcode::FABRICS`].
        0 => opcode: u8,
        /// PSDT in bits 7:6, as in every command.
        1 => flags: u8,
        /// Command identifier.
        2 => cid: U16,
        /// [`fctype::DISCONNECT`].
        4 => fctype: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 35],
        /// Record format; zero.
        40 => recfmt: U16,
        #[doc(hidden)]
        42 => rsvd42: [u8; 22],
    }

    /// Authentication Send and Authentication Receive commands (base 2.1 §6.1, §6.2).
    pub struct AuthCommand: 64 {
        /// [`opcode::FABRICS`].
        0 => opcode: u8,
        /// PSDT in bits 7:6, as in every command.
        1 => flags: u8,
        /// Command identifier.
        2 => cid: U16,
        /// [`fctype::AUTH_SEND`] or [`fctype::AUTH_RECEIVE`].
        4 => fctype: u8,
        #[doc(hidden)]
        5 => rsvd5: [u8; 19],
        /// Where the message lies.
        24 => sgl: Sgl,
        #[doc(hidden)]
        40 => rsvd40: u8,
        /// Security protocol specific 0; 01h.
        41 => spsp0: u8,
        /// Security protocol specific 1; 01h.
        42 => spsp1: u8,
        /// Security protocol: [`SECP_NVME`].
        43 => secp: u8,
        /// Transfer length (send) or allocation length (receive), in bytes.
        44 => length: U32,
        #[doc(hidden)]
        48 => rsvd48: [u8; 16],
    }
}

/// Bits of Connect attributes, CATTR (base 2.1 §6.3).
pub mod cattr {
    /// Priority class of the queue, bits 1:0.
    pub const PRIORITY_MASK: u8 = 0b11;
    /// Disable submission queue flow control; granted when SQHD of the Connect response is [`super::SQHD_DISABLED`].
    pub const DISABLE_SQ_FLOW_CONTROL: u8 = 1 << 2;
    /// The host supports deletion of individual I/O queues by Disconnect.
    pub const INDIVIDUAL_IO_QUEUE_DELETION: u8 = 1 << 3;
    /// The connecting entity is a discovery controller, not a host.
    pub const FROM_DISCOVERY_CONTROLLER: u8 = 1 << 4;
}

macro_rules! views {
    ($( $name:ident $($fctype:path)?; )*) => { $(
        impl $name {
            /// Views a submission queue entry as this command; the caller has looked at its type.
            pub fn of(sqe: &Sqe) -> &Self {
                zerocopy::transmute_ref!(sqe)
            }

            /// The command as a submission queue entry.
            pub fn to_sqe(&self) -> Sqe {
                zerocopy::transmute!(*self)
            }

            $(
                /// A command of this type whose data pointer is an SGL; all else zero.
                ///
                /// PSDT says so even without data: some targets refuse fabrics commands with any other value.
                pub fn new(cid: u16) -> Self {
                    Self {
                        opcode: opcode::FABRICS, flags: 0x40, cid: U16::new(cid), fctype: $fctype,
                        ..Self::default()
                    }
                }
            )?
        }
    )* };
}

views! {
    ConnectCommand fctype::CONNECT;
    PropertyGet fctype::PROPERTY_GET;
    PropertySet fctype::PROPERTY_SET;
    Disconnect fctype::DISCONNECT;
    AuthCommand;
}

impl ConnectCommand {
    /// Queue the command makes.
    pub fn qid(&self) -> QueueId {
        QueueId(self.qid.get())
    }

    /// Submission queue size in entries (1's based); `None` when SQSIZE is zero, which is not allowed.
    pub fn queue_entries(&self) -> Option<u32> {
        match self.sqsize.get() {
            0 => None,
            size => Some(u32::from(size) + 1),
        }
    }

    /// Whether the host turns submission queue flow control off.
    pub fn disables_sq_flow_control(&self) -> bool {
        self.cattr & cattr::DISABLE_SQ_FLOW_CONTROL != 0
    }
}

impl ConnectData {
    /// Data for a host that asks a subsystem for this controller.
    pub fn new(hostid: HostId, cntlid: ControllerId, subnqn: &Nqn, hostnqn: &Nqn) -> Self {
        Self {
            hostid,
            cntlid: U16::new(cntlid.0),
            subnqn: subnqn.into(),
            hostnqn: hostnqn.into(),
            ..Self::default()
        }
    }

    /// Controller asked for.
    pub fn cntlid(&self) -> ControllerId {
        ControllerId(self.cntlid.get())
    }
}

/// Size of a property.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PropertySize {
    /// Four bytes.
    Four,
    /// Eight bytes.
    Eight,
}

impl PropertySize {
    /// From the attributes of a property command; `None` for reserved sizes.
    pub const fn from_attrib(attrib: u8) -> Option<Self> {
        match attrib & 0b111 {
            0 => Some(Self::Four),
            1 => Some(Self::Eight),
            _ => None,
        }
    }

    /// The attributes of a property command.
    pub const fn to_attrib(self) -> u8 {
        match self {
            Self::Four => 0,
            Self::Eight => 1,
        }
    }
}

impl PropertyGet {
    /// Reads a property of this size at this offset.
    pub fn at(cid: u16, size: PropertySize, offset: u32) -> Self {
        Self { attrib: size.to_attrib(), offset: U32::new(offset), ..Self::new(cid) }
    }
}

impl PropertySet {
    /// Writes a property of this size at this offset.
    pub fn at(cid: u16, size: PropertySize, offset: u32, value: u64) -> Self {
        Self { attrib: size.to_attrib(), offset: U32::new(offset), value: U64::new(value), ..Self::new(cid) }
    }
}

impl AuthCommand {
    /// An Authentication Send of `length` bytes.
    pub fn send(cid: u16, length: u32) -> Self {
        Self::message(cid, fctype::AUTH_SEND, length)
    }

    /// An Authentication Receive into `length` bytes.
    pub fn receive(cid: u16, length: u32) -> Self {
        Self::message(cid, fctype::AUTH_RECEIVE, length)
    }

    fn message(cid: u16, fctype: u8, length: u32) -> Self {
        Self {
            opcode: opcode::FABRICS,
            flags: 0x40,
            cid: U16::new(cid),
            fctype,
            spsp0: 1,
            spsp1: 1,
            secp: SECP_NVME,
            length: U32::new(length),
            ..Self::default()
        }
    }
}
