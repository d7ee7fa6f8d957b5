//! What the kernel tells about threads and cores.

/// Time that a core spent, in clock ticks of the kernel (`/proc/stat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct CoreTicks {
    pub(super) user: u64,
    pub(super) system: u64,
    pub(super) irq: u64,
}

/// The kernel's number of this process's thread of that name; 0 when there is none.
pub(super) fn thread_id(name: &str) -> u64 {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return 0 };
    threads
        .flatten()
        .find(|thread| {
            std::fs::read_to_string(thread.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        })
        .and_then(|thread| thread.file_name().to_str()?.parse().ok())
        .unwrap_or(0)
}

/// What a core did since the machine started.
pub(super) fn core_ticks(core: u16) -> CoreTicks {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    parse_ticks(&text, core).unwrap_or_default()
}

fn parse_ticks(text: &str, core: u16) -> Option<CoreTicks> {
    let label = format!("cpu{core} ");
    let line = text.lines().find_map(|line| line.strip_prefix(&label))?;
    let fields: Vec<u64> = line.split_ascii_whitespace().map_while(|field| field.parse().ok()).collect();
    Some(CoreTicks { user: *fields.first()?, system: *fields.get(2)?, irq: *fields.get(5)? })
}

/// A mask with one core, in hexadecimal.
pub(super) fn core_mask(core: u16) -> String {
    let digit = 1 << (core % 4);
    format!("{digit:x}{}", "0".repeat(usize::from(core / 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_have_the_bit_of_their_core() {
        assert_eq!([0, 1, 3, 4, 9].map(core_mask), ["1", "2", "8", "10", "200"]);
    }

    #[test]
    fn ticks_are_found_by_core() {
        let text = "cpu  9 9 9 9 9 9\ncpu1 1 2 3 4 5 6 7\ncpu12 21 22 23 24 25 26 27\n";
        assert_eq!(parse_ticks(text, 12), Some(CoreTicks { user: 21, system: 23, irq: 26 }));
        assert_eq!(parse_ticks(text, 2), None);
        assert!(core_ticks(0).user > 0);
    }

    #[test]
    fn a_thread_is_found_by_its_name() {
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let (started, start) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("found-by-name".to_owned()).spawn(move || {
            started.send(()).expect("waited for");
            let _ = end.recv();
        });
        start.recv().expect("started");
        assert_ne!(thread_id("found-by-name"), 0);
        drop(ended);
        thread.expect("spawned").join().expect("ended");
        assert_eq!(thread_id("found-by-name"), 0);
    }
}
