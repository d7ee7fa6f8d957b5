//! A controller for tools: each call returns when its answer is there. Never use it on a reactor.

use std::os::fd::AsFd;

use fabrics::Now;
use fabrics::host::{Controller, DiscoveryReader, DiscoveryStep, Payload, Request};
use nvme::admin::{GetLogPage, Identify};
use nvme::discovery::DiscoveryEntry;
use nvme::{Cqe, QueueId};
use reactors::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::admin::AdminQueue;
use super::config::{HostConfig, HostError};
use super::connect::{Connecting, QueueConnect};
use super::queue::HostQueue;
use crate::HostBuffer;

/// What admin answers are received into.
const RECEIVE_BYTES: usize = 64 << 10;
/// Log pages are read in pieces of this: any controller transfers that much at once.
const LOG_PIECE_BYTES: u32 = 4 << 10;
/// Identify data.
const IDENTIFY_BYTES: usize = 4096;
/// Longest sleep, so that a deadline that moves is not missed.
const SLEEP_NS_MAX: u64 = 100 * fabrics::NS_PER_MS;

/// A controller that is up, and the clock it is driven by.
pub struct Blocking {
    config: HostConfig,
    admin: AdminQueue,
    clock: Clock,
    buffer: Box<[u8]>,
    next_tag: u32,
}

impl Blocking {
    /// Connects the admin queue and brings the controller up. I/O queues are connected one by one with
    /// [`Blocking::io_queue`], here or on the thread that uses them.
    ///
    /// # Errors
    /// [`HostError`] with what failed.
    pub fn connect(config: HostConfig) -> Result<Self, HostError> {
        let clock = Clock::new();
        let admin = AdminQueue::connect(&config, now(&clock))?;
        let buffer = vec![0; RECEIVE_BYTES].into_boxed_slice();
        let mut host = Self { config, admin, clock, buffer, next_tag: 0 };
        loop {
            host.turn()?;
            if host.admin.controller().is_some() {
                return Ok(host);
            }
            host.sleep();
        }
    }

    /// The controller.
    ///
    /// # Panics
    /// Never: it was up when this was made, and every call reports when it no longer is.
    pub fn controller(&self) -> Option<&Controller> {
        self.admin.controller()
    }

    /// What it was connected with.
    pub fn config(&self) -> &HostConfig {
        &self.config
    }

    /// Sends keep-alives and takes events. A tool whose work is elsewhere calls it a few times a second.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn turn(&mut self) -> Result<(), HostError> {
        let now = now(&self.clock);
        while self.admin.poll(&mut self.buffer, now) {
            if let Some(error) = self.admin.error() {
                return Err(error.clone());
            }
            if self.admin.controller().is_some() {
                break;
            }
        }
        self.admin.error().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// The next asynchronous event that came: dwords 0 and 1 of its completion.
    pub fn take_event(&mut self) -> Option<u64> {
        self.admin.take_event()
    }

