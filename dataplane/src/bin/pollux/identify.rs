//! `pollux identify`: a controller and its namespaces, by the field names of the specification.

use std::io::Write;

use nvme::identify::{IdentifyController, IdentifyNamespace};
use serde_json::{Map, Value, json};

use crate::Failure;
use crate::args::IdentifyArgs;
use crate::connect::Session;
use crate::size::ByteCount;

/// Prints Identify data. Text comes from a peer: what would move a terminal's cursor is escaped.
pub(crate) fn run(args: &IdentifyArgs) -> Result<(), Failure> {
    let mut session = Session::open(&args.connect, &args.subnqn)?;
    let fields = match args.nsid {
        Some(nsid) => {
            session.namespace(nsid)?;
            namespace(&session.identify_namespace(nsid)?)
        }
        None => {
            let mut fields = controller(session.controller()?);
            let nsids: Vec<u32> = session.active_namespaces()?.iter().map(|nsid| nsid.get()).collect();
            fields.insert("namespaces".to_owned(), json!(nsids));
            fields
        }
    };
    let mut out = std::io::stdout().lock();
    if args.json {
        writeln!(out, "{}", Value::Object(fields))?;
        return Ok(());
    }
    for (name, value) in &fields {
        match value {
            Value::String(text) if !text.contains(char::is_control) => writeln!(out, "{name:<10}: {text}")?,
            other => writeln!(out, "{name:<10}: {other}")?,
        }
    }
    Ok(())
}

fn object(fields: Value) -> Map<String, Value> {
    match fields {
        Value::Object(map) => map,
        _ => unreachable!("written as an object"),
    }
}

fn controller(id: &IdentifyController) -> Map<String, Value> {
    let version = id.ver.get();
    object(json!({
        "subnqn": id.subnqn.to_str(),
        "sn": id.sn.to_str(),
        "mn": id.mn.to_str(),
        "fr": id.fr.to_str(),
        "cntlid": id.cntlid.get(),
        "ver": format!("{}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff),
        "cntrltype": id.cntrltype,
        "mdts": id.mdts,
        "cmic": id.cmic,
        "oaes": id.oaes.get(),
        "ctratt": id.ctratt.get(),
        "oacs": id.oacs.get(),
        "acl": id.acl,
        "aerl": id.aerl,
        "lpa": id.lpa,
        "elpe": id.elpe,
        "kas": id.kas.get(),
        "anatt": id.anatt,
        "anacap": id.anacap,
        "anagrpmax": id.anagrpmax.get(),
        "nanagrpid": id.nanagrpid.get(),
        "maxcmd": id.maxcmd.get(),
        "nn": id.nn.get(),
        "mnan": id.mnan.get(),
        "oncs": id.oncs.get(),
        "fuses": id.fuses.get(),
        "vwc": id.vwc,
        "awun": id.awun.get(),
        "awupf": id.awupf.get(),
        "acwu": id.acwu.get(),
        "sgls": id.sgls.get(),
        "ioccsz": id.ioccsz.get(),
        "iorcsz": id.iorcsz.get(),
        "icdoff": id.icdoff.get(),
        "msdbd": id.msdbd,
        "fcatt": id.fcatt,
        "ofcs": id.ofcs.get(),
    }))
}

fn namespace(id: &IdentifyNamespace) -> Map<String, Value> {
    let block_bytes = id.block_bytes().unwrap_or_default();
    let capacity = ByteCount(id.nsze.get().saturating_mul(u64::from(block_bytes)));
    object(json!({
        "nsze": id.nsze.get(),
        "ncap": id.ncap.get(),
        "nuse": id.nuse.get(),
        "capacity": capacity.to_string(),
        "block_size": block_bytes,
        "nsfeat": id.nsfeat,
        "nlbaf": id.nlbaf,
        "flbas": id.flbas,
        "nmic": id.nmic,
        "rescap": id.rescap,
        "dlfeat": id.dlfeat,
        "nawun": id.nawun.get(),
        "nawupf": id.nawupf.get(),
        "nacwu": id.nacwu.get(),
        "nabsn": id.nabsn.get(),
        "nabo": id.nabo.get(),
        "nabspf": id.nabspf.get(),
        "noiob": id.noiob.get(),
        "anagrpid": id.anagrpid.get(),
        "nguid": hex(&id.nguid),
        "eui64": hex(&id.eui64),
    }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
