//! The reference pages say what the program does: they are written from its declarations.
//!
//! `POLLUX_UPDATE_DOCS=1 cargo test -p pollux-dataplane --test docs` writes them.

use std::path::Path;

fn compare(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
    if std::env::var_os("POLLUX_UPDATE_DOCS").is_some() {
        std::fs::write(&path, text).expect("written");
    }
    let page = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(page == text, "docs/{name} is out of date: run with POLLUX_UPDATE_DOCS=1");
}

#[test]
fn the_rpc_reference_is_that_of_the_method_table() {
    compare("rpc.md", &dataplane::rpc::reference());
}

#[test]
fn the_configuration_reference_is_that_of_the_types() {
    compare("configuration.md", &dataplane::config::reference());
}

#[test]
fn the_metrics_reference_is_that_of_their_list() {
    compare("metrics.md", &dataplane::metrics::reference());
}

#[test]
fn the_example_in_the_configuration_reference_is_accepted() {
    let page = dataplane::config::reference();
    let example = page.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let config = dataplane::config::Config::parse(Path::new("example"), example).expect("accepted");
    for call in config.calls().expect("consistent") {
        dataplane::rpc::check_call(call.method, call.params).expect(&call.what);
    }
}
