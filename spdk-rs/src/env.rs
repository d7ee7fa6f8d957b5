//! The process-wide environment: memory that devices can access, PCI, DPDK's threads.

use std::ffi::{CString, c_int};
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::EnvError;
use crate::{PciAddress, sys};

/// Where SPDK takes the memory of its own queues and buffers from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Memory {
    /// Huge pages, as they are needed. No file system has to be mounted.
    #[default]
    HugePages,
    /// So many MiB of ordinary memory, taken now. No PCI device can be used; fabrics can.
    Ordinary {
        /// How much.
        mib: u32,
    },
}

/// How the environment is set up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EnvOptions {
    /// What DPDK calls the process.
    pub name: String,
    /// See [`Memory`].
    pub memory: Memory,
    /// The only PCI devices that may be attached; `None` means all.
    pub allowed: Option<Vec<PciAddress>>,
    /// Lets SPDK and DPDK say more than warnings on standard error.
    pub verbose: bool,
}

impl Default for EnvOptions {
    fn default() -> Self {
        Self { name: "spdk-rs".into(), memory: Memory::default(), allowed: None, verbose: false }
    }
}

/// The environment is set up. Clones are the same.
#[derive(Clone)]
pub struct Environment {
    options: Arc<EnvOptions>,
}

/// `None` before the first try. DPDK cannot be set up twice, so that a failure stays one.
static ENVIRONMENT: Mutex<Option<(EnvOptions, Result<Environment, EnvError>)>> = Mutex::new(None);

impl Environment {
    /// Sets up the environment, or gives the one there is. It may take a second; the calling thread's core is not changed.
    pub fn init(options: &EnvOptions) -> Result<Self, EnvError> {
        let mut environment = ENVIRONMENT.lock().unwrap_or_else(PoisonError::into_inner);
        match &*environment {
            Some((made_with, result)) if made_with == options => result.clone(),
            Some(_) => Err(EnvError::Differs),
            None => {
                let result = in_a_thread(options).map(|()| Self { options: Arc::new(options.clone()) });
                *environment = Some((options.clone(), result.clone()));
                result
            }
        }
    }

    /// Whether the allow-list has the device, or there is none.
    pub fn allows(&self, address: PciAddress) -> bool {
        self.options.allowed.as_ref().is_none_or(|allowed| allowed.contains(&address))
    }
}

/// DPDK pins the thread that sets it up to a core, and takes it for its own: that thread is not the caller's.
fn in_a_thread(options: &EnvOptions) -> Result<(), EnvError> {
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("spdk-init".into());
        let running = thread.spawn_scoped(scope, || set_up(options));
        running.map(|thread| thread.join())
    });
    match result {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(EnvError::Thread("it panicked".into())),
        Err(error) => Err(EnvError::Thread(error.to_string())),
    }
}

fn set_up(options: &EnvOptions) -> Result<(), EnvError> {
    let level = if options.verbose { sys::SPDK_LOG_INFO } else { sys::SPDK_LOG_WARN };
    // SAFETY: sets a variable of SPDK's, before anything of it runs.
    unsafe { sys::spdk_log_set_print_level(level) };
    match options.memory {
        Memory::HugePages => with_huge_pages(options),
        Memory::Ordinary { mib } => with_ordinary_memory(options, mib),
    }
}

fn text(text: &str) -> Result<CString, EnvError> {
    CString::new(text).map_err(|_| EnvError::ZeroByte(text.into()))
}

fn defaults() -> sys::spdk_env_opts {
    let mut raw = sys::spdk_env_opts::default();
    #[cfg(spdk_env_opts_size)]
    {
        raw.opts_size = size_of::<sys::spdk_env_opts>();
    }
    // SAFETY: fills a structure of ours of the release's own layout.
    unsafe { sys::spdk_env_opts_init(&raw mut raw) };
    raw
}

/// Huge pages by file descriptors without names: nothing is left behind by a process that is killed.
fn with_huge_pages(options: &EnvOptions) -> Result<(), EnvError> {
    let (name, core) = (text(&options.name)?, text(&format!("[{}]", first_core()))?);
    let context = text("--in-memory")?;
    let mut raw = defaults();
    raw.name = name.as_ptr();
    raw.core_mask = core.as_ptr();
    raw.env_context = context.as_ptr().cast_mut().cast();
    // SAFETY: the texts live until the call is over; SPDK copies them.
    let result = unsafe { sys::spdk_env_init(&raw const raw) };
    check("spdk_env_init", result)
}

#[cfg(spdk_env_no_huge)]
fn with_ordinary_memory(options: &EnvOptions, mib: u32) -> Result<(), EnvError> {
    let (name, core) = (text(&options.name)?, text(&format!("[{}]", first_core()))?);
    let mut raw = defaults();
    raw.name = name.as_ptr();
    raw.core_mask = core.as_ptr();
    raw.no_pci = true;
    raw.no_huge = true;
    raw.mem_size = c_int::try_from(mib).unwrap_or(c_int::MAX);
    let iova = text("va")?;
    raw.iova_mode = iova.as_ptr();
    // SAFETY: the texts live until the call is over; SPDK copies them.
    let result = unsafe { sys::spdk_env_init(&raw const raw) };
    check("spdk_env_init", result)
}

/// This release knows no environment without huge pages; DPDK does.
#[cfg(not(spdk_env_no_huge))]
fn with_ordinary_memory(options: &EnvOptions, mib: u32) -> Result<(), EnvError> {
    let core = first_core().to_string();
    let (mib, prefix) = (mib.to_string(), format!("--file-prefix=spdk-rs{}", std::process::id()));
    let words = [
        &options.name,
        "-l",
        &core,
        "-m",
        &mib,
        "--no-huge",
        "--legacy-mem",
        "--iova-mode=va",
        "--no-pci",
        "--no-shconf",
        "--no-telemetry",
        "--log-level=lib.eal:4",
        &prefix,
    ];
    let words = words.into_iter().map(text).collect::<Result<Vec<_>, _>>()?;
    let mut pointers: Vec<*mut std::ffi::c_char> =
        words.iter().map(|word| word.as_ptr().cast_mut()).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(c_int::MAX);
    // SAFETY: `count` pointers to texts that live until the call is over; DPDK reorders the pointers and copies the texts.
    let result = unsafe { sys::rte_eal_init(count, pointers.as_mut_ptr()) };
    check("rte_eal_init", result.min(0))?;
    // DPDK's options are texts that it keeps pointers to.
    words.into_iter().for_each(std::mem::forget);
    // SAFETY: DPDK is set up, with the memory that `true` says.
    check("spdk_env_dpdk_post_init", unsafe { sys::spdk_env_dpdk_post_init(true) })
}

fn check(step: &'static str, result: c_int) -> Result<(), EnvError> {
    if result == 0 { Ok(()) } else { Err(EnvError::Init { step, errno: result }) }
}

/// The first core that this process may use: containers and `taskset` leave out others.
fn first_core() -> usize {
    let mut cores = std::mem::MaybeUninit::<libc::cpu_set_t>::zeroed();
    // SAFETY: the kernel writes at most `size_of::<cpu_set_t>()` bytes to memory of that size.
    let result = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), cores.as_mut_ptr()) };
    if result != 0 {
        return 0;
    }
    // SAFETY: zeroed, then filled by the kernel; every pattern of bits is a set.
    let cores = unsafe { cores.assume_init() };
    let limit = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: `core` is below the number of cores that the set has bits for.
    (0..limit).find(|core| unsafe { libc::CPU_ISSET(*core, &cores) }).unwrap_or(0)
}
