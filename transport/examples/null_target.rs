//! A target on one core that answers every read and write at once: what the driver and the protocol cost by themselves.
//!
//! `null_target [ADDRESS] [CORE] [SECONDS]`; any subsystem name connects. Prints what the driver counted at the end.
#![allow(missing_docs, dead_code, clippy::unwrap_used, reason = "a measuring tool")]

#[path = "../tests/ram/mod.rs"]
mod ram;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use fabrics::tcp::target::TargetParams;
use ram::{Mode, RamService};
use reactors::{CoreId, Reactors, ReactorsConfig};
use transport::TransportId;
use transport::tcp::target::{Acceptor, TcpTarget, TcpTargetPoller};

fn main() {
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or_else(|| "127.0.0.1:4420".into()).parse().unwrap();
    let core = CoreId(args.next().map_or(0, |text| text.parse().unwrap()));
    let seconds = args.next().map_or(3600, |text| text.parse().unwrap());
    let reactors =
        Reactors::start(ReactorsConfig { cores: vec![core], ..ReactorsConfig::default() }).unwrap();
    let target = TcpTarget::new(TransportId(0), 4096, TargetParams::default()).unwrap();
    let shared = Arc::clone(&target);
    let reply = reactors.handle(0).call(move |context| {
        let local = context.local().clone();
        let service = Rc::new(RefCell::new(RamService::new(local.pool().clone(), 0, Mode::Null)));
        let driver = TcpTargetPoller::new(&shared, &local, service).unwrap();
        context.add_poller(Box::new(driver)).unwrap();
        context.add_poller(Box::new(Acceptor::new(&shared))).unwrap();
    });
    reply.unwrap().wait().unwrap();
    let (_, bound) = target.listen(address).unwrap();
    println!("listening on {bound}");
    // Serving is the reactors' work; this thread only ends it.
    std::thread::sleep(Duration::from_secs(seconds));
    println!("{:#?}", target.reactor_stats());
    println!("{:#?}", reactors.metrics());
    reactors.shutdown();
    for outcome in reactors.join() {
        println!("{outcome:?}");
    }
}
