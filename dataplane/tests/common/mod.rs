//! A daemon for one test, and clients of it.

#![allow(dead_code, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// How long anything may take on a starved machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Pause between two questions to another process about something that nobody is told of.
const ASK_AGAIN: Duration = Duration::from_millis(20);

/// Asks another process again and again: nothing here is told when its state changes. The pause only spares it questions; how
/// long it is decides nothing.
pub(crate) fn eventually(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "never came true: {what}");
        std::thread::sleep(ASK_AGAIN);
    }
}

/// A daemon that is killed when the test ends.
pub(crate) struct Daemon {
    child: Child,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) socket: PathBuf,
    lines: mpsc::Receiver<String>,
}

pub(crate) fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pollux-dataplane"))
}

impl Daemon {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().expect("folder"), arguments)
    }

    /// Starts a daemon and waits until it says that it serves.
    pub(crate) fn start_in(folder: tempfile::TempDir, arguments: &[&str]) -> Self {
        let socket = folder.path().join("rpc.sock");
        let mut child = command()
            .arg("--rpc-socket")
            .arg(&socket)
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let daemon = Self { child, folder, socket, lines };
        daemon.wait_for_line("serving");
        daemon
    }

    pub(crate) fn wait_for_line(&self, part: &str) {
        let mut seen = Vec::new();
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) if line.contains(part) => return,
                Ok(line) => seen.push(line),
                Err(_) => panic!("the daemon never said `{part}`, but: {seen:#?}"),
            }
        }
    }

    /// What it logged since the last look.
    pub(crate) fn lines(&self) -> impl Iterator<Item = String> + '_ {
        self.lines.try_iter()
    }

    /// Descriptors it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("running").count()
    }

    /// Processor time it used so far, in the kernel and outside of it.
    pub(crate) fn cpu_time(&self) -> Duration {
        /// Clock ticks a second: USER_HZ of every Linux that Rust runs on.
        const TICKS: u64 = 100;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).expect("running");
        // The name in parentheses may hold spaces; utime and stime are fields 14 and 15.
        let fields = stat.rsplit_once(") ").expect("a name").1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1000 / TICKS)
    }

    pub(crate) fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.socket).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        Client { stream, pending: Vec::new(), next_id: 0 }
    }

    /// One call on a connection of its own.
    pub(crate) fn call(&self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        self.connect().call(method, params)
    }

    pub(crate) fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("running");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a process with memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(status.expect("kill runs").success());
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("waited for")
    }

    /// Stops it as an operator would, and gives what it logged since it began to serve.
    pub(crate) fn stop_and_read_log(self) -> Vec<String> {
        self.signal("TERM");
        self.lines.iter().collect()
    }

    /// Stops it as an operator would.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A raw JSON-RPC client.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pending: Vec<u8>,
    next_id: u64,
}

impl Client {
    pub(crate) fn call(&mut self, method: &str, params: Value) -> Result<Value, (i64, String)> {
        self.next_id += 1;
        let request = json!({"jsonrpc": "2.0", "id": self.next_id, "method": method, "params": params});
        self.send(request.to_string().as_bytes());
        let answer = self.receive().expect("an answer");
        assert_eq!(answer["id"], self.next_id);
        match answer.get("error") {
            Some(error) => Err((error["code"].as_i64().expect("a code"), error["message"].to_string())),
            None => Ok(answer["result"].clone()),
        }
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// The next answer; `None` when the daemon closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Value> {
        let mut chunk = [0; 4096];
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).expect("JSON"));
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(len) => self.pending.extend_from_slice(&chunk[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                // Being stopped and continued ends a read that has a time-out.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

pub(crate) fn http_get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

/// Folder for what tests build and keep.
pub(crate) fn build_folder() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../build");
    std::fs::create_dir_all(&folder).expect("folder");
    folder.canonicalize().expect("a folder")
}
