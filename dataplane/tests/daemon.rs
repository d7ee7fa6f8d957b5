//! The daemon as its operator and its enemies see it.

mod common;

use std::io::{ErrorKind, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;

use common::{Daemon, command, free_address, http_get};
use serde_json::{Value, json};

/// How much the daemon may grow under an attack, in KiB: the buffers of the attacked connections and some.
const GROWTH_MAX_KIB: u64 = 48 << 10;

fn is_alive(daemon: &Daemon) {
    assert!(daemon.call("spdk_get_version", Value::Null).is_ok());
}

#[test]
fn the_socket_is_for_its_owner_alone_and_goes_when_the_daemon_stops() {
    let daemon = Daemon::start(&[]);
    let socket = daemon.socket.clone();
    let mode = std::fs::metadata(&socket).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    daemon.signal("HUP");
    is_alive(&daemon);
    assert_eq!(daemon.stop().code(), Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_second_daemon_leaves_the_socket_to_the_first() {
    let daemon = Daemon::start(&[]);
    let second = command().arg("--rpc-socket").arg(&daemon.socket).output().expect("runs");
    assert_eq!(second.status.code(), Some(69));
    is_alive(&daemon);
}

#[test]
fn a_socket_left_by_a_killed_daemon_is_taken_over() {
    let mut daemon = Daemon::start(&[]);
    daemon.signal("KILL");
    assert_eq!(daemon.wait().signal(), Some(9));
    assert!(daemon.socket.exists());
    let folder = std::mem::replace(&mut daemon.folder, tempfile::tempdir().expect("folder"));
    is_alive(&Daemon::start_in(folder, &[]));
}

#[test]
fn garbage_is_answered_and_the_connection_closed() {
    let daemon = Daemon::start(&[]);
    for garbage in ["GET / HTTP/1.1\r\n\r\n", "{\"method\": nonsense}", "}}}}", "\"text\""] {
        let mut client = daemon.connect();
        client.send(garbage.as_bytes());
        assert_eq!(client.receive().expect("an answer")["error"]["code"], -32700, "{garbage}");
        assert_eq!(client.receive(), None, "{garbage}");
    }
    is_alive(&daemon);
}

#[test]
fn a_request_without_end_is_cut_off_and_costs_bounded_memory() {
    let daemon = Daemon::start(&[]);
    is_alive(&daemon);
    let before = daemon.resident_kib();
    let mut client = daemon.connect();
    client.send(b"{\"method\": \"");
    let chunk = vec![b'x'; 1 << 20];
    let refused = (0..100).find_map(|_| client.stream.write_all(&chunk).err());
    let kind = refused.expect("100 MiB were taken").kind();
    assert!(matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{kind}");
    is_alive(&daemon);
    assert!(daemon.resident_kib() < before + GROWTH_MAX_KIB);
}

#[test]
fn clients_that_never_finish_a_request_or_read_an_answer_hold_up_nobody() {
    let daemon = Daemon::start(&[]);
    let mut slow: Vec<_> = (0..40).map(|_| daemon.connect()).collect();
    for client in &mut slow {
        client.send(b"{\"method\": \"spdk_get_ver");
    }
    let before = daemon.resident_kib();
    let mut deaf = daemon.connect();
    deaf.stream.set_nonblocking(true).expect("a socket");
    let request = b"{\"method\": \"rpc_get_methods\", \"id\": 1}".repeat(1000);
    while deaf.stream.write(&request).is_ok() {}
    is_alive(&daemon);
    assert!(daemon.resident_kib() < before + GROWTH_MAX_KIB);
    slow[0].send(b"sion\", \"id\": 5}");
    assert_eq!(slow[0].receive().expect("an answer")["id"], 5);
}

#[test]
fn several_requests_in_one_write_are_answered_in_order() {
    let daemon = Daemon::start(&[]);
    let mut client = daemon.connect();
    client.send(br#"{"method":"log_get_level","id":1}{"method":"none","id":"b"}{"method":"log_get_level"}"#);
    client.send(br#"[{"method":"log_get_level","id":2},{"method":"log_get_level"},7] {"method":"log_get_level","id":3}"#);
    assert_eq!(client.receive().expect("an answer")["result"], "NOTICE");
    let unknown = client.receive().expect("an answer");
    assert_eq!((&unknown["id"], &unknown["error"]["code"]), (&json!("b"), &json!(-32601)));
    let batch = client.receive().expect("an answer");
    assert_eq!((&batch[0]["id"], &batch[1]["error"]["code"]), (&json!(2), &json!(-32600)));
    assert_eq!(batch.as_array().map(Vec::len), Some(2));
    assert_eq!(client.receive().expect("an answer")["id"], 3);
}

#[test]
fn an_unknown_name_is_answered_with_the_nearest_one() {
    let daemon = Daemon::start(&[]);
    let (code, message) = daemon.call("nvmf_get_subsystem", Value::Null).expect_err("unknown");
    assert_eq!(code, -32601);
    assert!(message.contains("nvmf_get_subsystems"), "{message}");
    let params = json!({"name": "d", "num_block": 1, "block_size": 512});
    let (code, message) = daemon.call("bdev_null_create", params).expect_err("unknown");
    assert_eq!(code, -32602);
    assert!(message.contains("num_blocks"), "{message}");
}

#[test]
fn a_configuration_file_is_served_and_measured() {
    let (listen, metrics) = (free_address(), free_address());
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("pollux.toml");
    let text = format!(
        r#"
        [metrics]
        address = "{metrics}"
        [[devices]]
        name = "disk"
        kind = "uring"
        path = "{}"
        size = "16 MiB"
        [[subsystems]]
        nqn = "nqn.2026-01.org.example:file"
        allow_any_host = true
        namespaces = [{{ device = "disk", nsid = 5 }}]
        listeners = [{{ address = "{listen}" }}]
        "#,
        folder.path().join("disk").display()
    );
    std::fs::write(&file, text).expect("written");
    let check = command().arg("--check-config").arg("--config").arg(&file).output().expect("runs");
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));

    let daemon = Daemon::start(&["--config", file.to_str().expect("text")]);
    let subsystem = &daemon.call("nvmf_get_subsystems", Value::Null).expect("listed")[1];
    assert_eq!(subsystem["namespaces"][0]["nsid"], 5);
    assert_eq!(subsystem["listen_addresses"][0]["trsvcid"], listen.port().to_string());
    assert!(std::net::TcpStream::connect(listen).is_ok());

    let text = http_get(metrics, "/metrics");
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    assert!(text.contains("pollux_reactor_turns_total{core=\"0\"}"), "{text}");
    let commands = "pollux_namespace_commands_total{subsystem=\"nqn.2026-01.org.example:file\",nsid=\"5\",";
    assert!(text.contains(commands), "{text}");
    assert!(http_get(metrics, "/").starts_with("HTTP/1.1 404"));
    assert_eq!(daemon.stop().code(), Some(0));
}

#[test]
fn a_wrong_configuration_is_named_by_line_and_exits_with_78() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("pollux.toml");
    for (text, part) in [
        ("[reactors]\ncore = \"0\"\n", ":2: unknown key `reactors.core`; did you mean `cores`?"),
        ("[[subsystems]]\nnqn = \"nonsense\"\n", ":2: "),
        ("[[devices]]\nname = \"a\"\nkind = \"memory\"\n", "device a: `size` is missing"),
        ("[reactors]\ncores = \"x\"\n", "reactors.cores `x`"),
    ] {
        std::fs::write(&file, text).expect("written");
        let check = command().arg("--check-config").arg("--config").arg(&file).output().expect("runs");
        let stderr = String::from_utf8_lossy(&check.stderr).into_owned();
        assert_eq!(check.status.code(), Some(78), "{text}: {stderr}");
        assert!(stderr.contains(part), "{text}: {stderr}");
    }
}

#[test]
fn preflight_names_what_is_missing_and_how_to_mend_it() {
    let good = command().args(["--preflight", "--cores", "0"]).output().expect("runs");
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stdout));
    let bad = command().args(["--preflight", "--cores", "4000"]).output().expect("runs");
    let stdout = String::from_utf8_lossy(&bad.stdout).into_owned();
    assert_eq!(bad.status.code(), Some(78));
    assert!(stdout.contains("core 4000") && stdout.contains("fix:"), "{stdout}");
}

#[test]
fn a_log_that_is_no_terminal_has_no_colours() {
    let log = Daemon::start(&[]).stop_and_read_log();
    assert!(log.iter().any(|line| line.contains("stopped")), "{log:#?}");
    assert!(!log.iter().any(|line| line.contains('\u{1b}')), "{log:#?}");
}

#[test]
fn logs_are_json_when_asked_for() {
    let folder = tempfile::tempdir().expect("folder");
    let daemon = Daemon::start_in(folder, &["--log-format", "json"]);
    daemon.signal("TERM");
    daemon.wait_for_line("\"message\":\"stopped\"");
}

#[test]
fn a_machine_without_rdma_is_told_so_and_serves_on() {
    let daemon = Daemon::start(&[]);
    let created = daemon.call("nvmf_create_transport", json!({"trtype": "RDMA"}));
    match created {
        // It has what is needed.
        Ok(answer) => assert_eq!(answer, json!(true)),
        Err((_, said)) => {
            assert!(said.contains("RDMA is not available"), "{said}");
            let listed = daemon.call("nvmf_get_transports", json!({})).expect("an answer");
            assert_eq!(listed, json!([]), "a transport that is not there");
        }
    }
    assert_eq!(daemon.call("nvmf_create_transport", json!({"trtype": "TCP"})), Ok(json!(true)));
}
