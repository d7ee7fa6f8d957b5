//! A raw NVMe/TCP peer: sends what it is told, well-formed or not, and reads PDUs.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use nvme::admin::{AsyncEventRequest, GetLogPage, Identify, KeepAlive, SetFeatures};
use nvme::fabrics::{ConnectCommand, ConnectData, PropertyGet, PropertySet, PropertySize};
use nvme::nvm::{DatasetManagement, Flush, ReadWrite};
use nvme::properties::{Cc, offset};
use nvme::tcp::{C2hData, CapsuleCmd, CapsuleResp, CommonHeader, H2cData, IcReq, PduType, R2t, flags};
use nvme::{ControllerId, HostId, Lba, Nqn, Nsid, Sgl, SglDescriptor, Sqe, Status, U16, U32};
use zerocopy::{FromBytes, IntoBytes};

use crate::common::PATIENCE;

/// How long a peer waits for an answer that may never come: what it sent may have been spoilt.
const IMPATIENCE: Duration = Duration::from_millis(40);
/// Bytes of a logical block in these tests.
pub(crate) const BLOCK_BYTES: u32 = 4096;
/// The only namespace.
pub(crate) const NSID: Nsid = Nsid(1);
/// More than the in-capsule data size of any queue.
const R2T_BLOCKS: u32 = 8;

/// Whom a peer connects to, and as whom.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) address: SocketAddr,
    pub(crate) subnqn: Nqn,
    pub(crate) hostnqn: Nqn,
    pub(crate) hostid: HostId,
}

impl Place {
    pub(crate) fn connect_data(&self, cntlid: ControllerId) -> ConnectData {
        ConnectData::new(self.hostid, cntlid, &self.subnqn, &self.hostnqn)
    }
}

/// One connection. Sending to a peer that hung up is no error: that is what many attacks are for.
pub(crate) struct Peer {
    pub(crate) stream: TcpStream,
}

impl Peer {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the daemon listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_write_timeout(Some(IMPATIENCE)).expect("a socket");
        Self { stream }
    }

    /// `false` once the daemon has closed the connection, or reads no more.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next PDU within `patience`; `None` when there is none, or the connection is closed.
    pub(crate) fn receive_within(&mut self, patience: Duration) -> Option<Vec<u8>> {
        self.stream.set_read_timeout(Some(patience)).expect("a socket");
        let mut pdu = vec![0; size_of::<CommonHeader>()];
        self.stream.read_exact(&mut pdu).ok()?;
        let header = CommonHeader::read_from_bytes(&pdu).expect("eight bytes");
        let len = usize::try_from(header.plen.get()).expect("fits");
        assert!(pdu.len() <= len && len <= 2 << 20, "the daemon sent a PDU of {len} bytes");
        pdu.resize(len, 0);
        self.stream.read_exact(&mut pdu[size_of::<CommonHeader>()..]).ok()?;
        Some(pdu)
    }

    pub(crate) fn receive(&mut self) -> Option<Vec<u8>> {
        self.receive_within(IMPATIENCE)
    }

    /// Sends, and takes one answer; gives the data that an R2T asks for.
    pub(crate) fn exchange(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.send(bytes) {
            return None;
        }
        let answer = self.receive()?;
        match R2t::read_from_prefix(&answer) {
            Ok((r2t, _)) if r2t.ch.pdu_type() == PduType::R2T => {
                let data = vec![0x5A; usize::try_from(r2t.r2tl.get()).expect("fits")];
                self.send(&h2c_data(r2t.cccid.get(), r2t.ttag.get(), r2t.r2to.get(), &data));
                self.receive()
            }
            _ => Some(answer),
        }
    }

    /// Runs a command that must be answered with a response, however loaded the machine is.
    pub(crate) fn command(&mut self, bytes: &[u8], patience: Duration) -> (u16, Status, u64) {
        assert!(self.send(bytes), "the connection is open");
        self.response(patience)
    }

    /// The next response capsule: identifier, status and result of the command. Data before it is skipped.
    pub(crate) fn response(&mut self, patience: Duration) -> (u16, Status, u64) {
        self.try_response(patience).expect("a response")
    }

    /// Like [`Peer::response`], but the connection may end.
    pub(crate) fn try_response(&mut self, patience: Duration) -> Option<(u16, Status, u64)> {
        loop {
            let pdu = self.receive_within(patience)?;
            match CapsuleResp::read_from_bytes(&pdu) {
                Ok(response) if response.ch.pdu_type() == PduType::CAPSULE_RESP => {
                    let cqe = response.cqe;
                    return Some((cqe.cid.get(), cqe.status(), cqe.result.get()));
                }
                _ => assert_eq!(pdu[0], PduType::C2H_DATA.0, "neither data nor a response: {pdu:x?}"),
            }
        }
    }

    /// Whether the daemon closes the connection in time; what it sends before is thrown away.
    pub(crate) fn is_closed_within(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        let mut scratch = [0; 4096];
        while let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
        {
            self.stream.set_read_timeout(Some(left)).expect("a socket");
            match self.stream.read(&mut scratch) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
                Err(_) => return true,
            }
        }
        false
    }
}