    /// Waits for an asynchronous event.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn wait_event(&mut self) -> Result<u64, HostError> {
        loop {
            self.turn()?;
            if let Some(event) = self.admin.take_event() {
                return Ok(event);
            }
            self.sleep();
        }
    }

    /// Runs one admin command: its completion, whatever its status, and its data.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn admin(&mut self, request: &Request) -> Result<(Cqe, Vec<u8>), HostError> {
        let tag = self.next_tag;
        self.next_tag = self.next_tag.wrapping_add(1);
        let mut sent = false;
        loop {
            sent = sent || self.admin.submit(request.clone(), tag, now(&self.clock));
            self.turn()?;
            while let Some(done) = self.admin.take_done() {
                if done.tag == tag {
                    return done.outcome.ok_or(HostError::Closed);
                }
            }
            self.sleep();
        }
    }

    /// The data of an Identify command.
    ///
    /// # Errors
    /// The command failed, or the connection is lost.
    pub fn identify(&mut self, command: &Identify) -> Result<Vec<u8>, HostError> {
        let data = Payload::FromController(IDENTIFY_BYTES);
        self.checked("Identify", &Request { sqe: command.to_sqe(0), data })
    }

    /// `bytes` bytes of a log page from its start, a multiple of 4; read in pieces. Other fields are those of `command`.
    ///
    /// # Errors
    /// The command failed, or the connection is lost.
    pub fn get_log_page(&mut self, command: &GetLogPage, bytes: u32) -> Result<Vec<u8>, HostError> {
        let mut page = Vec::new();
        while let Some(left) = bytes.checked_sub(u32::try_from(page.len()).unwrap_or(u32::MAX))
            && left > 0
        {
            let piece = left.min(LOG_PIECE_BYTES);
            let sized = GetLogPage::new(command.lid, piece, page.len() as u64);
            let sqe = GetLogPage { numd: sized.numd, lpo: sized.lpo, ..*command }.to_sqe(0);
            let data = Payload::FromController(piece as usize);
            page.extend(self.checked("Get Log Page", &Request { sqe, data })?);
        }
        Ok(page)
    }

    /// The discovery log of a discovery controller: its generation and entries.
    ///
    /// # Errors
    /// The log cannot be read, or the connection is lost.
    pub fn discover(&mut self, lsp: u8) -> Result<(u64, Vec<DiscoveryEntry>), HostError> {
        let (mut reader, mut request) = DiscoveryReader::new(lsp);
        loop {
            let (cqe, data) = self.admin(&request)?;
            match reader.on_completed(cqe.status(), &data)? {
                DiscoveryStep::Send(next) => request = next,
                DiscoveryStep::Done { generation, entries } => return Ok((generation, entries)),
            }
        }
    }

    /// Connects I/O queue `id` (from 1), see [`connect_queue`].
    ///
    /// # Errors
    /// [`HostError`] with what failed.
    pub fn io_queue<B: HostBuffer>(
        &mut self,
        id: QueueId,
        buffer: impl FnOnce(&[u8]) -> Option<B>,
    ) -> Result<HostQueue<B>, HostError> {
        let controller = self.admin.controller().ok_or(HostError::Closed)?;
        connect_queue(&self.config, controller, id, buffer)
    }

    fn checked(&mut self, command: &'static str, request: &Request) -> Result<Vec<u8>, HostError> {
        let (cqe, data) = self.admin(request)?;
        let status = cqe.status();
        if status.is_success() { Ok(data) } else { Err(HostError::Command { command, status }) }
    }

    fn sleep(&mut self) {
        self.admin.before_sleep();
        wait(&self.admin, self.admin.wants_write(), self.admin.next_deadline(), &self.clock);
    }
}

/// Connects I/O queue `id` (from 1) of a controller that is up, on the thread that will use it. `buffer` makes a buffer
/// with the bytes given.
///
/// # Errors
/// [`HostError`] with what failed.
pub fn connect_queue<B: HostBuffer>(
    config: &HostConfig,
    controller: &Controller,
    id: QueueId,
    buffer: impl FnOnce(&[u8]) -> Option<B>,
) -> Result<HostQueue<B>, HostError> {
    let clock = Clock::new();
    let mut scratch = vec![0; RECEIVE_BYTES];
    let mut connect = QueueConnect::start(config, controller, id, buffer, now(&clock))?;
    loop {
        match connect.poll(&mut scratch, now(&clock))? {
            Connecting::Ready(queue) => return Ok(queue),
            Connecting::Pending(pending) => connect = pending,
        }
        connect.before_sleep();
        wait(&connect, connect.wants_write(), connect.next_deadline(), &clock);
    }
}

fn now(clock: &Clock) -> Now {
    Now(clock.now().as_nanos())
}

/// Sleeps until the socket has something or the deadline comes.
fn wait(socket: &impl AsFd, writable: bool, deadline: Now, clock: &Clock) {
    let ns = deadline.since(now(clock)).min(SLEEP_NS_MAX);
    let timeout = Timespec { tv_sec: 0, tv_nsec: i64::try_from(ns).unwrap_or(0) };
    let flags = if writable { PollFlags::OUT | PollFlags::IN } else { PollFlags::IN };
    // A signal ends the sleep early; the caller looks again anyway.
    let _ = poll(&mut [PollFd::new(socket, flags)], Some(&timeout));
}
