//! `pollux discover`: the discovery log, as a table or in nvme-cli's JSON.

use std::io::Write;

use nvme::discovery::{AddressFamily, DiscoveryEntry, SubsystemType};
use serde_json::{Value, json};

use crate::Failure;
use crate::args::DiscoverArgs;
use crate::connect::Session;

/// Prints every record of the log.
pub(crate) fn run(args: &DiscoverArgs) -> Result<(), Failure> {
    let mut session = Session::open(&args.connect, &nvme::Nqn::discovery())?;
    let (generation, entries) = session
        .host()
        .discover(0)
        .map_err(|error| Failure::Failed(format!("cannot read the log: {error}")))?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let records: Vec<Value> = entries.iter().map(record_json).collect();
        writeln!(out, "{}", json!({"genctr": generation, "records": records}))?;
        return Ok(());
    }
    writeln!(out, "{} records, generation {generation}", entries.len())?;
    if !entries.is_empty() {
        writeln!(
            out,
            "{:<8} {:<6} {:<24} {:<6} {:<28} SUBNQN",
            "TRTYPE", "ADRFAM", "TRADDR", "TRSVC", "SUBTYPE"
        )?;
    }
    for entry in &entries {
        writeln!(
            out,
            "{:<8} {:<6} {:<24} {:<6} {:<28} {}",
            transport(entry),
            family(entry),
            text(entry.traddr.to_str()),
            text(entry.trsvcid.to_str()),
            subtype(entry),
            text(entry.subnqn.to_str()),
        )?;
    }
    Ok(())
}

fn record_json(entry: &DiscoveryEntry) -> Value {
    json!({
        "trtype": transport(entry),
        "adrfam": family(entry),
        "subtype": subtype(entry),
        "treq": entry.treq,
        "portid": entry.portid.get(),
        "cntlid": entry.cntlid.get(),
        "trsvcid": text(entry.trsvcid.to_str()),
        "subnqn": text(entry.subnqn.to_str()),
        "traddr": text(entry.traddr.to_str()),
    })
}

fn transport(entry: &DiscoveryEntry) -> String {
    entry.trtype().to_string().to_ascii_lowercase()
}

fn family(entry: &DiscoveryEntry) -> String {
    AddressFamily(entry.adrfam).to_string().to_ascii_lowercase()
}

fn subtype(entry: &DiscoveryEntry) -> &'static str {
    match entry.subtype() {
        SubsystemType::REFERRAL => "discovery subsystem referral",
        SubsystemType::NVM => "nvme subsystem",
        SubsystemType::CURRENT_DISCOVERY => "current discovery subsystem",
        _ => "unknown",
    }
}

/// Records come from a peer: what is not text, or would move a terminal's cursor, is shown as such.
fn text(field: Option<&str>) -> &str {
    field.filter(|text| !text.contains(char::is_control)).unwrap_or("<not text>")
}