/// A brought-up controller without I/O queues.
pub(crate) struct Association {
    pub(crate) admin: Peer,
    pub(crate) cntlid: ControllerId,
}

impl Association {
    pub(crate) fn open(place: &Place, kato_ms: u32, patience: Duration) -> Self {
        let mut admin = Peer::connect(place.address);
        assert!(admin.send(&ic_request()));
        let answer = admin.receive_within(patience).expect("an ICResp");
        assert_eq!(answer[0], PduType::IC_RESP.0);
        let (_, status, result) =
            admin.command(&connect(0, 31, kato_ms, &place.connect_data(ControllerId::DYNAMIC)), patience);
        assert!(status.is_success(), "Connect: {status}");
        let cntlid = ControllerId(u16::try_from(result & 0xFFFF).expect("16 bits"));
        let (_, status, _) = admin.command(&enable(2), patience);
        assert!(status.is_success(), "Property Set: {status}");
        Self { admin, cntlid }
    }

    /// An I/O queue of `entries` entries.
    pub(crate) fn queue(&self, place: &Place, qid: u16, entries: u16, patience: Duration) -> Peer {
        let mut queue = Peer::connect(place.address);
        assert!(queue.send(&ic_request()));
        assert!(queue.receive_within(patience).is_some(), "an ICResp");
        let bytes = connect(qid, entries - 1, 0, &place.connect_data(self.cntlid));
        let (_, status, _) = queue.command(&bytes, patience);
        assert!(status.is_success(), "Connect of queue {qid}: {status}");
        queue
    }
}

pub(crate) fn ic_request() -> Vec<u8> {
    IcReq::new(0, 0, 0).as_bytes().to_vec()
}

/// A command capsule; data goes into it.
pub(crate) fn capsule(sqe: Sqe, data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("small");
    let sqe = match length {
        0 => sqe,
        _ => sqe.with_sgl(SglDescriptor::InCapsule { offset: 0, length }),
    };
    raw_capsule(sqe, data)
}

/// A command capsule whose SGL is left as it is.
pub(crate) fn raw_capsule(sqe: Sqe, data: &[u8]) -> Vec<u8> {
    let header = size_of::<CapsuleCmd>();
    let mut ch = CommonHeader::of(PduType::CAPSULE_CMD, u8::try_from(header).expect("72"));
    if !data.is_empty() {
        ch.pdo = ch.hlen;
    }
    ch.plen = U32::new(u32::try_from(header + data.len()).expect("small"));
    [CapsuleCmd { ch, sqe }.as_bytes(), data].concat()
}

/// A command whose data the transport moves.
pub(crate) fn transfer(sqe: Sqe, length: u32) -> Vec<u8> {
    capsule(sqe.with_sgl(Sgl::from(SglDescriptor::Transport { length })), &[])
}

pub(crate) fn connect(qid: u16, sqsize: u16, kato_ms: u32, data: &ConnectData) -> Vec<u8> {
    let mut command = ConnectCommand::new(1);
    command.qid = U16::new(qid);
    command.sqsize = U16::new(sqsize);
    command.kato = U32::new(kato_ms);
    capsule(command.to_sqe(), data.as_bytes())
}

pub(crate) fn enable(cid: u16) -> Vec<u8> {
    let value = u64::from(Cc::ENABLE_NVM.0);
    capsule(PropertySet::at(cid, PropertySize::Four, offset::CC, value).to_sqe(), &[])
}

/// All of the data at once, as the last of its transfer.
pub(crate) fn h2c_data(cccid: u16, ttag: u16, datao: u32, data: &[u8]) -> Vec<u8> {
    let header = size_of::<H2cData>();
    let mut ch = CommonHeader::of(PduType::H2C_DATA, u8::try_from(header).expect("24"));
    ch.flags = flags::LAST_PDU;
    ch.pdo = ch.hlen;
    ch.plen = U32::new(u32::try_from(header + data.len()).expect("small"));
    let pdu = H2cData {
        ch,
        cccid: U16::new(cccid),
        ttag: U16::new(ttag),
        datao: U32::new(datao),
        datal: U32::new(u32::try_from(data.len()).expect("small")),
        ..H2cData::default()
    };
    [pdu.as_bytes(), data].concat()
}

