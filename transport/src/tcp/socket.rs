//! The system calls of TCP: sockets, their options, one receive, one send.
//!
//! Every descriptor is non-blocking and close-on-exec. Errors keep their `errno`.

use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, ipproto, sockopt,
};

/// Socket buffers of 2 MiB: two maximal transfers, and what loopback needs to never wait on its window.
const SOCKET_BUFFER_BYTES: usize = 2 << 20;
/// Connections the kernel completes for us before they are accepted; the kernel caps it at `net.core.somaxconn`.
const LISTEN_BACKLOG: i32 = 1024;
/// First keep-alive probe after this long without traffic: NVMe's own keep-alive comes earlier on a healthy path.
const TCP_KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
/// Time between probes.
const TCP_KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Probes without an answer before the connection is dead.
const TCP_KEEPALIVE_PROBES: u32 = 4;
/// Unacknowledged bytes (or a closed window) end the connection after this: a peer that never reads is not kept.
const TCP_USER_TIMEOUT_MS: u32 = 30_000;

/// A listening socket on `address`, and the address it got (port 0 asks for a free one).
pub(crate) fn listen(address: SocketAddr) -> Result<(OwnedFd, SocketAddr), Errno> {
    let fd = stream(address)?;
    sockopt::set_socket_reuseaddr(&fd, true)?;
    if address.is_ipv6() {
        // `[::]` and `0.0.0.0` are two listeners, as two addresses are.
        sockopt::set_ipv6_v6only(&fd, true)?;
    }
    // Before listen: what is accepted inherits the buffer sizes, and so the window scale.
    widen(&fd);
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, LISTEN_BACKLOG)?;
    let bound = local_address(&fd)?;
    Ok((fd, bound))
}

/// The next established connection: `AGAIN` when there is none.
pub(crate) fn accept(listener: &OwnedFd) -> Result<(OwnedFd, SocketAddr), Errno> {
    let (fd, remote) = rustix::net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC)?;
    // A peer that reset at once has no address any more; its connection is of no use.
    let remote = remote.ok_or(Errno::CONNABORTED)?;
    Ok((fd, SocketAddr::try_from(remote)?))
}

/// Starts to connect; writable when it is decided, and then [`connected`] tells how.
pub(crate) fn connect(remote: SocketAddr, local: Option<SocketAddr>) -> Result<OwnedFd, Errno> {
    let fd = stream(remote)?;
    widen(&fd);
    tune(&fd)?;
    if let Some(local) = local {
        rustix::net::bind(&fd, &local)?;
    }
    match rustix::net::connect(&fd, &remote) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(fd),
        Err(error) => Err(error),
    }
}