pub(crate) fn read(cid: u16, lba: u64, blocks: u32) -> Vec<u8> {
    transfer(ReadWrite::read(NSID, Lba(lba), blocks).to_sqe(cid), blocks * BLOCK_BYTES)
}

pub(crate) fn write(cid: u16, lba: u64, blocks: u32) -> Vec<u8> {
    transfer(ReadWrite::write(NSID, Lba(lba), blocks).to_sqe(cid), blocks * BLOCK_BYTES)
}

/// Writes a block full of `byte`.
pub(crate) fn write_block(queue: &mut Peer, lba: u64, byte: u8) -> Status {
    let sqe = ReadWrite::write(NSID, Lba(lba), 1).to_sqe(1);
    queue.command(&capsule(sqe, &vec![byte; BLOCK_BYTES as usize]), PATIENCE).1
}

/// Writes a block full of `byte`; `None` when the connection ends first.
pub(crate) fn try_write_block(queue: &mut Peer, lba: u64, byte: u8) -> Option<Status> {
    let sqe = ReadWrite::write(NSID, Lba(lba), 1).to_sqe(1);
    if !queue.send(&capsule(sqe, &vec![byte; BLOCK_BYTES as usize])) {
        return None;
    }
    queue.try_response(PATIENCE).map(|(_, status, _)| status)
}

/// The first byte of a block.
pub(crate) fn read_block(queue: &mut Peer, lba: u64) -> Result<u8, Status> {
    assert!(queue.send(&read(1, lba, 1)));
    let pdu = queue.receive_within(PATIENCE).expect("an answer");
    if pdu[0] != PduType::C2H_DATA.0 {
        return Err(CapsuleResp::read_from_bytes(&pdu).expect("a response").cqe.status());
    }
    assert!(queue.response(PATIENCE).1.is_success());
    Ok(pdu[size_of::<C2hData>()])
}

/// What a host sends on its admin connection, PDU by PDU.
pub(crate) fn admin_session(place: &Place) -> Vec<Vec<u8>> {
    let identify = |cid, cns| transfer(Identify::new(cns).to_sqe(cid), BLOCK_BYTES);
    let property = |cid, size, offset| capsule(PropertyGet::at(cid, size, offset).to_sqe(), &[]);
    /// Identify of a controller, of its active namespaces.
    const CONTROLLER: u8 = 1;
    const ACTIVE: u8 = 2;
    /// Number of queues: one each, 0's based.
    const QUEUES: SetFeatures =
        SetFeatures { nsid: Nsid::NONE, fid: 7, sv: false, cdw11: 0, cdw12: 0, cdw13: 0, uuid: 0, cdw15: 0 };
    const SMART: u8 = 2;
    vec![
        ic_request(),
        connect(0, 31, 0, &place.connect_data(ControllerId::DYNAMIC)),
        property(2, PropertySize::Eight, offset::CAP),
        enable(3),
        property(4, PropertySize::Four, offset::CSTS),
        identify(5, CONTROLLER),
        identify(6, ACTIVE),
        capsule(QUEUES.to_sqe(7), &[]),
        transfer(GetLogPage::new(SMART, 512, 0).to_sqe(8), 512),
        capsule(KeepAlive.to_sqe(9), &[]),
        capsule(AsyncEventRequest.to_sqe(10), &[]),
    ]
}

/// What a host sends on an I/O connection of controller `cntlid`, PDU by PDU; H2CData comes on top.
pub(crate) fn io_session(place: &Place, cntlid: ControllerId, qid: u16) -> Vec<Vec<u8>> {
    let block = vec![0xA5; usize::try_from(BLOCK_BYTES).expect("small")];
    let blocks = |command: ReadWrite, cid| command.to_sqe(cid);
    let range = nvme::nvm::Range { nlb: U32::new(4), ..Default::default() };
    vec![
        ic_request(),
        connect(qid, 31, 0, &place.connect_data(cntlid)),
        capsule(blocks(ReadWrite::write(NSID, Lba(7), 1), 2), &block),
        read(3, 7, 1),
        write(4, 64, R2T_BLOCKS),
        read(5, 64, R2T_BLOCKS),
        capsule(blocks(ReadWrite::compare(NSID, Lba(7), 1), 6), &block),
        capsule(Flush { nsid: NSID }.to_sqe(7), &[]),
        capsule(blocks(ReadWrite::write_zeroes(NSID, Lba(9), 4), 8), &[]),
        capsule(DatasetManagement::deallocate(NSID, 1).to_sqe(9), range.as_bytes()),
    ]
}