/// How a connect ended: `Ok(false)` while it is still under way.
pub(crate) fn connected(fd: &OwnedFd) -> Result<bool, Errno> {
    sockopt::socket_error(fd)??;
    match rustix::net::getpeername(fd) {
        Ok(peer) => Ok(peer.is_some()),
        Err(Errno::NOTCONN) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Address of our end.
pub(crate) fn local_address(fd: &OwnedFd) -> Result<SocketAddr, Errno> {
    SocketAddr::try_from(rustix::net::getsockname(fd)?)
}

/// Sets what every data connection has: no Nagle delay, keep-alive, a bound on unacknowledged bytes.
pub(crate) fn tune(fd: &OwnedFd) -> Result<(), Errno> {
    sockopt::set_tcp_nodelay(fd, true)?;
    sockopt::set_socket_keepalive(fd, true)?;
    sockopt::set_tcp_keepidle(fd, TCP_KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(fd, TCP_KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(fd, TCP_KEEPALIVE_PROBES)?;
    sockopt::set_tcp_user_timeout(fd, TCP_USER_TIMEOUT_MS)
}

/// Whether there is anything to receive, the peer's end included: `AGAIN` when not.
pub(crate) fn peek(fd: &OwnedFd) -> Result<(), Errno> {
    match rustix::net::recv(fd, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error),
    }
}

/// As [`receive`], into several parts, one after the other.
pub(crate) fn receive_parts(fd: &OwnedFd, parts: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
    if let [part] = parts {
        return receive(fd, part);
    }
    loop {
        match rustix::io::readv(fd, parts) {
            Err(Errno::INTR) => {}
            outcome => return outcome,
        }
    }
}

/// Receives what is there into `buffer`: `Ok(0)` is the peer's orderly end, `AGAIN` is nothing now.
pub(crate) fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> Result<usize, Errno> {
    loop {
        match rustix::net::recv(fd, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((bytes, _)) => return Ok(bytes),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Sends as much of `parts` as the socket takes: `AGAIN` when it is full.
pub(crate) fn send(fd: &OwnedFd, parts: &[IoSlice<'_>]) -> Result<usize, Errno> {
    const FLAGS: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
    loop {
        let outcome = match parts {
            // The kernel has less to copy and check than for a list of one.
            [part] => rustix::net::send(fd, part, FLAGS),
            parts => rustix::net::sendmsg(fd, parts, &mut SendAncillaryBuffer::default(), FLAGS),
        };
        match outcome {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

fn stream(address: SocketAddr) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))
}

/// Asks for large buffers past the system's cap. Without the privilege the kernel's own tuning reaches more than a
/// capped request would, so it is left alone.
fn widen(fd: impl AsFd) {
    let fd = fd.as_fd();
    if sockopt::set_socket_recv_buffer_size_force(fd, SOCKET_BUFFER_BYTES).is_err() {
        return;
    }
    if let Err(errno) = sockopt::set_socket_send_buffer_size_force(fd, SOCKET_BUFFER_BYTES) {
        tracing::debug!(%errno, "send buffer keeps its default size");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(fd: &OwnedFd, flags: rustix::event::PollFlags) {
        let mut set = [rustix::event::PollFd::new(fd, flags)];
        rustix::event::poll(&mut set, None).unwrap();
    }

    #[test]
    fn port_zero_yields_the_port_that_was_chosen() {
        for text in ["127.0.0.1:0", "[::1]:0"] {
            let (_fd, bound) = listen(text.parse().unwrap()).unwrap();
            assert_ne!(bound.port(), 0);
        }
    }

    #[test]
    fn v4_and_v6_wildcards_share_a_port() {
        let (_v4, bound) = listen("0.0.0.0:0".parse().unwrap()).unwrap();
        let v6 = SocketAddr::new("::".parse().unwrap(), bound.port());
        assert_eq!(listen(v6).unwrap().1, v6);
    }

    #[test]
    fn bytes_sent_in_parts_arrive_in_order_then_the_end() {
        let (listener, bound) = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let host = connect(bound, None).unwrap();
        wait(&listener, rustix::event::PollFlags::IN);
        let (target, remote) = accept(&listener).unwrap();
        wait(&host, rustix::event::PollFlags::OUT);
        assert_eq!(connected(&host), Ok(true));
        assert_eq!(remote, local_address(&host).unwrap());
        assert_eq!(accept(&listener).unwrap_err(), Errno::AGAIN);

        let mut buffer = [0; 16];
        assert_eq!(receive(&target, &mut buffer), Err(Errno::AGAIN));
        assert_eq!(send(&host, &[IoSlice::new(b"abc"), IoSlice::new(b"de")]), Ok(5));
        wait(&target, rustix::event::PollFlags::IN);
        assert_eq!(receive(&target, &mut buffer), Ok(5));
        assert_eq!(&buffer[..5], b"abcde");
        drop(host);
        wait(&target, rustix::event::PollFlags::IN);
        assert_eq!(receive(&target, &mut buffer), Ok(0));
    }

    #[test]
    fn a_refused_connect_says_so() {
        let (listener, bound) = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        drop(listener);
        let refused = connect(bound, None).and_then(|fd| {
            wait(&fd, rustix::event::PollFlags::OUT);
            connected(&fd)
        });
        assert_eq!(refused, Err(Errno::CONNREFUSED));
    }
}
